"""Real-IAD (Wang et al., CVPR 2024), CC BY-NC-SA 4.0, with the splits of its JSON files.

    <root>/realiad_1024/<category>/OK/SNNNN/*.jpg
    <root>/realiad_1024/<category>/NG/<defect>/SNNNN/*.jpg and *.png
    <root>/realiad_jsons[/realiad_jsons]/<category>.json

A split lists images under "train" and "test", each with image_path and mask_path, below the
category's folder, and anomaly_class, OK or a defect. Each part, SNNNN, was photographed from five
sides. 30 categories, with 99,721 good and 51,329 defective images.
"""

import json
from pathlib import Path
from typing import Any

from ddad_jax.data.dataset import Dataset
from ddad_jax.data.files import FileSource, require_folder, require_root
from ddad_jax.data.sample import ANOMALOUS, NORMAL, Sample
from ddad_jax.errors import UserError

_SPLITS = "realiad_jsons"
_NORMAL = "OK"


def real_iad_source(
    root: str | Path, category: str, images: str = "realiad_1024", split: str = _SPLITS
) -> FileSource:
    """Returns one category of Real-IAD; the views of one part are grouped.

    Args:
        root: the folder that holds the folders of images and of splits.
        category: the name of a split's file.
        images: the folder of the images, "realiad_1024", "realiad_512", "realiad_256" or
            "realiad_raw".
        split: the folder of the splits, "realiad_jsons", or "realiad_jsons_sv" for one view of
            each part.

    Raises:
        UserError: a folder or a file is missing, or a split is not valid.
    """
    root = require_root(root)
    found = {path.stem: path for path in _split_files(root, split)}
    if category not in found:
        there = ", ".join(sorted(found)) or f"no {split}/<category>.json"
        raise UserError(f"data.category: '{category}' is not in '{root}'; there is {there}")
    home = root / images / category
    require_folder(home, "data.settings.images", "Name the folder of the images in data.root.")
    samples = _read_split(root, home, category, found[category])
    return FileSource(category, samples, mask_rule="nonzero")


def _split_files(root: Path, split: str) -> list[Path]:
    """Returns the split files of all categories; the archive has them one folder deeper."""
    inner = sorted((root / _SPLITS / split).glob("*.json"))
    return inner or sorted((root / split).glob("*.json"))


def _read_split(root: Path, home: Path, category: str, path: Path) -> tuple[Sample, ...]:
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
        samples = [
            _sample(root, home, category, split, row)
            for split in ("train", "test")
            for row in table[split]
        ]
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path}: is not a split of Real-IAD, with image_path, mask_path and anomaly_class of "
            f"each image of train and test ({type(error).__name__}: {error}); download it again"
        ) from error
    samples.sort(key=lambda sample: (sample.split != "train", sample.name))
    return tuple(samples)


def _sample(root: Path, home: Path, category: str, split: str, row: dict[str, Any]) -> Sample:
    image, kind = home / row["image_path"], row["anomaly_class"]
    mask = home / row["mask_path"] if row["mask_path"] and kind != _NORMAL else None
    for each in (image, mask):
        if each is not None and not each.is_file():
            raise UserError(f"{each}: does not exist, but the split of '{category}' names it")
    if split == "train" and kind != _NORMAL:
        raise UserError(
            f"{image}: has the defect {kind} and is a training image, but those must be good; "
            "choose another data.settings.split"
        )
    return Sample(
        name=image.relative_to(root).as_posix(),
        label=NORMAL if kind == _NORMAL else ANOMALOUS,
        defect="good" if kind == _NORMAL else kind,
        split=split,
        category=category,
        group=image.parent.relative_to(home).as_posix(),
        image=image,
        mask=mask,
    )


def _find(root: Path) -> list[str]:
    return [path.stem for path in _split_files(root, _SPLITS)]


DATASET = Dataset("real_iad", "Real-IAD", real_iad_source, _find)
