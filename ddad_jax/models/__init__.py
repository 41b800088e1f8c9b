"""Flax linen networks, and what builds them by name."""

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import flax.linen as nn

from ddad_jax.errors import UserError
from ddad_jax.models.autoencoder_kl import AutoencoderKL
from ddad_jax.models.efficientnet_lite import EfficientNetLite
from ddad_jax.models.pixel_space import PixelSpace
from ddad_jax.models.resnet import ResNet
from ddad_jax.models.tiny_autoencoder import TinyAutoencoder
from ddad_jax.models.unet import UNet
from ddad_jax.models.variables import abstract_variables, initialise, parameter_count

AUTOENCODERS: Mapping[str, Callable[..., nn.Module]] = {
    "kl": AutoencoderKL,
    "pixels": PixelSpace,
    "tiny": TinyAutoencoder,
    "taesd": TinyAutoencoder,
    "taef2": partial(TinyAutoencoder, latent_channels=32, normalised=True),
}
EXTRACTORS: Mapping[str, Callable[..., nn.Module]] = {
    "resnet18": partial(ResNet, repeats=(2, 2, 2, 2)),
    "resnet34": ResNet,
    "resnet50": partial(ResNet, bottleneck=True),
    "resnet101": partial(ResNet, repeats=(3, 4, 23, 3), bottleneck=True),
    "resnet152": partial(ResNet, repeats=(3, 8, 36, 3), bottleneck=True),
    "wide_resnet50_2": partial(ResNet, bottleneck=True, widening=2),
    "wide_resnet101_2": partial(ResNet, repeats=(3, 4, 23, 3), bottleneck=True, widening=2),
    "efficientnet_lite0": EfficientNetLite,
    "efficientnet_lite1": partial(EfficientNetLite, depth=1.1),
    "efficientnet_lite2": partial(EfficientNetLite, width=1.1, depth=1.2),
}

__all__ = [
    "AUTOENCODERS",
    "EXTRACTORS",
    "AutoencoderKL",
    "EfficientNetLite",
    "PixelSpace",
    "ResNet",
    "TinyAutoencoder",
    "UNet",
    "abstract_variables",
    "build_autoencoder",
    "build_denoiser",
    "build_extractor",
    "initialise",
    "parameter_count",
]


def build_autoencoder(name: str, **settings: Any) -> nn.Module:
    """The autoencoder registered under `name`, with `encode`, `decode` and `latent_channels`.

    Raises:
      UserError: no such autoencoder, or it has no such setting.
    """
    return _build("autoencoder", AUTOENCODERS, name, settings)


def build_extractor(name: str, **settings: Any) -> nn.Module:
    """The feature extractor registered under `name`, with `normalise` and three stages.

    Raises:
      UserError: no such extractor, or it has no such setting.
    """
    return _build("extractor", EXTRACTORS, name, settings)


def build_denoiser(**settings: Any) -> UNet:
    """The denoiser, a `UNet`.

    Raises:
      UserError: it has no such setting.
    """
    return _build("denoiser", {"unet": UNet}, "unet", settings)


def _build(
    kind: str,
    registry: Mapping[str, Callable[..., nn.Module]],
    name: str,
    settings: Mapping[str, Any],
) -> nn.Module:
    if name not in registry:
        raise UserError(f"{kind}.name: {name!r} is not known; choose one of {', '.join(registry)}")
    builder = registry[name]
    fixed = builder.keywords if isinstance(builder, partial) else {}
    network = builder.func if isinstance(builder, partial) else builder
    known = {f.name for f in dataclasses.fields(network)} - {"parent", "name"} - fixed.keys()
    if unknown := sorted(settings.keys() - known):
        raise UserError(
            f"{kind}.network.{unknown[0]}: {name!r} has no such setting; it has "
            + ", ".join(sorted(known))
        )
    return builder(**settings)
