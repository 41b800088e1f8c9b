"""The layout of MVTec AD, and its variants in other data sets.

<root>/<category>/train/good/*
<root>/<category>/test/<good or defect>/*
<root>/<category>/ground_truth/<defect>/<stem>[_mask].*, or a folder <stem> of several
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Layout:
    """Where the images of a category are, as folders below its own.

    Attributes:
        train: good training images.
        validation: good images that the data set holds out; "": it holds out none.
        test: holds a folder for each kind, good or a defect.
        masks: masks of the images of a kind, whose folder's name replaces {kind}.
        images: the images, below the folder of a kind; "": that folder itself.
    """

    train: str = "train/good"
    validation: str = ""
    test: str = "test"
    masks: str = "ground_truth/{kind}"
    images: str = ""


def read_layout(
    root: Path, category: str, layout: Layout, group_pattern: str = ""
) -> tuple[Sample, ...]:
    """Returns the samples of one category, train before test.

    Args:
        root: the folder that holds the categories.
        category: a folder in `root`.
        layout: where its images are; good test images may be called by any word in `labels`.
        group_pattern: finds the part that an image shows in its file name; see `files.group_of`.

    Raises:
        UserError: a folder is missing or empty, or a kind of defect has masks for some images only.
    """
    home = require_category(root, category, layout.train)
    samples = [*_training(root, category, layout, group_pattern)]
    tests = home / layout.test
    kinds = subfolders(tests) if tests.is_dir() else []
    for folder in kinds:
        if folder == (home / layout.masks).parent:
            continue
        defective = not is_normal(folder.name)
        marked = home / layout.masks.format(kind=folder.name)
        masks = masks_in(marked) if defective and marked.is_dir() else None
        images = folder / layout.images
        for path in require_images(images, "data.root", "Remove the folder, or fill it."):
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


def _training(root: Path, category: str, layout: Layout, group_pattern: str) -> Iterator[Sample]:
    hint = "For a plain folder of good images use --config=configs/folder.py."
    for folder in filter(None, (layout.train, layout.validation)):
        for path in require_images(root / category / folder, "data.root", hint):
            yield Sample(
                name=name_of(path, root),
                label=NORMAL,
                defect="good",
                split="train",
                category=category,
                group=group_of(path, group_pattern),
                image=path,
                validation=folder == layout.validation,
            )


def _mask_of(image: Path, masks: Mapping[str, Path], folder: Path) -> Path:
    mask = find_mask(masks, image)
    if mask is None:
        raise UserError(
            f"{image}: has no mask; expected '{folder / image.stem}_mask.png'. "
            f"Add it, or remove '{folder}' to do without masks."
        )
    return mask
