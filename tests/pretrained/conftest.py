import numpy as np
import pytest

from ddad_jax.models import AutoencoderKL, EfficientNetLite, ResNet, TinyAutoencoder, UNet
from ddad_jax.models.dinov2 import DINOv2
from ddad_jax.models.dinov3 import DINOv3
from ddad_jax.models.dinov3_convnext import DINOv3ConvNeXt
from ddad_jax.pretrained.names import OWN_NAMES, table


@pytest.fixture(scope="session")
def small_networks():
    """One small network of every family."""
    return {
        "unet": UNet(
            sample_size=8,
            base_channels=32,
            channel_multipliers=(1, 2),
            num_res_blocks=1,
            attention_resolutions=(4,),
            num_heads=2,
        ),
        "autoencoder_kl": AutoencoderKL(channels=(32, 64), layers_per_block=1),
        "resnet": ResNet(repeats=(1, 1, 1, 1)),
        "resnet_bottleneck": ResNet(repeats=(1, 1, 1, 1), bottleneck=True),
        "efficientnet_lite": EfficientNetLite(),
        "dinov2": DINOv2(width=32, depth=3, heads=2, hidden=64, grid=3),
        "dinov2_registers": DINOv2(width=32, depth=3, heads=2, hidden=64, grid=3, registers=4),
        "dinov3": DINOv3(width=32, depth=3, heads=2, hidden=64, gated=True),
        "dinov3_convnext": DINOv3ConvNeXt(repeats=(1, 1, 1, 1)),
        "taesd": TinyAutoencoder(width=8, blocks=(1, 1)),
        "taef2": TinyAutoencoder(width=32, blocks=(1, 1), normalised=True),
    }


@pytest.fixture(scope="session")
def seeded():
    """Function: network -> a state dict with the keys and shapes of PyTorch, drawn values."""

    def draw(network):
        rng = np.random.default_rng(0)
        state_dict = {}
        for entry in table(network):
            shape = entry.shape
            if len(shape) >= 2 and entry.path[-1] not in OWN_NAMES:
                shape = (shape[-1], shape[-2], *shape[:-2])
            if entry.path[-1] == "count":
                state_dict[entry.key] = np.array(7, np.int64)
            else:
                state_dict[entry.key] = rng.standard_normal(shape, np.float32)
        return state_dict

    return draw


def assert_same_state_dict(found, expected):
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        array = np.asarray(found[key])
        assert array.dtype == value.dtype, key
        np.testing.assert_array_equal(array, value, err_msg=key)


@pytest.fixture(scope="session")
def same_state_dict():
    """Function that fails where two state dicts differ by a key, a type or a bit."""
    return assert_same_state_dict
