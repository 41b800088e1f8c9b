"""Records of weights that others published: plain data, defined beside each network."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

IMAGENET = "(v / 255 - mean) / std, mean 0.485 0.456 0.406, std 0.229 0.224 0.225"
TENSORFLOW = "(v - 127) / 128"
SIGNED = "v / 127.5 - 1"
UNIT = "v / 255"


class Names(NamedTuple):
    """How PyTorch's state dicts name the modules of a family of networks.

    Attributes:
      module: converts our name of a module, one step of a path, to PyTorch's.
      aliases: patterns of keys that other published files use, and their replacements.
      key: converts a whole key, joined from module names, to PyTorch's, if the two differ.
      others: a pattern of keys of other networks that published files also hold; "" for none.
    """

    module: Callable[[str], str]
    aliases: tuple[tuple[str, str | Callable[[re.Match], str]], ...] = ()
    key: Callable[[str], str] = str
    others: str = ""


def dotted(name: str) -> str:
    """Returns our name with dots around its numbers, as PyTorch names the items of lists."""
    return re.sub(r"_(?=\d)|(?<=\d)_", ".", name)


@dataclass(frozen=True)
class Package:
    """A file inside an installed Python package."""

    distribution: str
    file: str


@dataclass(frozen=True)
class Url:
    """A file at a plain URL."""

    url: str


@dataclass(frozen=True)
class HuggingFace:
    """A file of a Hugging Face repository at a revision.

    Attributes:
      repository: owner and name.
      file: path inside the repository.
      revision: branch, tag or commit.
      gated: whether downloading it requires agreement to its licence there.
    """

    repository: str
    file: str
    revision: str = "main"
    gated: bool = False


@dataclass(frozen=True)
class File:
    """One file of weights.

    Attributes:
      source: where it comes from.
      megabytes: its size in millions of bytes, if known.
      sha256: its checksum in hexadecimal, or the part that its publisher gives; "" if unknown.
      prefix: put before its keys.
    """

    source: Package | Url | HuggingFace
    megabytes: float | None = None
    sha256: str = ""
    prefix: str = ""


@dataclass(frozen=True)
class Weights:
    """A registered set of weights.

    Attributes:
      network: the registered autoencoder or extractor that they are for.
      files: the files that they consist of.
      licence: its SPDX identifier, or its name if it has none.
      normalisation: the input that they were trained on, from v in 0 … 255; the network makes it.
    """

    network: str
    files: tuple[File, ...]
    licence: str
    normalisation: str
