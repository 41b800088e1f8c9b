"""KolektorSDD2 (Božič et al., Computers in Industry 2021), CC BY-NC-SA 4.0.

    <root>/<train or test>/NNNNN.png
    <root>/<train or test>/NNNNN_GT.png      black where there is no defect

2,331 training images, 246 of them defective, and 1,004 test images, 110 of them defective; the
split is the published one.
"""

from pathlib import Path

from ddad_jax.data.beside import read_marks, sample_of, without_defects
from ddad_jax.data.dataset import Dataset
from ddad_jax.data.files import FileSource, images_below, require_folder, require_root
from ddad_jax.data.sample import Sample

_ENDING = "_GT.png"


def ksdd2_source(root: str | Path, category: str = "") -> FileSource:
    """Returns KolektorSDD2 without its defective training images.

    Args:
        root: the folder that holds train and test.
        category: names the results.

    Raises:
        UserError: a folder or a mask is missing.
    """
    root = require_root(root)
    train, test = (_samples(root, category, split) for split in ("train", "test"))
    return FileSource(category, (*without_defects(train, root), *test), mask_rule="nonzero")


def _samples(root: Path, category: str, split: str) -> list[Sample]:
    require_folder(root / split, "data.root", "Name the folder that holds train and test.")
    marked = read_marks(images_below(root / split), _ENDING)
    return [sample_of(each, root, category, split) for each in marked]


def _find(root: Path) -> list[str]:
    return [""] if any((root / "train").glob(f"*{_ENDING}")) else []


DATASET = Dataset("ksdd2", "KolektorSDD2", ksdd2_source, _find)
