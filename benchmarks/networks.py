"""The networks of `configs/mvtec_small.py` with drawn weights: no data set or download needed."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp

from configs import mvtec_small
from ddad_jax import builders
from ddad_jax.detection.detector import Networks
from ddad_jax.models import initialise


def small(dtype: str = "float32") -> Networks:
    """The modules."""
    config = mvtec_small.get_config()
    config.dtype = dtype
    return builders.networks(config)


def drawn(network: nn.Module, seed: int) -> Mapping[str, Any]:
    """Variables drawn at random, the kernels that start at zero too."""
    flat = flax.traverse_util.flatten_dict(initialise(network, jax.random.key(seed)))
    key = jax.random.key(seed + 1)
    for number, (path, value) in enumerate(sorted(flat.items())):
        if path[-1] == "kernel" and not value.any():
            noise = jax.random.normal(jax.random.fold_in(key, number), value.shape)
            flat[path] = noise / jnp.sqrt(value[..., 0].size)
    return flax.traverse_util.unflatten_dict(flat)
