"""The networks of a detector, from what a config or an artifact says of them."""

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
    """Builds the modules; no parameters are made.

    Args:
      autoencoder: its registered "name" and the settings of its "network".
      denoiser: the settings of its "network"; channels and size follow from the autoencoder.
      extractor: its registered "name", the settings of its "network", and the "size" in pixels at
        which it looks at images; without one, or with 0, it takes them as they come.
      image_size: side in pixels at which the autoencoder looks at images.
      dtype: the compute type of the autoencoder and the denoiser, "float32" or "bfloat16". The
        extractor's is float32: its distances choose the noise level in steps, and the rounding of
        bfloat16 lengthens them by a fifth.

    Raises:
      UserError: naming the setting that no network has, or that does not fit.
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
    """How many channels each stage has, of images of so many pixels a side."""
    images = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    variables = models.abstract_variables(extractor)
    stages = jax.eval_shape(lambda *each: extract(extractor, *each), variables, images)
    return tuple(stage.shape[-1] for stage in stages)


def _hashable(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Lists, which JSON makes of tuples, as tuples again: a module is a static argument of jit."""
    return {name: tuple(v) if isinstance(v, list) else v for name, v in settings.items()}
