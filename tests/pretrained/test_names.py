import numpy as np
import pytest

from ddad_jax import models
from ddad_jax.errors import UserError
from ddad_jax.models import EfficientNetLite, TinyAutoencoder, UNet
from ddad_jax.pretrained.names import from_state_dict, table, to_state_dict

NAMES = (
    "unet", "autoencoder_kl", "resnet", "resnet_bottleneck", "efficientnet_lite", "dinov2",
    "dinov2_registers", "dinov3", "dinov3_convnext", "taesd", "taef2",
)  # fmt: skip
PUBLISHED = {
    "unet_d3ad": lambda: UNet(),
    "unet_ddad": lambda: UNet(
        sample_size=256,
        in_channels=3,
        out_channels=3,
        base_channels=64,
        channel_multipliers=(1, 1, 2, 2, 4, 4),
        attention_resolutions=(32, 16, 8),
        num_heads=4,
    ),
    "vae_sd": lambda: models.build_autoencoder("kl"),
    "resnet34": lambda: models.build_extractor("resnet34"),
    "resnet50": lambda: models.build_extractor("resnet50"),
    "wide_resnet101_2": lambda: models.build_extractor("wide_resnet101_2"),
    "efficientnet_lite0": lambda: EfficientNetLite(),
}


@pytest.mark.parametrize("name", NAMES)
def test_there_and_back_to_the_bit(name, small_networks, seeded, same_state_dict):
    network = small_networks[name]
    state_dict = seeded(network)
    variables = from_state_dict(state_dict, network, name)
    same_state_dict(to_state_dict(variables, network), state_dict)


@pytest.mark.slow
@pytest.mark.parametrize("name", PUBLISHED)
def test_published_networks_there_and_back(name, golden_weights, same_state_dict):
    network, state_dict = PUBLISHED[name](), golden_weights(name)
    back = to_state_dict(from_state_dict(state_dict, network, name), network)
    same_state_dict(back, state_dict)


def test_both_halves_of_the_flux_autoencoder(golden_weights, same_state_dict):
    network = models.build_autoencoder("taef2")
    state_dict = {
        f"{half}.{key}": value
        for half in ("encoder", "decoder")
        for key, value in golden_weights(f"taef2_{half}").items()
    }
    variables = from_state_dict(state_dict, network, "taef2")
    same_state_dict(to_state_dict(variables, network), state_dict)


@pytest.mark.parametrize("name", NAMES)
def test_no_two_variables_share_a_key(name, small_networks):
    keys = [entry.key for entry in table(small_networks[name])]
    assert len(keys) == len(set(keys))


def test_data_parallel_prefix_is_dropped(small_networks, seeded, same_state_dict):
    network = small_networks["unet"]
    state_dict = seeded(network)
    wrapped = {f"module.{key}": value for key, value in state_dict.items()}
    variables = from_state_dict(wrapped, network, "official")
    same_state_dict(to_state_dict(variables, network), state_dict)


def test_old_attention_names_of_diffusers(small_networks, seeded, same_state_dict):
    network = small_networks["autoencoder_kl"]
    state_dict = seeded(network)
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}

    def renamed(key):
        for new, name in old.items():
            key = key.replace(f".attentions.0.{new}.", f".attentions.0.{name}.")
        return key

    published = {renamed(key): value for key, value in state_dict.items()}
    assert published.keys() != state_dict.keys()
    variables = from_state_dict(published, network, "vae")
    same_state_dict(to_state_dict(variables, network), state_dict)


def test_batches_may_be_uncounted(small_networks, seeded):
    network = small_networks["resnet"]
    state_dict = seeded(network)
    del state_dict["bn1.num_batches_tracked"]
    variables = from_state_dict(state_dict, network, "old")
    assert to_state_dict(variables, network)["bn1.num_batches_tracked"] == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.pop("encoder.0.weight"), r"key 'encoder.0.weight' is missing; expected"),
        (lambda d: d.clear(), r"is missing \(and \d+ more\)"),
        (lambda d: d.update({"encoder.0.gain": np.ones(1)}), "key 'encoder.0.gain' is surplus;"),
        (
            lambda d: d.update({"encoder.0.weight": np.ones((8, 3, 1, 1))}),
            r"key 'encoder.0.weight' has shape \(8, 3, 1, 1\), expected \(8, 3, 3, 3\)",
        ),
        (
            lambda d: d.update({"encoder.0.bias": np.full(8, np.nan)}),
            "key 'encoder.0.bias' holds values that are not finite",
        ),
        (
            lambda d: d.update({"encoder.0.bias": np.full(8, 1e300)}),
            "key 'encoder.0.bias' holds values that are not finite",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:overflow encountered in cast")
def test_what_does_not_fit_is_named(change, message, seeded):
    network = TinyAutoencoder(width=8, blocks=(1, 1))
    state_dict = seeded(network)
    change(state_dict)
    with pytest.raises(UserError, match=message):
        from_state_dict(state_dict, network, "weights 'mine.pth'")
