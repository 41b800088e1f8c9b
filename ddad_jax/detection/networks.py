"""Builds the networks of a detector from their description in a config or an artifact."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from ddad_jax import models
from ddad_jax.detection.detector import Networks
from ddad_jax.detection.reconstruction import extract
from ddad_jax.models import Extractor


def build_networks(
    autoencoder: Mapping[str, Any],
    denoiser: Mapping[str, Any],
    extractor: Mapping[str, Any],
    *,
    image_size: int,
    dtype: str,
) -> Networks:
    """Builds the modules, without parameters.

    Args:
      autoencoder: its registered "name" and the settings of its "network".
      denoiser: the settings of its "network"; channels and size follow from the autoencoder.
      extractor: its registered "name", the settings of its "network", and the "size" in pixels that
        it resizes images to; if "size" is 0 or missing, images keep their size.
      image_size: side in pixels of the images that the autoencoder is given.
      dtype: the compute type of the autoencoder and the denoiser, "float32" or "bfloat16". The
        extractor always computes in float32: its distances choose the noise level in steps, and
        rounding to bfloat16 lengthens them by a fifth.

    Raises:
      UserError: a setting is unknown to the network or does not fit; the error names it.
    """
    coder = models.build_autoencoder(
        autoencoder["name"], size=image_size, dtype=dtype, **_hashable(autoencoder["network"])
    )
    channels = coder.latent_channels
    unet = models.build_denoiser(
        sample_size=image_size // coder.downsampling,
        in_channels=channels,
        out_channels=channels,
        dtype=dtype,
        **_hashable(denoiser["network"]),
    )
    features = models.build_extractor(
        extractor["name"], size=extractor.get("size", 0), **_hashable(extractor["network"])
    )
    return Networks(coder, unet, features)


def stage_channels(extractor: Extractor, size: int) -> tuple[int, ...]:
    """Returns the number of channels of each stage, for images of `size` × `size` pixels."""
    images = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    variables = models.abstract_variables(extractor)
    stages = jax.eval_shape(lambda *each: extract(extractor, *each), variables, images)
    return tuple(stage.shape[-1] for stage in stages)


def _hashable(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Turns lists, as JSON has them, back into tuples: a module must be hashable, for jit."""
    return {name: tuple(v) if isinstance(v, list) else v for name, v in settings.items()}
