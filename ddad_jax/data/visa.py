"""VisA (Zou et al., ECCV 2022), as released and as rearranged by its authors' script.

As released:
    <root>/<category>/Data/Images/<Normal or Anomaly>/*.JPG
    <root>/<category>/Data/Masks/Anomaly/*.png
    <root>/split_csv/1cls.csv        columns object, split, label, image, mask

Rearranged:
    <root>/<category>/train/good/*.JPG
    <root>/<category>/test/<good or bad>/*.JPG
    <root>/<category>/ground_truth/bad/*.png

In a mask every value but 0 is a defect. The only kind of defect is called "bad" in both layouts.
"""

import csv
from pathlib import Path

from ddad_jax.data.dataset import Dataset, folders_with
from ddad_jax.data.files import FileSource, require_category, require_root
from ddad_jax.data.labels import label_of
from ddad_jax.data.layout import Layout, read_layout
from ddad_jax.data.sample import ANOMALOUS, NORMAL, Sample
from ddad_jax.errors import UserError

_COLUMNS = ("object", "split", "label", "image", "mask")


def visa_source(root: str | Path, category: str) -> FileSource:
    """Returns one category of VisA, in either layout.

    Args:
        root: the folder that holds the categories.
        category: a folder in `root`.

    Raises:
        UserError: a folder, the table of splits or a file named there is missing.
    """
    root = require_root(root)
    if (root / category / "train" / "good").is_dir():
        samples = read_layout(root, category, Layout())
    else:
        require_category(root, category, "Data/Images")
        samples = _read_table(root, category)
    return FileSource(category=category, samples=samples, mask_rule="nonzero")


def _read_table(root: Path, category: str) -> tuple[Sample, ...]:
    table = root / "split_csv" / "1cls.csv"
    if not table.is_file():
        raise UserError(
            f"data.root: '{table}' does not exist; it says which images are for testing"
        )
    with table.open(newline="", encoding="utf-8-sig") as lines:
        rows = csv.DictReader(lines, restval="")
        missing = set(_COLUMNS) - set(rows.fieldnames or ())
        if missing:
            raise UserError(f"{table}: has no column {', '.join(sorted(missing))}")
        samples = [
            _read_row(root, f"{table}: line {rows.line_num}", row)
            for row in rows
            if row["object"] == category
        ]
    if not any(sample.split == "train" for sample in samples):
        raise UserError(f"{table}: names no training image of object '{category}'")
    return tuple(sorted(samples, key=lambda sample: (sample.split != "train", sample.name)))


def _read_row(root: Path, place: str, row: dict[str, str]) -> Sample:
    label = label_of(row["label"])
    if label not in (NORMAL, ANOMALOUS) or row["split"] not in ("train", "test"):
        raise UserError(
            f"{place} has split '{row['split']}' and label '{row['label']}'; "
            "expected train or test, and normal or anomaly"
        )
    if row["split"] == "train" and label != NORMAL:
        raise UserError(
            f"{place}: '{row['image']}' is labelled '{row['label']}' and in train, but only good "
            "images are trained on; move it to test"
        )
    mask = root / row["mask"] if row["mask"] and label != NORMAL else None
    for path in (root / row["image"], mask):
        if path is not None and not path.is_file():
            raise UserError(f"{place} names '{path}', which does not exist")
    return Sample(
        name=row["image"],
        label=label,
        defect="good" if label == NORMAL else "bad",
        split=row["split"],
        category=row["object"],
        image=root / row["image"],
        mask=mask,
    )


def _find(root: Path) -> list[str]:
    released, rearranged = folders_with("Data/Images"), folders_with("train/good")
    return sorted({*released(root), *rearranged(root)})


DATASET = Dataset("visa", "VisA", visa_source, _find, shared=True)
