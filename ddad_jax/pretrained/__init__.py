"""Finds weights that others published, reads them safely, and writes ours under their names."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn

from ddad_jax.pretrained.download import default_cache
from ddad_jax.pretrained.names import from_state_dict, to_state_dict
from ddad_jax.pretrained.read import read_state_dict
from ddad_jax.pretrained.registry import REGISTRY, locate
from ddad_jax.pretrained.write import check_target, write_state_dict

__all__ = [
    "REGISTRY",
    "check_target",
    "convert",
    "from_state_dict",
    "load",
    "read_state_dict",
    "save",
    "to_state_dict",
]


def load(weights: str, network: nn.Module, cache_dir: Path | None = None) -> dict[str, Any]:
    """Returns a network's variables {"params": …, …}, from published or local weights.

    Args:
      weights: the name of a registered set of weights, or the path or URL of a file or folder.
      network: the network that they are for.
      cache_dir: where downloads are kept; None: `default_cache()`.

    Raises:
      UserError: they cannot be found or fetched, are broken, or belong to another network.
    """
    files = locate(weights, cache_dir or default_cache())
    return from_state_dict(read_state_dict(files), network, f"weights {weights!r}")


def save(variables: Mapping[str, Any], network: nn.Module, target: Path) -> None:
    """Writes a network's variables as a PyTorch state dict under its published names.

    Args:
      variables: of the network.
      network: the network itself.
      target: a .safetensors, .pth, .pt or .bin file.

    Raises:
      UserError: the target has another suffix.
    """
    write_state_dict(to_state_dict(variables, network), target)


def convert(source: str, network: nn.Module, target: Path) -> None:
    """Rewrites weights, checked against a network, as a plain and harmless state dict.

    The result lacks an official checkpoint's `module.` of DataParallel, the wrapper that its
    training script put around it and, as .safetensors, any pickle.

    Args:
      source: see `weights` of `load`.
      network: the network that they are for.
      target: a .safetensors, .pth, .pt or .bin file.

    Raises:
      UserError: as `load` and `save` do; the target is checked first.
    """
    check_target(target)
    save(load(source, network), network, target)
