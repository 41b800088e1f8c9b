"""Electroluminescence images of solar cells (Buerhop-Lutz et al., 2018; Deitsch et al., 2019).

2,624 grey images of 300×300 pixels with a defect probability of 0, 1/3, 2/3 or 1 and no masks, from
the PyPI package `elpv-dataset` (CC BY-NC-SA 4.0). The data set has no split of its own: here a
share of the cells with probability 0 is tested together with all cells above 0.
"""

from importlib.util import find_spec
from pathlib import Path

import numpy as np

from ddad_jax.data.dataset import Dataset
from ddad_jax.data.files import FileSource
from ddad_jax.data.sample import ANOMALOUS, NORMAL, Sample
from ddad_jax.errors import UserError

CELL_TYPES = ("mono", "poly")
_SPLIT_SEED = 0


def elpv_source(
    root: str | Path = "", category: str = "", test_good_fraction: float = 0.25
) -> FileSource:
    """Returns solar cells; the training images are cells with defect probability 0.

    Args:
        root: the folder of `labels.csv`; "" for the installed package `elpv-dataset`.
        category: "mono" or "poly" crystalline cells; "" for both.
        test_good_fraction: the share of cells with probability 0 that are test images; the choice
            is the same every time.

    Raises:
        UserError: the data are missing, or a setting is out of range.
    """
    if category not in ("", *CELL_TYPES):
        raise UserError(f"data.category: '{category}' is neither 'mono', 'poly' nor empty (both)")
    if not 0 < test_good_fraction < 1:
        raise UserError(
            f"data.settings.test_good_fraction: {test_good_fraction} is not between 0 and 1"
        )
    home = Path(root) if str(root) else _package_folder()
    table = home / "labels.csv"
    if not table.is_file():
        raise UserError(
            f"data.root: '{home}' holds no labels.csv; leave it empty to use elpv-dataset"
        )
    rows = _read_table(table)
    rows = sorted(row for row in rows if category in ("", row[2]))
    good = [name for name, probability, _ in rows if probability == 0]
    order = np.random.default_rng(_SPLIT_SEED).permutation(len(good))
    tested = {good[index] for index in order[: round(test_good_fraction * len(good))]}
    samples = [
        Sample(
            name=name,
            label=ANOMALOUS if probability > 0 else NORMAL,
            defect=f"probability_{round(100 * probability):03d}" if probability > 0 else "good",
            split="test" if probability > 0 or name in tested else "train",
            category=category,
            image=home / name,
        )
        for name, probability, _ in rows
    ]
    samples.sort(key=lambda sample: (sample.split != "train", sample.name))
    return FileSource(category=category, samples=tuple(samples))


def _read_table(table: Path) -> list[tuple[str, float, str]]:
    """Returns the image, defect probability and cell type of each line."""
    rows = []
    for number, line in enumerate(table.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            name, probability, kind = line.split()
            rows.append((name, float(probability), kind))
        except ValueError as error:
            raise UserError(
                f"{table}: line {number} is '{line}'; expected an image, a probability and a type"
            ) from error
    return rows


def _package_folder() -> Path:
    package = find_spec("elpv_dataset")
    if package is None or package.origin is None:
        raise UserError(
            "data.source: 'elpv' needs the package elpv-dataset; "
            "install it with: pip install elpv-dataset"
        )
    return Path(package.origin).parent / "data"


DATASET = Dataset("elpv", "ELPV", elpv_source)
