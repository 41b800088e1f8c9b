"""DAGM 2007 (Wieler et al.), generated textures, in the layout of Heidelberg and Kaggle.

    <root>/<Class1 to Class10>/<Train or Test>/NNNN.PNG
    <root>/<Class1 to Class10>/<Train or Test>/Label/NNNN_label.PNG      of defective images only

The masks are ellipses around the defects. 8,050 training and as many test images; 2,100 of all
images have a defect.
"""

from pathlib import Path

from ddad_jax.data.beside import without_defects
from ddad_jax.data.dataset import Dataset, folders_with
from ddad_jax.data.files import (
    FileSource,
    find_mask,
    masks_in,
    name_of,
    require_category,
    require_images,
    require_root,
)
from ddad_jax.data.sample import ANOMALOUS, NORMAL, Sample


def dagm_source(root: str | Path, category: str) -> FileSource:
    """Returns one class of DAGM 2007 without its defective training images.

    Args:
        root: the folder that holds Class1 to Class10.
        category: one of them.

    Raises:
        UserError: a folder is missing or empty.
    """
    root = require_root(root)
    home = require_category(root, category, "Train/Label")
    train, test = (_samples(root, home, split) for split in ("Train", "Test"))
    return FileSource(category, (*without_defects(train, home), *test), mask_rule="nonzero")


def _samples(root: Path, home: Path, split: str) -> list[Sample]:
    folder = home / split
    masks = masks_in(folder / "Label")
    samples = []
    for path in require_images(folder, "data.root", "Download the data set again."):
        mask = find_mask(masks, path)
        samples.append(
            Sample(
                name=name_of(path, root),
                label=NORMAL if mask is None else ANOMALOUS,
                defect="good" if mask is None else "defect",
                split=split.lower(),
                category=home.name,
                image=path,
                mask=mask,
            )
        )
    return samples


DATASET = Dataset("dagm", "DAGM 2007", dagm_source, folders_with("Train/Label"))
