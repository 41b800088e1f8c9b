"""Writes state dicts to files that PyTorch loads, without PyTorch."""

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import safetensors.numpy

from ddad_jax.errors import UserError
from ddad_jax.machine.storage import whole_file
from ddad_jax.pretrained.pickled import STORAGE_DTYPES

STORAGE_NAMES = {dtype: name for name, dtype in STORAGE_DTYPES.items()}
SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")


def write_state_dict(state_dict: Mapping[str, np.ndarray], target: Path) -> None:
    """Writes a state dict as safetensors or as `torch.save` would, by the target's suffix.

    Args:
      state_dict: C-contiguous arrays by key.
      target: the file; it appears complete or not at all.

    Raises:
      UserError: the suffix is not known.
    """
    check_target(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(target) as unfinished:
        if target.suffix == ".safetensors":
            safetensors.numpy.save_file(dict(state_dict), unfinished)
        else:
            _write_torch(state_dict, unfinished)


def check_target(target: Path) -> None:
    """Checks that a target's suffix names a format.

    Raises:
      UserError: it does not.
    """
    if target.suffix not in SUFFIXES:
        raise UserError(
            f"{target}: cannot write weights as {target.suffix or 'a file without suffix'}; "
            f"expected one of {' '.join(SUFFIXES)}"
        )


def _write_torch(state_dict: Mapping[str, np.ndarray], path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        # The entries have a fixed date, so that equal weights make equal files.
        archive.writestr(zipfile.ZipInfo("archive/data.pkl"), _pickle(state_dict))
        archive.writestr(zipfile.ZipInfo("archive/byteorder"), b"little")
        for index, array in enumerate(state_dict.values()):
            archive.writestr(zipfile.ZipInfo(f"archive/data/{index}"), array.tobytes())
        archive.writestr(zipfile.ZipInfo("archive/version"), b"3\n")


def _pickle(state_dict: Mapping[str, np.ndarray]) -> bytes:
    """Returns the pickle of an ordered dict of tensors, each with its own storage."""
    empty = _name("collections", "OrderedDict") + pickle.EMPTY_TUPLE + pickle.REDUCE
    items = b"".join(
        _text(key) + _tensor(str(index), array, empty)
        for index, (key, array) in enumerate(state_dict.items())
    )
    return pickle.PROTO + b"\x02" + empty + pickle.MARK + items + pickle.SETITEMS + pickle.STOP


def _tensor(storage: str, array: np.ndarray, empty: bytes) -> bytes:
    reference = _tuple(
        _text("storage"),
        _name("torch", STORAGE_NAMES[array.dtype]),
        _text(storage),
        _text("cpu"),
        _integer(array.size),
    )
    strides = [stride // array.itemsize for stride in array.strides]
    arguments = _tuple(
        reference + pickle.BINPERSID,
        _integer(0),
        _tuple(*map(_integer, array.shape)),
        _tuple(*map(_integer, strides)),
        pickle.NEWFALSE,
        empty,
    )
    return _name("torch._utils", "_rebuild_tensor_v2") + arguments + pickle.REDUCE


def _name(module: str, attribute: str) -> bytes:
    return pickle.GLOBAL + f"{module}\n{attribute}\n".encode()


def _text(text: str) -> bytes:
    encoded = text.encode()
    return pickle.BINUNICODE + len(encoded).to_bytes(4, "little") + encoded


def _integer(value: int) -> bytes:
    encoded = pickle.encode_long(value)
    return pickle.LONG1 + len(encoded).to_bytes(1, "little") + encoded


def _tuple(*items: bytes) -> bytes:
    return pickle.MARK + b"".join(items) + pickle.TUPLE
