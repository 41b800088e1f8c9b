"""Backbones against Hugging Face's transformers, which reads what we write."""

import json
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import unflatten_dict

from ddad_jax import models, pretrained
from ddad_jax.errors import UserError
from ddad_jax.models.vision_towers import CLIP, SigLIP2
from ddad_jax.models.vision_transformer import interpolate_positions
from ddad_jax.pretrained.names import table
from tests.models.seeded import drawn

LARGE = pytest.mark.slow
BASE = {"hidden_size": 768, "num_attention_heads": 12}
LARGEST = {"hidden_size": 1024, "num_attention_heads": 16, "num_hidden_layers": 24}
SMALL = {"hidden_size": 384, "num_attention_heads": 6}
# The config.json of the published files, as far as it differs from the classes' defaults.
DINOV2 = {"architectures": ["Dinov2Model"], "model_type": "dinov2", "image_size": 518} | {
    "patch_size": 14
}
REGISTERS = {
    "architectures": ["Dinov2WithRegistersModel"],
    "model_type": "dinov2_with_registers",
    "image_size": 518,
    "patch_size": 14,
    "num_register_tokens": 4,
}
DINOV3 = {
    "architectures": ["DINOv3ViTModel"],
    "model_type": "dinov3_vit",
    "num_register_tokens": 4,
    "intermediate_size": 1536,
}
CONVNEXT = {"architectures": ["DINOv3ConvNextModel"], "model_type": "dinov3_convnext"}
IMAGENET_CONVNEXT = {"architectures": ["ConvNextModel"], "model_type": "convnext"}
OF_IMAGENET = {"architectures": ["EfficientNetForImageClassification"]} | {
    "model_type": "efficientnet",
    "num_labels": 1000,
}


def scaled(width, depth, hidden):
    return OF_IMAGENET | {
        "width_coefficient": width, "depth_coefficient": depth, "hidden_dim": hidden
    }  # fmt: skip


OF_CLIP = {"architectures": ["CLIPVisionModel"], "model_type": "clip_vision_model"} | BASE | {
    "image_size": 224, "patch_size": 16, "intermediate_size": 3072
}  # fmt: skip
OF_SIGLIP = {"architectures": ["SiglipVisionModel"], "model_type": "siglip_vision_model"} | BASE | {
    "image_size": 256, "patch_size": 16, "intermediate_size": 3072, "vision_use_head": False
}  # fmt: skip
REFERENCES = {
    "dinov2_small": DINOV2 | SMALL,
    "dinov2_base": DINOV2 | BASE,
    "dinov2_large": DINOV2 | LARGEST,
    "dinov2_small_registers": REGISTERS | SMALL,
    "dinov2_base_registers": REGISTERS | BASE,
    "dinov2_large_registers": REGISTERS | LARGEST,
    "dinov3_small": DINOV3,
    "dinov3_small_plus": DINOV3 | {"use_gated_mlp": True, "hidden_act": "silu"},
    "dinov3_base": DINOV3 | BASE | {"intermediate_size": 3072},
    "dinov3_large": DINOV3 | LARGEST | {"intermediate_size": 4096},
    "dinov3_convnext_tiny": CONVNEXT,
    "dinov3_convnext_small": CONVNEXT | {"depths": [3, 3, 27, 3]},
    "convnext_tiny": IMAGENET_CONVNEXT,
    "convnext_small": IMAGENET_CONVNEXT | {"depths": [3, 3, 27, 3]},
    "efficientnet_b0": scaled(1.0, 1.0, 1280),
    "efficientnet_b1": scaled(1.0, 1.1, 1280),
    "efficientnet_b2": scaled(1.1, 1.2, 1408),
    "efficientnet_b3": scaled(1.2, 1.4, 1536),
    "efficientnet_b4": scaled(1.4, 1.8, 1792),
    "clip_base": OF_CLIP,
    "clip_large": OF_CLIP | LARGEST | {"patch_size": 14, "intermediate_size": 4096},
    "siglip2_base": OF_SIGLIP,
    "siglip2_large": OF_SIGLIP | LARGEST | {"intermediate_size": 4096},
}
INTERPOLATED = {"interpolate_pos_encoding": True}
QUICK = ("dinov2_small_registers", "dinov3_small_plus", "dinov3_convnext_tiny", "efficientnet_b0")


@pytest.fixture(scope="session")
def drawn_variables():
    """Function: network -> seeded variables."""

    def draw(network):
        flat = {entry.path: jnp.asarray(drawn(entry)) for entry in table(network)}
        return unflatten_dict(flat)

    return draw


@pytest.fixture
def reference(tmp_path, monkeypatch):
    """Function: name, network, variables -> transformers' model, from files that we wrote."""
    monkeypatch.setitem(os.environ, "HF_HUB_OFFLINE", "1")
    import transformers

    def load(name, network, variables):
        config = REFERENCES[name]
        pretrained.save(variables, network, tmp_path / "model.safetensors")
        (tmp_path / "config.json").write_text(json.dumps(config))
        kind = getattr(transformers, config["architectures"][0])
        model, info = kind.from_pretrained(tmp_path, output_loading_info=True)
        assert not any(info[problem] for problem in info), info
        return model.eval()

    return load


