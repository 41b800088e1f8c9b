"""Networks and detectors of configs with random weights: no data set or download is needed."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp

from ddad_jax.benchmark.seeded import seeded_detector
from ddad_jax.detection.detector import Detector, Networks
from ddad_jax.diffusion.schedule import linear_alpha_bar
from ddad_jax.experiment.config import load_config, read_config
from ddad_jax.experiment.schema import Config
from ddad_jax.models import initialise
from ddad_jax.settings import changed

CONFIGS = {"small": "mvtec_small", "published": "mvtec"}


def config_of(size: str, dtype: str = "float32", preset: str = "full") -> Config:
    """Returns the settings of `configs/mvtec_small.py` ("small") or `mvtec.py` ("published")."""
    config = read_config(load_config(CONFIGS[size])).of_preset(preset)
    return changed(config, {"dtype": dtype})


def networks(size: str, dtype: str = "float32") -> Networks:
    """Returns the modules of `configs/mvtec_small.py` ("small") or `mvtec.py` ("published")."""
    return config_of(size, dtype).networks()


def make_detector(size: str, dtype: str, preset: str, bank_rows: int) -> Detector:
    """Returns a detector with random weights and banks, whose denoiser does not output zeros."""
    config = config_of(size, dtype, preset)
    d = config.diffusion
    detector = seeded_detector(
        config.networks(),
        config.detector,
        jnp.asarray(linear_alpha_bar(d.beta_start, d.beta_end, d.num_timesteps)),
        bank_rows=bank_rows,
        patch_rows=config.build.most_patches,
        seed=0,
    )
    return detector.replace(denoiser=drawn(detector.networks.denoiser, 2))


def drawn(network: nn.Module, seed: int) -> Mapping[str, Any]:
    """Draws variables at random, including the kernels that are initialised to zero."""
    flat = flax.traverse_util.flatten_dict(initialise(network, jax.random.key(seed)))
    key = jax.random.key(seed + 1)
    for number, (path, value) in enumerate(sorted(flat.items())):
        if path[-1] == "kernel" and not value.any():
            noise = jax.random.normal(jax.random.fold_in(key, number), value.shape)
            flat[path] = noise / jnp.sqrt(value[..., 0].size)
    return flax.traverse_util.unflatten_dict(flat)
