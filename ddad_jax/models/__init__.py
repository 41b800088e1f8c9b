"""Flax linen networks, and functions that build them by name."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeVar

import flax.linen as nn

from ddad_jax.errors import UserError
from ddad_jax.models import (
    autoencoder_kl,
    convnext,
    dinov2,
    dinov3,
    dinov3_convnext,
    efficientnet,
    efficientnet_lite,
    pixel_space,
    resnet,
    tiny_autoencoder,
    vision_towers,
)
from ddad_jax.models.autoencoder_kl import AutoencoderKL
from ddad_jax.models.efficientnet_lite import EfficientNetLite
from ddad_jax.models.extractor import Extractor, ImageNetwork
from ddad_jax.models.pixel_space import PixelSpace
from ddad_jax.models.published import Weights
from ddad_jax.models.resnet import ResNet
from ddad_jax.models.tiny_autoencoder import TinyAutoencoder
from ddad_jax.models.unet import UNet
from ddad_jax.models.variables import abstract_variables, apply, initialise, parameter_count

Network = TypeVar("Network", bound=nn.Module)
_AUTOENCODERS = (autoencoder_kl, pixel_space, tiny_autoencoder)
# To add an extractor, write a module like these and name it here.
_EXTRACTORS = (
    resnet,
    efficientnet_lite,
    efficientnet,
    dinov2,
    dinov3,
    dinov3_convnext,
    convnext,
    vision_towers,
)
AUTOENCODERS: Mapping[str, Callable[..., ImageNetwork]] = {
    name: builder for family in _AUTOENCODERS for name, builder in family.BUILDERS.items()
}
EXTRACTORS: Mapping[str, Callable[..., Extractor]] = {
    name: builder for family in _EXTRACTORS for name, builder in family.BUILDERS.items()
}
WEIGHTS: Mapping[str, Weights] = {
    name: weights
    for family in (*_EXTRACTORS, *_AUTOENCODERS)
    for name, weights in family.WEIGHTS.items()
}

# Attributes of networks that are not settings of their section.
NOT_SET = frozenset(
    ("parent", "name", "size", "sample_size", "in_channels", "out_channels", "dtype", "param_dtype")
)

__all__ = [
    "AUTOENCODERS",
    "EXTRACTORS",
    "WEIGHTS",
    "AutoencoderKL",
    "EfficientNetLite",
    "Extractor",
    "ImageNetwork",
    "PixelSpace",
    "ResNet",
    "TinyAutoencoder",
    "UNet",
    "abstract_variables",
    "apply",
    "build_autoencoder",
    "build_denoiser",
    "build_extractor",
    "initialise",
    "network_settings",
    "parameter_count",
]


def build_autoencoder(name: str, **settings: Any) -> ImageNetwork:
    """Builds the autoencoder registered as `name`, with `encode`, `decode` and `latent_channels`.

    Raises:
      UserError: the name or a setting is unknown, or the setting's value does not fit.
    """
    return _build("autoencoder", AUTOENCODERS, name, settings)


def build_extractor(name: str, **settings: Any) -> Extractor:
    """Builds the feature extractor registered as `name`.

    Raises:
      UserError: the name or a setting is unknown, or the setting's value does not fit.
    """
    return _build("extractor", EXTRACTORS, name, settings)


def build_denoiser(**settings: Any) -> UNet:
    """Builds the denoiser, a `UNet`.

    Raises:
      UserError: a setting is unknown, or its value does not fit.
    """
    return _build("denoiser", {"unet": UNet}, "unet", settings)


def network_settings(builder: Callable[..., nn.Module]) -> dict[str, Any]:
    """Returns the settings of a network, with their defaults.

    Types of computation, and sizes that follow from other networks, are not settings.

    Args:
      builder: from a registry, or `UNet`.
    """
    fixed = builder.keywords if isinstance(builder, partial) else {}
    network = builder.func if isinstance(builder, partial) else builder
    assert isinstance(network, type) and issubclass(network, nn.Module)
    return {
        field.name: field.default
        for field in dataclasses.fields(network)
        if field.name not in NOT_SET and field.name not in fixed
    }


def _build(
    kind: str,
    registry: Mapping[str, Callable[..., Network]],
    name: str,
    settings: Mapping[str, Any],
) -> Network:
    if name not in registry:
        raise UserError(f"{kind}.name: {name!r} is not known; choose one of {', '.join(registry)}")
    builder = registry[name]
    known = network_settings(builder)
    for setting, value in settings.items():
        if setting in NOT_SET:
            continue
        if setting not in known:
            raise UserError(
                f"{kind}.network.{setting}: {name!r} has no such setting; it has "
                + ", ".join(sorted(known))
            )
        problem = _problem(value, known[setting])
        if problem:
            raise UserError(f"{kind}.network.{setting}: {value!r} {problem}")
    return builder(**settings)


def _problem(value: Any, default: Any) -> str:
    """Returns why a network's attribute with some default cannot have a value; "" if it can."""
    if isinstance(default, tuple):
        whole = isinstance(value, tuple) and all(_is_count(each) for each in value)
        return "" if whole else f"is not a list of whole numbers above 0, such as {default}"
    if isinstance(default, bool) or not isinstance(default, int | float):
        kind = type(default)
        return "" if isinstance(value, kind) else f"must be {kind.__name__}, as {default!r} is"
    if isinstance(default, int):
        return "" if _is_count(value) else f"is not a whole number above 0, such as {default}"
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return "" if number and 0 < value < math.inf else f"is not a number above 0, such as {default}"


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
