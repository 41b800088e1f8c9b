"""The layout shared by MVTec AD, BTAD and the rearranged VisA.

<root>/<category>/train/<good>/*
<root>/<category>/test/<good or defect>/*
<root>/<category>/ground_truth/<defect>/<stem>[_mask].*, or a folder <stem> of several
"""

from collections.abc import Mapping
from pathlib import Path

from ddad_jax.data.files import (
    check_masks,
    find_mask,
    group_of,
    masks_in,
    name_of,
    require_category,
    require_images,
    subfolders,
)
from ddad_jax.data.labels import is_normal
from ddad_jax.data.sample import ANOMALOUS, NORMAL, Sample
from ddad_jax.errors import UserError


def read_layout(root: Path, category: str, good: str, group_pattern: str) -> tuple[Sample, ...]:
    """The samples of one category, train before test.

    Args:
        root: the folder that holds the categories.
        category: a folder in `root`.
        good: the name of the folder of normal training images; among test images any word of
            `labels` for normal is one.
        group_pattern: finds in a file name which part the image shows; see `files.group_of`.

    Raises:
        UserError: a folder is missing or empty, or a defect has masks for some images only.
    """
    home = require_category(root, category, f"train/{good}")
    hint = "For a plain folder of good images use --config=configs/folder.py."
    samples = [
        Sample(
            name=name_of(path, root),
            label=NORMAL,
            defect="good",
            split="train",
            category=category,
            group=group_of(path, group_pattern),
            image=path,
        )
        for path in require_images(home / "train" / good, "data.root", hint)
    ]
    kinds = subfolders(home / "test") if (home / "test").is_dir() else []
    for folder in kinds:
        defective = not is_normal(folder.name)
        marked = home / "ground_truth" / folder.name
        masks = masks_in(marked) if defective and marked.is_dir() else None
        for path in require_images(folder, "data.root", "Remove the folder, or fill it."):
            samples.append(
                Sample(
                    name=name_of(path, root),
                    label=ANOMALOUS if defective else NORMAL,
                    defect=folder.name if defective else "good",
                    split="test",
                    category=category,
                    group=group_of(path, group_pattern),
                    image=path,
                    mask=None if masks is None else _mask_of(path, masks, marked),
                )
            )
    check_masks(samples, "data.root")
    return tuple(samples)


def _mask_of(image: Path, masks: Mapping[str, Path], folder: Path) -> Path:
    mask = find_mask(masks, image)
    if mask is None:
        raise UserError(
            f"{image}: has no mask; expected '{folder / image.stem}_mask.png'. "
            f"Add it, or remove '{folder}' to do without masks."
        )
    return mask
