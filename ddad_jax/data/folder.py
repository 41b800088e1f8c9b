"""Your own data: a folder of good images, with test images and masks if there are any.

<root>/*                         good training images
<test>/<good, OK, pass, …>/*     good test images; `labels` has the words
<test>/<any other name>/*        images with that defect
<test>/*                         images whose labels are unknown
<masks>[/<defect>]/<stem>[_mask].png
"""

from pathlib import Path

from absl import logging

from ddad_jax.data.dataset import Dataset
from ddad_jax.data.files import (
    FileSource,
    check_masks,
    examples,
    find_images,
    find_mask,
    group_of,
    masks_in,
    name_of,
    readable,
    require_folder,
    require_images,
    require_root,
    subfolders,
)
from ddad_jax.data.labels import is_normal
from ddad_jax.data.read import FULL_RANGE
from ddad_jax.data.sample import ANOMALOUS, NORMAL, UNKNOWN, Sample
from ddad_jax.errors import UserError
from ddad_jax.machine.copies import readable_path


def folder_source(
    root: str | Path,
    category: str = "",
    test: str | Path = "",
    masks: str | Path = "",
    recursive: bool = False,
    group_pattern: str = "",
    mask_rule: str = "auto",
    white_level: int = FULL_RANGE,
) -> FileSource:
    """Returns a plain folder of good images, with test images and masks if there are any.

    Args:
        root: the folder of good images.
        category: what the images show; names the results.
        test: the folder of test images; "" if there are none.
        masks: the folder of masks of the defective test images; "" if there are none. Defective
            images without a mask there count in image metrics only.
        recursive: whether to take the images in folders below `root` too.
        group_pattern: finds the part that an image shows in its file name; see `files.group_of`.
        mask_rule: how masks are read; see `read`.
        white_level: the value of 16-bit grey images that stands for white.

    Raises:
        UserError: a folder is missing or empty, or no mask belongs to an image.
    """
    root = require_root(root)
    hint = "Put the good images there, or set data.settings.recursive=True to look below it."
    if (root / "train").is_dir():
        hint = "For a data set in the layout of MVTec AD use --config=configs/mvtec.py."
    below = [] if recursive else subfolders(root)
    if below:
        logging.warning(
            "data.root: %d folders in '%s' are passed over (%s); data.settings.recursive=True "
            "looks into them",
            len(below), root, examples([readable(each.name) for each in below]),
        )  # fmt: skip
    samples = [
        Sample(
            name=f"train/{name_of(path, root)}",
            label=NORMAL,
            defect="good",
            split="train",
            category=category,
            group=group_of(path, group_pattern),
            image=path,
        )
        for path in require_images(root, "data.root", hint, recursive)
    ]
    if str(test):
        tests = readable_path(test, "data.settings.test")
        masks = readable_path(masks, "data.settings.masks") if str(masks) else ""
        samples += _test_samples(tests, str(masks), category, group_pattern)
    elif str(masks):
        raise UserError(
            "data.settings.masks: is set, but data.settings.test is not; set it to the images they "
            "mark"
        )
    return FileSource(category, tuple(samples), mask_rule, white_level)


def unlabelled(path: str | Path) -> FileSource:
    """Returns one image, or all images in a folder and below it, to predict on.

    Their labels are unknown, and their split is "test".
    """
    path = Path(path)
    if path.is_file():
        home, paths = path.parent, [path]
    else:
        hint = "Name an image or a folder of images."
        home, paths = path, require_images(path, "--images", hint, recursive=True)
    return FileSource("", tuple(_unknown(name_of(image, home), image, "") for image in paths))


def _test_samples(test: Path, masks: str, category: str, group_pattern: str) -> list[Sample]:
    require_folder(test, "data.settings.test", "Leave it empty if there are no test images.")
    if masks:
        require_folder(Path(masks), "data.settings.masks", "Leave it empty if there are no masks.")
    kinds = subfolders(test)
    # A folder with the name of a defect holds that defect's masks, not those of one image.
    defects = {kind.name.casefold() for kind in kinds}
    flat = {
        stem: mask
        for stem, mask in (masks_in(Path(masks)) if masks else {}).items()
        if stem not in defects or mask.is_file()
    }
    samples = [
        _unknown(f"test/{name_of(path, test)}", path, category) for path in find_images(test)
    ]
    for kind in kinds:
        is_good = is_normal(kind.name)
        own = masks_in(Path(masks) / kind.name) if masks else {}
        for path in find_images(kind):
            mask = None if is_good else find_mask(own, path) or find_mask(flat, path)
            samples.append(
                Sample(
                    name=f"test/{name_of(path, test)}",
                    label=NORMAL if is_good else ANOMALOUS,
                    defect="good" if is_good else kind.name,
                    split="test",
                    category=category,
                    group=group_of(path, group_pattern),
                    image=path,
                    mask=mask,
                )
            )
    if not samples:
        raise UserError(
            f"data.settings.test: '{test}' holds no images, neither directly nor one level down"
        )
    if masks and not any(sample.label == ANOMALOUS for sample in samples):
        raise UserError(
            f"data.settings.masks: no image in '{test}' is known to have a defect; put those that "
            f"have one into a folder named after it, such as '{test / 'scratch'}'"
        )
    if masks and all(sample.mask is None for sample in samples):
        raise UserError(
            f"data.settings.masks: '{masks}' holds no mask of any image in '{test}' "
            "(looked for [<defect>/]<stem>.png and [<defect>/]<stem>_mask.png)"
        )
    check_masks(samples, "data.settings.masks")
    return samples


def _unknown(name: str, path: Path, category: str) -> Sample:
    return Sample(
        name=name, label=UNKNOWN, defect="unknown", split="test", category=category, image=path
    )


DATASET = Dataset("folder", "a folder of your own", folder_source)
