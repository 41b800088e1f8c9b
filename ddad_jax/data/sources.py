"""All data sets, by their names in the settings."""

import inspect
from pathlib import Path
from typing import Any

from absl import logging

from ddad_jax.data import (
    btad,
    dagm,
    elpv,
    folder,
    ksdd,
    ksdd2,
    manifest,
    mvtec,
    mvtec_3d,
    mvtec_ad2,
    mvtec_loco,
    real_iad,
    synthetic,
    tfds,
    visa,
)
from ddad_jax.data.sample import Source
from ddad_jax.errors import UserError

# All data sets; each is a module of this package, listed here.
_MODULES = (
    *(btad, dagm, elpv, folder, ksdd, ksdd2, manifest, mvtec, mvtec_3d, mvtec_ad2, mvtec_loco),
    *(real_iad, synthetic, tfds, visa),
)
DATASETS = {each.DATASET.name: each.DATASET for each in _MODULES}


def build_source(name: str, root: str | Path, category: str, **settings: Any) -> Source:
    """Builds the source that the settings call `name`.

    Args:
        name: one of `DATASETS`.
        root: where its files are; "" if it needs none.
        category: the product; "" if there is only one.
        **settings: the source's own settings, as its function documents them.

    Raises:
        UserError: there is no such source or setting, or the data are not as expected.
    """
    if name not in DATASETS:
        raise UserError(f"data.source: '{name}' is not one of {', '.join(sorted(DATASETS))}")
    build = DATASETS[name].build
    known = [p for p in inspect.signature(build).parameters if p not in ("root", "category")]
    for setting in settings:
        if setting not in known:
            raise UserError(
                f"data.settings.{setting}: source '{name}' has no such setting; it has "
                f"{', '.join(known) or 'none of its own'}"
            )
    return build(root=root, category=category, **settings)


def find_categories(source: str, root: str | Path) -> list[str]:
    """Returns the categories under a root, sorted; [""] if there is only one, or none is found.

    A missing root gives [""] too: the source itself reports it best.
    """
    return _found(source, root) or [""]


def check_recognised(source: str, root: str | Path) -> None:
    """Warns in the log if a folder is laid out as another data set than the source's.

    Raises:
        UserError: it is, and the source would find nothing in it.
    """
    other = recognise(source, root)
    if other in ("", source) or source not in DATASETS:
        return
    said = (
        f"data.root: '{root}' is laid out as {DATASETS[other].title}, but data.source is "
        f"'{source}'; use --config.data.source={other}"
    )
    if DATASETS[source].find and not _found(source, root):
        raise UserError(said)
    logging.warning("%s", said)


def recognise(source: str, root: str | Path) -> str:
    """Returns the name of the data set that a folder holds; "" if its layout fits none.

    Args:
        source: the expected one; returned if it fits, unless it is `shared` and another is not.
        root: the folder.
    """
    found = [name for name in DATASETS if _found(name, root)]
    found = [name for name in found if not DATASETS[name].shared] or found
    if source in found:
        return source
    return found[0] if found else ""


def _found(name: str, root: str | Path) -> list[str]:
    find = DATASETS[name].find if name in DATASETS else None
    if find is None or not str(root) or not Path(root).is_dir():
        return []
    try:
        return find(Path(root))
    except OSError:
        # The source itself reports best what cannot be read.
        return []
