"""Files that are broken or mean harm: each is refused in one line, and nothing of them runs."""

import io
import os
import pickle
import struct
import zipfile

import numpy as np
import pytest
import safetensors.numpy
import torch

from ddad_jax.errors import UserError
from ddad_jax.pretrained import pickled
from ddad_jax.pretrained.pickled import CALLS
from ddad_jax.pretrained.read import read_state_dict


class Calls:
    """Pickles as a call."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def saved(value, legacy=False):
    stream = io.BytesIO()
    torch.save(value, stream, _use_new_zipfile_serialization=not legacy)
    return stream.getvalue()


def repacked(content, change, compression=zipfile.ZIP_STORED):
    """A zip archive with its entries, a dict of bytes by name, changed."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    change(files)
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return stream.getvalue()


def named(files, end):
    return next(name for name in files if name.endswith(end))


def with_pickle(data):
    def change(files):
        files[named(files, "data.pkl")] = data

    return change


def storage_of(size, kind=b"FloatStorage"):
    """A pickle of one tensor over a storage of so many numbers."""
    return (
        b"\x80\x02}X\x01\x00\x00\x00wctorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storage"
        b"ctorch\n" + kind + b"\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuJ"
        + struct.pack("<i", size) + b"tQK\x00J" + struct.pack("<i", size)
        + b"\x85K\x01\x85\x89}tRs."
    )  # fmt: skip


GOOD = saved({"w": torch.arange(64.0)})
OLD = saved({"w": torch.arange(64.0)}, legacy=True)
MARKER = "executed"

HOSTILE = {
    "calls os.system": (saved(Calls(os.system, f"touch {MARKER}")), "posix.system"),
    "calls os.system, old format": (
        saved(Calls(os.system, f"touch {MARKER}"), legacy=True),
        "posix.system",
    ),
    "calls eval inside a dict": (
        saved({"w": torch.ones(1), "x": Calls(eval, f"open('{MARKER}', 'w')")}),
        "__builtin__.eval",
    ),
    "a plain pickle that opens a file": (
        pickle.dumps(Calls(open, MARKER, "w"), protocol=2),
        "io.open",
    ),
    "imports by another instruction": (
        repacked(GOOD, with_pickle(b"(S'touch executed'\nios\nsystem\n.")),
        "instruction INST",
    ),
    "asks for an extension": (repacked(GOOD, with_pickle(b"\x80\x02\x82\x01.")), "EXT1"),
    "calls a number": (repacked(GOOD, with_pickle(b"\x80\x02K\x01)R.")), "not a function"),
    "calls a type of numbers": (
        repacked(GOOD, with_pickle(b"\x80\x02ctorch\nFloatStorage\n)R.")),
        "not a function",
    ),
    "calls os.system by name on the stack": (
        repacked(GOOD, with_pickle(pickle.dumps(Calls(os.system, f"touch {MARKER}"), protocol=4))),
        "posix.system",
    ),
    "names os.system and calls it not": (
        repacked(GOOD, with_pickle(b"\x80\x02cposix\nsystem\n.")),
        "posix.system",
    ),
    "a harmless name of another module": (
        repacked(GOOD, with_pickle(b"\x80\x02cos\nOrderedDict\n)R.")),
        "os.OrderedDict",
    ),
    "another name of a harmless module": (
        repacked(
            GOOD, with_pickle(b"\x80\x02ctorch._utils\n_import_dotted_name\n(X\x02\0\0\0ostR.")
        ),
        "torch._utils._import_dotted_name",
    ),
    "makes an object by its class": (
        repacked(GOOD, with_pickle(b"\x80\x02ccollections\nOrderedDict\n)\x81.")),
        "instruction NEWOBJ",
    ),
    "nests a hundred thousand tuples": (
        repacked(GOOD, with_pickle(b"\x80\x02)" + b"\x85" * 100_000 + b".")),
        "not a state dict",
    ),
    "a compressed bomb": (
        repacked(
            GOOD,
            lambda files: files.update({named(files, "data/0"): bytes(50_000_000)}),
            zipfile.ZIP_DEFLATED,
        ),
        "is compressed",
    ),
    "a pickle without end": (repacked(GOOD, with_pickle(b"\x80\x02}")), "not a readable"),
    "a tensor larger than its storage": (
        repacked(GOOD, with_pickle(storage_of(1_000_000))),
        "holds 256 bytes, but 4000000 bytes are expected",
    ),
    "an unknown storage": (
        repacked(GOOD, with_pickle(storage_of(64, b"EvilStorage"))),
        "torch.EvilStorage",
    ),
    "a storage that is missing": (
        repacked(GOOD, lambda files: files.pop(named(files, "data/0"))),
        "storage '0' is missing",
    ),
    "a big-endian file": (
        repacked(GOOD, lambda files: files.update({named(files, "byteorder"): b"big"})),
        "byte order",
    ),
    "TorchScript": (
        repacked(GOOD, lambda files: files.update({"archive/constants.pkl": b""})),
        "TorchScript",
    ),
    "bytes after the end": (OLD + b"surplus", "7 bytes after its last storage"),
    "a list instead of a dict": (saved([torch.ones(1)]), "holds a list, not a state dict"),
    "a dict of numbers": (saved({"lr": 0.1}), "key 'lr' holds a float, not a tensor"),
    "text": (b"weights, honestly", "is not a PyTorch file"),
    "nothing": (b"", "is not a PyTorch file"),
}


