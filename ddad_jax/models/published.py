"""What is said of weights that others published: plain data, one record beside each network."""

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
      module: our name of a module, one step of a path, to PyTorch's.
      aliases: patterns of keys that other published files use, and the keys they stand for.
      key: a whole key as the names of its modules make it, to PyTorch's, where these do not agree.
      others: a pattern of keys of other networks that published files hold as well; "" for none.
    """

    module: Callable[[str], str]
    aliases: tuple[tuple[str, str | Callable[[re.Match], str]], ...] = ()
    key: Callable[[str], str] = str
    others: str = ""


def dotted(name: str) -> str:
    """Our name with dots about its numbers, as PyTorch names what is in lists."""
    return re.sub(r"_(?=\d)|(?<=\d)_", ".", name)


@dataclass(frozen=True)
class Package:
    """A file inside an installed Python package."""

    distribution: str
    file: str


@dataclass(frozen=True)
class Url:
    """A file behind a plain address."""

    url: str


@dataclass(frozen=True)
class HuggingFace:
    """A file of a Hugging Face repository at a revision.

    Attributes:
      repository: owner and name.
      file: path inside the repository.
      revision: branch, tag or commit.
      gated: whether it is given only to those who have agreed to its licence there.
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
      megabytes: its size in millions of bytes, where known.
      sha256: its checksum in hexadecimal, or the part of it that its publisher gives; empty where
        none is known.
      prefix: what to put before its keys.
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
      files: what they are made of.
      licence: its SPDX identifier, or its name where it has none.
      normalisation: what the weights were trained to see, from v in 0 … 255; the network does it.
    """

    network: str
    files: tuple[File, ...]
    licence: str
    normalisation: str
