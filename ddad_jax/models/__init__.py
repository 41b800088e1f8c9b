"""Flax linen networks, and what builds them by name."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeVar

import flax.linen as nn

from ddad_jax.errors import UserError
from ddad_jax.models.autoencoder_kl import AutoencoderKL
from ddad_jax.models.efficientnet_lite import EfficientNetLite
from ddad_jax.models.pixel_space import PixelSpace
from ddad_jax.models.resnet import ResNet
from ddad_jax.models.tiny_autoencoder import TinyAutoencoder
from ddad_jax.models.unet import UNet
from ddad_jax.models.variables import abstract_variables, apply, initialise, parameter_count

Network = TypeVar("Network", bound=nn.Module)
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

# Attributes of networks that no setting of their section gives.
NOT_SET = frozenset(
    ("parent", "name", "sample_size", "in_channels", "out_channels", "dtype", "param_dtype")
)

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
    "apply",
    "build_autoencoder",
    "build_denoiser",
    "build_extractor",
    "initialise",
    "network_settings",
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


def network_settings(builder: Callable[..., nn.Module]) -> dict[str, Any]:
    """What can be set of a network, with its defaults.

    The types of computation, and what follows from the other networks, is not among it.

    Args:
      builder: of a registry, or `UNet`.
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
    """Why an attribute of a network cannot have a value, by its default; "" where it can."""
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
