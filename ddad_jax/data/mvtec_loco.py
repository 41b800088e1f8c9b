"""MVTec LOCO AD (Bergmann et al., IJCV 2022), CC BY-NC-SA 4.0.

    <root>/<category>/train/good/NNN.png
    <root>/<category>/validation/good/NNN.png
    <root>/<category>/test/<good, logical_anomalies or structural_anomalies>/NNN.png
    <root>/<category>/ground_truth/<logical_anomalies or …>/NNN/NNN.png      one per defect
    <root>/<category>/defects_config.json

The value of a mask's pixels names the kind of defect, and the table says how much of such a defect
must be found: if any of several places may be the wrong one, all are marked, and one is enough.
Five categories with 1,778 training, 305 validation and 1,568 test images.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ddad_jax.data.dataset import Dataset, folders_with
from ddad_jax.data.files import FileSource, mask_files, require_root
from ddad_jax.data.layout import Layout, read_layout
from ddad_jax.data.read import read_values
from ddad_jax.data.sample import Sample, SaturatedRegion
from ddad_jax.errors import UserError

_LAYOUT = Layout(validation="validation/good")
_TABLE = "defects_config.json"


@dataclass(frozen=True)
class Saturation:
    """How much of a kind of defect must be found.

    Attributes:
        threshold: a number of pixels, or a share of the defect.
        relative: whether it is a share.
    """

    threshold: float
    relative: bool

    def pixels(self, area: int) -> int:
        """Returns how many of a defect's `area` pixels must be found: rounded down, at least 1."""
        wanted = self.threshold * area if self.relative else min(self.threshold, area)
        return max(int(wanted), 1)


@dataclass(frozen=True)
class LocoSource(FileSource):
    """Samples of MVTec LOCO AD.

    Attributes:
        saturations: for each kind of defect, by the value of its masks' pixels.
    """

    saturations: Mapping[int, Saturation] = field(default_factory=dict)

    def read_regions(self, sample: Sample) -> list[SaturatedRegion]:
        """Returns the defects of an image, one per mask file.

        Raises:
            UserError: a mask cannot be read, or does not hold exactly one value of the table.
        """
        paths = [] if sample.mask is None else mask_files(sample.mask)
        return [self._read_region(path) for path in paths]

    def _read_region(self, path: Path) -> SaturatedRegion:
        values = read_values(path)
        kinds = np.unique(values[values > 0]).tolist()
        if len(kinds) != 1 or kinds[0] not in self.saturations:
            known = ", ".join(map(str, sorted(self.saturations)))
            raise UserError(
                f"{path}: holds the values {kinds or 'of no defect'}; expected one of those in "
                f"{_TABLE}, {known}"
            )
        mask = values > 0
        return SaturatedRegion(mask, self.saturations[kinds[0]].pixels(int(mask.sum())))


def mvtec_loco_source(root: str | Path, category: str) -> LocoSource:
    """Returns one category of MVTec LOCO AD; its validation images are held out.

    Args:
        root: the folder that holds the categories.
        category: a folder in `root`.

    Raises:
        UserError: a folder or the table of defects is missing, or a defective image has no mask.
    """
    root = require_root(root)
    samples = read_layout(root, category, _LAYOUT)
    saturations = _read_table(root / category / _TABLE)
    return LocoSource(category, samples, mask_rule="nonzero", saturations=saturations)


def _read_table(path: Path) -> dict[int, Saturation]:
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
        return {
            row["pixel_value"]: Saturation(
                float(row["saturation_threshold"]), bool(row["relative_saturation"])
            )
            for row in rows
        }
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read ({error.strerror}); it comes with the data set"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path}: is not a list of defects with pixel_value, saturation_threshold and "
            f"relative_saturation ({type(error).__name__}: {error}); download it again"
        ) from error


DATASET = Dataset(
    "mvtec_loco",
    "MVTec LOCO AD",
    mvtec_loco_source,
    folders_with("train/good", "test/logical_anomalies", _TABLE),
)
