"""Reads PyTorch's files, in both formats, without PyTorch and without executing anything."""

import io
import math
import os
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from ddad_jax.errors import UserError
from ddad_jax.pretrained.pickled import Contents, Tensor, read_pickle

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_PROTOCOL = 1001
# Keys under which training scripts store the state dict.
WRAPPERS = ("state_dict", "model_state_dict", "model")
# The pickle only describes the tensors; for a hundred thousand of them it is smaller than this.
LARGEST_PICKLE = 64 * 2**20


def read_torch(path: Path) -> dict[str, np.ndarray]:
    """Returns the state dict of a PyTorch file, as read-only arrays that may share memory.

    Args:
      path: a file written by `torch.save`, in the zip format or the one before PyTorch 1.6.

    Raises:
      UserError: the file is truncated, inconsistent, compressed, or holds more than tensors.
    """
    with path.open("rb") as stream:
        start = stream.read(4)
        stream.seek(0)
        if start == b"PK\x03\x04":
            return _read_zip(stream, str(path))
        if start[:1] == b"\x80":
            return _read_legacy(stream, str(path))
    raise UserError(
        f"{path}: is not a PyTorch file (it starts with {start!r}); expected a file written by "
        "torch.save"
    )


def _read_zip(stream: io.BufferedReader, name: str) -> dict[str, np.ndarray]:
    try:
        archive = zipfile.ZipFile(stream)
        _check_archive(archive.infolist(), os.fstat(stream.fileno()).st_size, name)
        files = {info.filename: info for info in archive.infolist()}
        root = _root(files, name)
        order = archive.read(f"{root}byteorder") if f"{root}byteorder" in files else b"little"
        if order != b"little":
            raise UserError(f"{name}: its byte order is {order!r}; only little-endian is read")
        contents = read_pickle(io.BytesIO(archive.read(f"{root}data.pkl")), name)
        tensors = _state_dict(contents, name)
        arrays = {}
        for storage in {tensor.storage for tensor in tensors.values()}:
            entry = files.get(f"{root}data/{storage.key}")
            claimed = storage.size * storage.dtype.itemsize
            if entry is None or entry.file_size != claimed:
                held = "is missing" if entry is None else f"holds {entry.file_size} bytes"
                raise UserError(
                    f"{name}: storage {storage.key!r} {held}, but {claimed} bytes are expected; "
                    "the file is broken: fetch it again"
                )
            arrays[storage.key] = np.frombuffer(archive.read(entry), storage.dtype)
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, OSError) as problem:
        raise UserError(
            f"{name}: is not a whole zip archive ({problem}); the file is cut or broken: fetch it "
            "again"
        ) from problem
    return {key: _view(tensor, key, arrays, name) for key, tensor in tensors.items()}


def _check_archive(files: Iterable[zipfile.ZipInfo], size: int, name: str) -> None:
    """Refuses archives that could unpack to more than the file holds: PyTorch never compresses."""
    claimed = 0
    for info in files:
        if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
            raise UserError(
                f"{name}: entry {info.filename!r} is compressed ({info.compress_size} to "
                f"{info.file_size} bytes), which PyTorch never does; refused"
            )
        claimed += info.file_size
    if claimed > size:
        raise UserError(
            f"{name}: its entries claim {claimed} bytes, but the file has {size}; refused"
        )


def _root(files: Mapping[str, zipfile.ZipInfo], name: str) -> str:
    """Returns the archive's only folder, with its slash."""
    pickles = [file for file in files if file.split("/")[1:] == ["data.pkl"]]
    if len(pickles) != 1 or any(file.endswith("/constants.pkl") for file in files):
        raise UserError(
            f"{name}: is a zip archive, but not of a state dict; TorchScript and other archives "
            "hold code: save model.state_dict() instead"
        )
    if files[pickles[0]].file_size > LARGEST_PICKLE:
        raise UserError(
            f"{name}: its data.pkl claims {files[pickles[0]].file_size} bytes, more than "
            f"{LARGEST_PICKLE}; refused"
        )
    return pickles[0].removesuffix("data.pkl")


def _read_legacy(stream: io.BufferedReader, name: str) -> dict[str, np.ndarray]:
    magic, protocol, system = (read_pickle(stream, name).value for _ in range(3))
    if magic != LEGACY_MAGIC or protocol != LEGACY_PROTOCOL or type(system) is not dict:
        raise UserError(
            f"{name}: is a pickle, but not one that torch.save wrote; save model.state_dict() "
            "with torch.save"
        )
    if system.get("little_endian") is not True:
        raise UserError(f"{name}: is not little-endian; only little-endian is read")
    contents = read_pickle(stream, name)
    tensors = _state_dict(contents, name)
    keys = read_pickle(stream, name).value
    if (
        type(keys) is not list
        or any(type(key) is not str for key in keys)
        or sorted(keys) != sorted(contents.storages)
    ):
        raise UserError(f"{name}: its list of storages does not fit its tensors; it is broken")
    used = {tensor.storage.key for tensor in tensors.values()}
    end = os.fstat(stream.fileno()).st_size
    arrays = {}
    for key in keys:
        storage = contents.storages[key]
        size = int.from_bytes(stream.read(8), "little", signed=True)
        claimed = storage.size * storage.dtype.itemsize
        left = end - stream.tell()
        if size != storage.size or claimed > left:
            raise UserError(
                f"{name}: storage {key!r} says {size} numbers, its tensors {storage.size}, and "
                f"{left} bytes are left; the file is cut or broken: fetch it again"
            )
        if key in used:
            arrays[key] = np.fromfile(stream, storage.dtype, storage.size)
        else:
            stream.seek(claimed, os.SEEK_CUR)
    if stream.tell() != end:
        raise UserError(f"{name}: has {end - stream.tell()} bytes after its last storage; refused")
    return {key: _view(tensor, key, arrays, name) for key, tensor in tensors.items()}


def _state_dict(contents: Contents, name: str) -> dict[str, Tensor]:
    """Returns the state dict, also from within a training script's wrapper."""
    value = contents.value
    if type(value) is dict and not any(isinstance(v, Tensor) for v in value.values()):
        value = next((value[key] for key in WRAPPERS if key in value), value)
    if type(value) is not dict or not value:
        raise UserError(
            f"{name}: holds a {type(value).__name__}, not a state dict; expected a dict of tensors"
        )
    for key, tensor in value.items():
        if type(key) is not str or not isinstance(tensor, Tensor):
            raise UserError(
                f"{name}: key {key!r} holds a {type(tensor).__name__}, not a tensor; expected a "
                "state dict"
            )
    return value


def _view(tensor: Tensor, key: str, storages: Mapping[str, np.ndarray], name: str) -> np.ndarray:
    storage: np.ndarray = storages[tensor.storage.key]
    size = math.prod(tensor.shape)
    last = sum((n - 1) * stride for n, stride in zip(tensor.shape, tensor.strides, strict=True))
    if size > storage.size or (size and tensor.offset + last >= storage.size):
        raise UserError(
            f"{name}: key {key!r} claims shape {tensor.shape} from {tensor.offset} on, more than "
            f"its storage of {storage.size} numbers holds; refused"
        )
    if not size:
        return np.empty(tensor.shape, storage.dtype)
    strides = tuple(stride * storage.itemsize for stride in tensor.strides)
    return np.lib.stride_tricks.as_strided(
        storage[tensor.offset :], tensor.shape, strides, writeable=False
    )
