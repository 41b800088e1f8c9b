"""What settings and commands know about a kind of data set."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ddad_jax.data.sample import Source

# Returns the categories under a root; none if the root holds another data set.
Find = Callable[[Path], list[str]]


@dataclass(frozen=True)
class Dataset:
    """A kind of data set.

    Attributes:
        name: in `data.source`.
        title: its name for readers.
        build: makes a source from a root, a category and the data set's own settings.
        find: returns the categories under a root, sorted; [""] if there is only one. None: a root
            does not show whether it holds this data set.
        shared: whether folders of other data sets may look the same.
    """

    name: str
    title: str
    build: Callable[..., Source]
    find: Find | None = None
    shared: bool = False


def folders_with(*needed: str) -> Find:
    """Returns a function that finds the folders in a root which hold all of the given paths.

    Args:
        *needed: folders or files, as paths below a category's folder.
    """

    def find(root: Path) -> list[str]:
        with os.scandir(root) as entries:
            names = sorted(entry.name for entry in entries if entry.is_dir())
        return [name for name in names if all((root / name / path).exists() for path in needed)]

    return find
