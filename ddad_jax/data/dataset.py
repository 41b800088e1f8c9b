"""What the settings and commands know of a kind of data set."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ddad_jax.data.sample import Source

# The categories that lie under a root; none where it is another data set's.
Find = Callable[[Path], list[str]]


@dataclass(frozen=True)
class Dataset:
    """A kind of data set.

    Attributes:
        name: in `data.source`.
        title: as it is written.
        build: makes a source of a root, a category and the data set's own settings.
        find: the categories under a root, sorted; [""] where there is but one. None: a root does
            not show whether it is this data set's.
        shared: whether folders of other data sets may look the same.
    """

    name: str
    title: str
    build: Callable[..., Source]
    find: Find | None = None
    shared: bool = False


def folders_with(*needed: str) -> Find:
    """Finds the folders in a root that hold all of some folders or files.

    Args:
        *needed: paths below a category's folder.
    """

    def find(root: Path) -> list[str]:
        with os.scandir(root) as entries:
            names = sorted(entry.name for entry in entries if entry.is_dir())
        return [name for name in names if all((root / name / path).exists() for path in needed)]

    return find
