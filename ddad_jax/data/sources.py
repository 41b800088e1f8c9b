"""The data sets by the names that settings have for them."""

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

# All there are: a data set is a module of this package and its name here.
_MODULES = (
    *(btad, dagm, elpv, folder, ksdd, ksdd2, manifest, mvtec, mvtec_3d, mvtec_ad2, mvtec_loco),
    *(real_iad, synthetic, tfds, visa),
)
DATASETS = {each.DATASET.name: each.DATASET for each in _MODULES}


def build_source(name: str, root: str | Path, category: str, **settings: Any) -> Source:
    """The data set called `name` in the settings.

    Args:
        name: one of `DATASETS`.
        root: where its files lie; "" where it needs none.
        category: the product; "" where it has but one.
        **settings: the source's own, as its function documents them.

    Raises:
        UserError: no such source or setting, or the data are not as expected.
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
    """The categories under a root, sorted; [""] for a source that has but one, or none to see.

    A missing root gives [""] too: the source itself says best what it lacks.
    """
    return _found(source, root) or [""]


def check_recognised(source: str, root: str | Path) -> None:
    """Says in the log where a folder is laid out as another data set than the source's.

    Raises:
        UserError: it is, and holds nothing that the source would find.
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
    """The name of the data set that a folder holds; "" where it is like none.

    Args:
        source: what it is meant to be, which it is unless a layout of no other says otherwise.
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
        # The source itself says best what cannot be read.
        return []