@pytest.fixture
def refused(tmp_path, monkeypatch):
    """Function: content -> the one line that refuses it."""
    monkeypatch.chdir(tmp_path)

    def read(content, name="weights.pth"):
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(UserError) as problem:
            read_state_dict(path)
        assert not (tmp_path / MARKER).exists()
        message = str(problem.value)
        assert name in message
        assert "\n" not in message
        return message

    return read


@pytest.mark.slow
@pytest.mark.parametrize("name", HOSTILE)
def test_is_refused_and_not_executed(refused, name):
    content, reason = HOSTILE[name]
    assert reason in refused(content)


@pytest.mark.parametrize("content", [GOOD, OLD], ids=["zip", "legacy"])
def test_cut_anywhere(refused, content):
    for end in np.linspace(1, len(content) - 1, 40, dtype=int):
        refused(content[:end])


def test_broken_safetensors(refused):
    whole = safetensors.numpy.save({"w": np.arange(8.0)})
    for content in (
        b"", whole[:20], whole[:-8], whole + b"more",
        struct.pack("<Q", 1 << 60) + whole[8:], whole.replace(b"F64", b"F99"),
    ):  # fmt: skip
        assert "safetensors" in refused(content, "weights.safetensors")


def test_what_is_not_there(tmp_path):
    with pytest.raises(UserError, match="nowhere.pth: no such file"):
        read_state_dict(tmp_path / "nowhere.pth")
    with pytest.raises(UserError, match=r"holds 0 files of weights \(none\)"):
        read_state_dict(tmp_path)
    for name in ("a.pth", "b.pth"):
        (tmp_path / name).touch()
    with pytest.raises(UserError, match=r"holds 2 files of weights \(a.pth, b.pth\)"):
        read_state_dict(tmp_path)


def test_nothing_can_be_called_that_is_not_on_the_short_list():
    """Two containers and three ways of PyTorch to say what a tensor is; each builds data alone."""
    assert {f"{each.module}.{each.name}" for each in CALLS} == {
        "collections.OrderedDict",
        "torch.Size",
        "torch._utils._rebuild_tensor",
        "torch._utils._rebuild_tensor_v2",
        "torch._utils._rebuild_parameter",
    }
    assert {function.__module__ for function in CALLS.values()} == {pickled.__name__}
