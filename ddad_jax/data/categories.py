"""Which categories a data set holds."""

from pathlib import Path

# Where the normal training images of a category lie, in each layout that has categories.
MARKERS = {"mvtec": ("train/good",), "btad": ("train/ok",), "visa": ("Data/Images", "train/good")}


def find_categories(source: str, root: str | Path) -> list[str]:
    """The categories under a root, sorted; [""] for a source that has but one, or none to see.

    A missing root gives [""] too: the source itself says best what it lacks.
    """
    folder = Path(root)
    if source not in MARKERS or not str(root) or not folder.is_dir():
        return [""]
    found = [
        path.name
        for path in sorted(folder.iterdir())
        if any((path / marker).is_dir() for marker in MARKERS[source])
    ]
    return found or [""]
