"""A table of images: CSV (separated by comma, semicolon or tab) or Parquet.

| column | holds | without it |
|---|---|---|
| image | a path, relative to the table's folder or absolute | an error |
| split | train or test | good images are for training, all others for testing |
| label | 0, 1, -1 or a word such as good or bad | by the defect; else unknown for test, or good |
| defect | good, or the defect's name | good, defect or unknown, by the label |
| mask | a path, or nothing | no masks |
| category | what the image shows | one category |
| group | images of one part share it | every image is a part of its own |

Other columns are ignored.
"""

import csv
from collections.abc import Iterator
from pathlib import Path, PureWindowsPath

from ddad_jax.data.dataset import Dataset
from ddad_jax.data.files import FileSource
from ddad_jax.data.labels import is_normal, label_of
from ddad_jax.data.read import FULL_RANGE
from ddad_jax.data.sample import ANOMALOUS, NORMAL, UNKNOWN, Sample
from ddad_jax.errors import UserError

_NUMBERS = {
    **dict.fromkeys(("0", "false"), NORMAL),
    **dict.fromkeys(("1", "true"), ANOMALOUS),
    **dict.fromkeys(("-1", ""), UNKNOWN),
}
_DEFECTS = {NORMAL: "good", ANOMALOUS: "defect", UNKNOWN: "unknown"}


def manifest_source(
    root: str | Path,
    category: str = "",
    mask_rule: str = "auto",
    white_level: int = FULL_RANGE,
) -> FileSource:
    """Returns the images that a table lists.

    Args:
        root: the table, `.csv`, `.tsv`, `.txt` or `.parquet`.
        category: takes the rows of this category; "" if there is only one.
        mask_rule: how masks are read; see `read`.
        white_level: the value of 16-bit grey images that stands for white.

    Raises:
        UserError: the table or a file it names is missing, or a row contradicts itself.
    """
    if not str(root):
        raise UserError("data.root: is not set. Use --config.data.root=<table.csv>.")
    table = Path(root)
    if not table.is_file():
        raise UserError(
            f"data.root: '{table}' is not a file; name a CSV or Parquet table of images"
        )
    rows = list(_read_parquet(table) if table.suffix.lower() == ".parquet" else _read_csv(table))
    if not rows or "image" not in rows[0][1]:
        found = ", ".join(rows[0][1]) if rows else "no rows"
        raise UserError(f"{table}: expected rows with a column 'image'; found {found}")
    samples = [_read_row(table, place, row) for place, row in rows]
    samples = _of_category(table, samples, category)
    names = set()
    for sample in samples:
        if sample.name in names:
            raise UserError(f"{table}: names '{sample.name}' twice")
        names.add(sample.name)
    if not any(sample.split == "train" for sample in samples):
        raise UserError(f"{table}: no row is a training image (split train, label good)")
    samples.sort(key=lambda sample: (sample.split != "train", sample.name))
    return FileSource(category, tuple(samples), mask_rule, white_level)


def _of_category(table: Path, samples: list[Sample], category: str) -> list[Sample]:
    categories = sorted({sample.category for sample in samples})
    if category and category not in categories and categories != [""]:
        raise UserError(
            f"data.category: '{category}' is not in '{table}'; there are {', '.join(categories)}"
        )
    if not category and len(categories) > 1:
        raise UserError(f"data.category: is not set; there are {', '.join(categories)}")
    return [sample for sample in samples if sample.category in ("", category) or not category]


def _read_csv(table: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Yields the place of each row, for errors, and its cells by column."""
    try:
        text = table.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{table}: is not UTF-8 text; save it as 'CSV UTF-8'") from error
    lines = text.splitlines()
    header = lines[0] if lines else ""
    rows = csv.DictReader(lines, delimiter=max(",;\t", key=header.count))
    for row in rows:
        yield (
            f"{table}: line {rows.line_num}",
            {
                name.strip().lower(): (cell or "").strip()
                for name, cell in row.items()
                if name is not None
            },
        )


def _read_parquet(table: Path) -> Iterator[tuple[str, dict[str, str]]]:
    try:
        from pyarrow import ArrowInvalid, parquet
    except ImportError as error:
        raise UserError(
            f"data.root: '{table}' needs the package pyarrow; install it with: pip install pyarrow"
        ) from error
    try:
        rows = parquet.read_table(table).to_pylist()
    except ArrowInvalid as error:
        raise UserError(f"{table}: is not a Parquet table ({error})") from error
    for number, row in enumerate(rows, start=1):
        cells = {
            name.strip().lower(): "" if cell is None else str(cell).strip()
            for name, cell in row.items()
        }
        yield f"{table}: row {number}", cells


def _read_row(table: Path, place: str, row: dict[str, str]) -> Sample:
    split = row.get("split", "").lower()
    label = _label_of(place, row, split)
    split = split or ("train" if label == NORMAL else "test")
    if split not in ("train", "test"):
        raise UserError(f"{place} has split '{split}'; expected train or test")
    if split == "train" and label != NORMAL:
        raise UserError(
            f"{place} is a training image, but its label is '{row.get('label', '')}'; "
            "only good images are trained on"
        )
    image = table.parent / _as_path(table, row["image"])
    has_mask = row.get("mask") and label != NORMAL
    mask = table.parent / _as_path(table, row["mask"]) if has_mask else None
    for path in (image, mask):
        if path is not None and not path.is_file():
            raise UserError(f"{place} names '{path}', which does not exist")
    return Sample(
        name=_as_path(table, row["image"]),
        label=label,
        defect=_DEFECTS[label] if label != ANOMALOUS else row.get("defect") or _DEFECTS[label],
        split=split,
        category=row.get("category", ""),
        group=row.get("group") or None,
        image=image,
        mask=mask,
    )


def _as_path(table: Path, text: str) -> str:
    """Returns a path with forward slashes, even if it was written on Windows."""
    as_written = Path(text).as_posix()
    is_there = (table.parent / as_written).is_file()
    return as_written if is_there else PureWindowsPath(text).as_posix()


def _label_of(place: str, row: dict[str, str], split: str) -> int:
    """Returns the label: by its column, or else by the defect, or else by the split."""
    if "label" in row:
        # Tables without a missing value for integers hold 1.0 for 1.
        text = row["label"].lower().removesuffix(".0")
        label = _NUMBERS.get(text, label_of(text))
        if label is None:
            raise UserError(
                f"{place} has label '{row['label']}'; expected 0, 1, -1, or a word such as good, "
                "OK, bad, NG or unknown"
            )
        return label
    if row.get("defect"):
        return NORMAL if is_normal(row["defect"]) else ANOMALOUS
    return UNKNOWN if split == "test" else NORMAL


DATASET = Dataset("manifest", "a table of images", manifest_source)