def stages_of(model, images, ends):
    """What transformers' model gives after some blocks, or last at each stride, as ours is."""
    import torch

    with torch.no_grad():
        pixels = torch.tensor(np.moveaxis(images, -1, 1))
        grids = ("clip_vision_model", "siglip_vision_model")
        other_grid = INTERPOLATED if model.config.model_type in grids else {}
        hidden = model(pixels, output_hidden_states=True, **other_grid).hidden_states
        if hidden[0].ndim == 4:
            last = {images.shape[1] // each.shape[2]: each for each in hidden}
            return [np.moveaxis(last[stride].numpy(), 1, -1) for stride in (4, 8, 16)]
        norms = ("norm", "layernorm", "post_layernorm")
        norm = next(getattr(model, name) for name in norms if hasattr(model, name))
        patch = model.config.patch_size
        rows, columns = (side // patch for side in images.shape[1:3])
        grids = [norm(hidden[end])[:, -rows * columns :].numpy() for end in ends]
        return [grid.reshape(len(images), rows, columns, -1) for grid in grids]


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=LARGE) for name in REFERENCES]
)
def test_stages_agree_with_transformers(name, drawn_variables, reference, apply, relative_error):
    network = models.build_extractor(name)
    variables = drawn_variables(network)
    model = reference(name, network, variables)
    # Sides of other grids than were trained on; patches of 14 do not divide them.
    shape = (1, 100, 120, 3) if network.multiple == 14 else (1, 96, 128, 3)
    images = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    with jax.default_matmul_precision("highest"):
        ours = apply(network, variables, jnp.asarray(images))
    theirs = stages_of(model, images, getattr(network, "ends", None))
    assert len(ours) == 3
    for stage, expected in zip(ours, theirs, strict=True):
        assert relative_error(stage, expected) < 1e-4


def small(**settings):
    return models.build_extractor(
        "dinov2_small", width=32, depth=6, heads=2, hidden=64, grid=3, **settings
    )


@pytest.mark.slow
def test_a_stage_may_be_the_mean_of_its_blocks(drawn_variables, apply):
    variables = drawn_variables(small())
    images = jnp.asarray(np.random.default_rng(0).standard_normal((2, 42, 42, 3)), jnp.float32)
    after = [apply(small(stages=(n, 5, 6)), variables, images)[0] for n in (1, 2, 3, 4)]
    averaged = apply(small(stages=(2, 4, 6), averaged=True), variables, images)
    np.testing.assert_allclose(averaged[0], (after[0] + after[1]) / 2, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(averaged[1], (after[2] + after[3]) / 2, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("stages", [(1, 2), (2, 1, 3), (1, 2, 7)])
def test_stages_that_cannot_be_are_refused(stages):
    with pytest.raises(UserError, match="extractor.network.stages: .* three of 6 blocks"):
        models.abstract_variables(small(stages=stages))


@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize("grid", [(7, 5), (23, 40)])
def test_positions_are_interpolated_as_pytorch_does(antialias, grid):
    import torch

    positions = np.random.default_rng(0).standard_normal((16, 16, 4)).astype(np.float32)
    expected = torch.nn.functional.interpolate(
        torch.tensor(np.moveaxis(positions, -1, 0))[None], size=grid, mode="bicubic",
        align_corners=False, antialias=antialias,
    )[0].numpy()  # fmt: skip
    ours = interpolate_positions(jnp.asarray(positions), *grid, antialias=antialias)
    np.testing.assert_allclose(np.moveaxis(ours, -1, 0), expected, atol=1e-5)


@pytest.mark.parametrize("tower", [CLIP, SigLIP2])
def test_a_tower_is_read_from_a_file_that_holds_the_text_transformer_too(tower, tmp_path, apply):
    import torch
    from transformers import CLIPConfig, CLIPModel, SiglipConfig, SiglipModel

    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3}
    vision = shape | {"num_attention_heads": 2, "image_size": 48, "patch_size": 16}
    text = shape | {"num_attention_heads": 2, "vocab_size": 99}
    kinds = (CLIPModel, CLIPConfig) if tower is CLIP else (SiglipModel, SiglipConfig)
    torch.manual_seed(0)
    whole = kinds[0](kinds[1](vision_config=vision, text_config=text)).eval()
    whole.save_pretrained(tmp_path)

    network = tower(width=32, depth=3, heads=2, hidden=64, grid=3)
    variables = pretrained.load(str(tmp_path / "model.safetensors"), network)
    images = np.random.default_rng(0).standard_normal((1, 48, 48, 3)).astype(np.float32)
    ours = apply(network, variables, jnp.asarray(images))
    theirs = stages_of(whole.vision_model, images, (1, 2, 3))
    for stage, expected in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(stage, expected, atol=1e-4)


def test_clip_sees_images_as_its_processor_makes_them():
    from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

    images = np.random.default_rng(0).uniform(0, 1, (1, 4, 4, 3)).astype(np.float32)
    given = jnp.asarray(2 * images - 1)
    ours = models.build_extractor("clip_base").normalise(given)
    expected = (images - OPENAI_CLIP_MEAN) / OPENAI_CLIP_STD
    np.testing.assert_allclose(ours, expected, atol=1e-5)
    np.testing.assert_array_equal(models.build_extractor("siglip2_base").normalise(given), given)
