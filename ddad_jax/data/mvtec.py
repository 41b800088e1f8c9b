"""The layout of MVTec AD (Bergmann et al., CVPR 2019).

<root>/<category>/train/good/NNN.png
<root>/<category>/test/<good or defect>/NNN.png
<root>/<category>/ground_truth/<defect>/NNN_mask.png
"""

from pathlib import Path

from ddad_jax.data.files import (
    FileSource,
    find_mask,
    group_of,
    require_category,
    require_images,
    require_root,
    subfolders,
)
from ddad_jax.data.sample import ANOMALOUS, NORMAL, Sample
from ddad_jax.errors import UserError


def mvtec_source(
    root: str | Path, category: str, group_pattern: str = "", mask_rule: str = "auto"
) -> FileSource:
    """One category of a data set in the layout of MVTec AD.

    Args:
        root: the folder that holds the categories.
        category: the product, a folder in `root`.
        group_pattern: finds in a file name which part the image shows; see `files.group_of`.
        mask_rule: how masks are read; see `read`.

    Raises:
        UserError: a folder is missing or empty, or a defect has no mask.
    """
    root = require_root(root)
    home = require_category(root, category, "train/good")
    hint = "For a plain folder of good images use --config=configs/folder.py."
    samples = [
        Sample(
            name=path.relative_to(root).as_posix(),
            label=NORMAL,
            defect="good",
            split="train",
            category=category,
            group=group_of(path, group_pattern),
            image=path,
        )
        for path in require_images(home / "train" / "good", "data.root", hint)
    ]
    if (home / "test").is_dir():
        for folder in subfolders(home / "test"):
            samples += _test_samples(root, home, category, folder, group_pattern)
    return FileSource(category=category, samples=tuple(samples), mask_rule=mask_rule)


def _test_samples(
    root: Path, home: Path, category: str, folder: Path, group_pattern: str
) -> list[Sample]:
    defect = folder.name
    masks = home / "ground_truth" / defect
    samples = []
    for path in require_images(folder, "data.root", "Remove the folder, or fill it."):
        mask = None if defect == "good" else find_mask(masks, path)
        if defect != "good" and mask is None and masks.is_dir():
            raise UserError(
                f"{path}: has no mask; expected '{masks / path.stem}_mask.png'. "
                f"Add it, or remove '{masks}' to do without masks."
            )
        samples.append(
            Sample(
                name=path.relative_to(root).as_posix(),
                label=NORMAL if defect == "good" else ANOMALOUS,
                defect=defect,
                split="test",
                category=category,
                group=group_of(path, group_pattern),
                image=path,
                mask=mask,
            )
        )
    return samples
