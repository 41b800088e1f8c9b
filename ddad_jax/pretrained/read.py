"""Reads state dicts from files and folders."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy

from ddad_jax.errors import UserError
from ddad_jax.pretrained.torch_file import read_torch

SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt")
HALVES = ("encoder", "decoder")


def read_state_dict(paths: Path | Mapping[str, Path]) -> dict[str, np.ndarray]:
    """Returns the PyTorch state dict that one or several files hold.

    Args:
      paths: a file; or a folder that holds one file of weights, or one for an encoder and one for
        a decoder; or files by the prefix to put before their keys.

    Raises:
      UserError: there is no such file, or it is not a complete and harmless file of weights.
    """
    if isinstance(paths, Path):
        paths = _halves(paths) if paths.is_dir() else {"": paths}
    return {
        f"{prefix}{key}": value
        for prefix, path in paths.items()
        for key, value in _read_file(path).items()
    }


def _halves(folder: Path) -> Mapping[str, Path]:
    files = sorted(file for file in folder.iterdir() if file.suffix in SUFFIXES)
    if len(files) == 1:
        return {"": files[0]}
    parts = {f"{half}.": [f for f in files if half in f.stem] for half in HALVES}
    if len(files) == len(HALVES) and all(len(found) == 1 for found in parts.values()):
        return {prefix: found[0] for prefix, found in parts.items()}
    held = ", ".join(file.name for file in files) or "none"
    raise UserError(
        f"{folder}: holds {len(files)} files of weights ({held}); expected one, or one whose name "
        "contains 'encoder' and one 'decoder': name the file itself"
    )


def _read_file(path: Path) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise UserError(f"{path}: no such file; expected weights ({' '.join(SUFFIXES)})")
    if path.suffix != ".safetensors":
        return read_torch(path)
    try:
        return safetensors.numpy.load_file(path)
    except (safetensors.SafetensorError, KeyError, ValueError) as problem:
        raise UserError(
            f"{path}: is not a whole safetensors file ({problem}); fetch it again"
        ) from problem
