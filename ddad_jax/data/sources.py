"""The data sets by the names that settings have for them."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ddad_jax.data import btad, mvtec, visa
from ddad_jax.data.btad import btad_source
from ddad_jax.data.elpv import elpv_source
from ddad_jax.data.folder import folder_source
from ddad_jax.data.manifest import manifest_source
from ddad_jax.data.mvtec import mvtec_source
from ddad_jax.data.sample import Source
from ddad_jax.data.synthetic import synthetic_source
from ddad_jax.data.tfds import tfds_source
from ddad_jax.data.visa import visa_source
from ddad_jax.errors import UserError

SOURCES: dict[str, Callable[..., Source]] = {
    "btad": btad_source,
    "elpv": elpv_source,
    "folder": folder_source,
    "manifest": manifest_source,
    "mvtec": mvtec_source,
    "synthetic": synthetic_source,
    "tfds": tfds_source,
    "visa": visa_source,
}

# Those with categories to find, by the folders of normal images that each of these has.
NORMAL_FOLDERS = {
    "btad": btad.NORMAL_FOLDERS,
    "mvtec": mvtec.NORMAL_FOLDERS,
    "visa": visa.NORMAL_FOLDERS,
}


def build_source(name: str, root: str | Path, category: str, **settings: Any) -> Source:
    """The data set called `name` in the settings.

    Args:
        name: one of `SOURCES`.
        root: where its files lie; "" where it needs none.
        category: the product; "" where it has but one.
        **settings: the source's own, as its function documents them.

    Raises:
        UserError: no such source or setting, or the data are not as expected.
    """
    if name not in SOURCES:
        raise UserError(f"data.source: '{name}' is not one of {', '.join(sorted(SOURCES))}")
    build = SOURCES[name]
    known = [p for p in inspect.signature(build).parameters if p not in ("root", "category")]
    for setting in settings:
        if setting not in known:
            raise UserError(
                f"data.settings.{setting}: source '{name}' has no such setting; it has "
                f"{', '.join(known) or 'none of its own'}"
            )
    return build(root=root, category=category, **settings)


def find_categories(source: str, root: str | Path) -> list[str]:
    """The categories under a root, sorted; [""] for a source that has but one, or none to see.

    A missing root gives [""] too: the source itself says best what it lacks.
    """
    folder = Path(root)
    if source not in NORMAL_FOLDERS or not str(root) or not folder.is_dir():
        return [""]
    found = [
        path.name
        for path in sorted(folder.iterdir())
        if any((path / normal).is_dir() for normal in NORMAL_FOLDERS[source])
    ]
    return found or [""]
