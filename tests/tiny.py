"""The least config that a command is run with, and the weights that it names."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from safetensors.numpy import save_file

from ddad_jax.data.synthetic import synthetic_source, write_mvtec
from ddad_jax.models.efficientnet_lite import EfficientNetLite
from ddad_jax.models.variables import abstract_variables
from ddad_jax.pretrained import to_state_dict

# Variables that are not drawn.
CONSTANT = {"scale": 1, "var": 1, "bias": 0, "mean": 0}
EXTRACTOR = {"width": 0.25, "depth": 0.25}
CONFIG = """
from ml_collections import ConfigDict
from ddad_jax.experiment.config import load_config

def get_config():
    config = load_config("default")
    config.data.size = 64
    config.data.heldout_fraction = 0.25
    config.autoencoder.name = "tiny"
    config.autoencoder.network = ConfigDict({{"width": 8, "blocks": (1, 1, 1, 1)}})
    config.autoencoder.latent_scale = 0.0
    config.autoencoder.crop_size = 32
    config.autoencoder.training.steps = 4
    config.autoencoder.training.batch_size = 4
    config.denoiser.network = ConfigDict(
        {{"base_channels": 32, "channel_multipliers": (1,), "num_res_blocks": 1}}
    )
    config.denoiser.training.steps = 4
    config.denoiser.training.batch_size = 4
    config.extractor.name = "efficientnet_lite0"
    config.extractor.network = ConfigDict({extractor})
    config.extractor.weights = "{weights}"
    config.extractor.training.steps = 2
    config.extractor.training.batch_size = 2
    config.build.batch_size = 4
    config.build.planted = 0
    {more}
    return config
"""


def drawn(network: nn.Module, seed: int) -> Mapping[str, Any]:
    """Variables like those that `initialise` draws, without a program to be compiled."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        name = path[-1].key
        if name in CONSTANT:
            return jnp.full(leaf.shape, CONSTANT[name], leaf.dtype)
        deviation = math.prod(leaf.shape[:-1]) ** -0.5 if name == "kernel" else 0.1
        return jnp.asarray(rng.normal(0, deviation, leaf.shape), leaf.dtype)

    return jax.tree_util.tree_map_with_path(draw, abstract_variables(network))


def write_tiny(folder: Path, name: str = "tiny", more: str = "") -> Path:
    """Writes the config, with further lines, and its extractor's weights; returns its path."""
    weights = folder / "extractor.safetensors"
    network = EfficientNetLite(**EXTRACTOR)
    arrays = to_state_dict(drawn(network, 0), network)
    save_file({key: np.array(each, order="C") for key, each in arrays.items()}, weights)
    path = folder / f"{name}.py"
    path.write_text(CONFIG.format(extractor=EXTRACTOR, weights=weights, more=more))
    return path


def write_tiny_and_plates(folder: Path, num_test_good: int) -> None:
    """`write_tiny`, and below data twelve good plates to train on and some to test."""
    write_tiny(folder)
    source = synthetic_source(
        category="plate", image_size=64, num_train=12, num_test_good=num_test_good,
        num_test_per_defect=1,
    )  # fmt: skip
    write_mvtec(source, folder / "data")
