"""Every metric of an evaluation: its key, its label, and where it is shown.

A new metric takes its computation and one line in `MEASURES`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

# What a metric is of: the calibration, decisions by its threshold, images by their scores, pixels
# by their maps, regions by thresholds from good images, MVTec LOCO AD, which has its own metrics,
# reconstructions, or what D3AD's code computes, with protocol "paper" only.
Kind = Literal["calibration", "decision", "image", "pixel", "region", "loco", "restored", "d3ad"]


@dataclass(frozen=True)
class Measure:
    """One metric of a category.

    Attributes:
      key: its name in metrics.json and results.csv.
      label: its name for readers.
      kind: see `Kind`; metrics of decisions are under `decision` in metrics.json.
      averaged: whether it is in the results, with its mean over categories. A threshold is not: its
        unit is that of its category's scores.
      column: whether the report's table has a column for it.
      headline: whether the report shows it at the top.
      paper: its name in the tables for papers, beside published values; "" if it is not in them.
    """

    key: str
    label: str
    kind: Kind
    averaged: bool = True
    column: bool = True
    headline: bool = False
    paper: str = ""

    def of(self, metrics: Mapping[str, Any]) -> float | None:
        """Returns its value in metrics from `compute_metrics`; None if there is none."""
        place = metrics["decision"] if self.kind == "decision" else metrics
        return place.get(self.key)


def _threshold(key: str, label: str, kind: Kind) -> Measure:
    return Measure(key, label, kind, averaged=False, column=False)


# In the order in which they are shown.
MEASURES = (
    _threshold("threshold", "threshold", "calibration"),
    Measure("recall", "recall at threshold", "decision"),
    # The rows of the report's table are kinds of defects, and all have the same false alarms.
    Measure("false_alarm_rate", "false-alarm rate", "decision", column=False),
    Measure("image_auroc", "image AUROC", "image", headline=True, paper="image AUROC"),
    Measure("image_ap", "image AP", "image", headline=True),
    Measure("image_f1_max", "image F1-max", "image"),
    _threshold("image_f1_max_threshold", "threshold of image F1-max", "image"),
    Measure("pixel_auroc", "pixel AUROC", "pixel", headline=True, paper="pixel AUROC"),
    Measure("pixel_ap", "pixel AP", "pixel"),
    Measure("pixel_f1_max", "pixel F1-max", "pixel"),
    _threshold("pixel_f1_max_threshold", "threshold of pixel F1-max", "pixel"),
    Measure("aupro", "AUPRO (0.3)", "pixel", headline=True, paper="AUPRO"),
    Measure("aupro_0.05", "AUPRO (0.05)", "pixel"),
    Measure("pixel_f1", "pixel F1 at threshold", "region"),
    Measure("region_recall", "region recall", "region"),
    # It is of good images, so it is the same in all rows.
    Measure("false_regions", "false regions a good image", "region", column=False),
    Measure("seg_f1", "SegF1 (MVTec AD 2)", "region"),
    Measure("auspro_0.05", "AU-sPRO (0.05)", "loco"),
    # For a single kind of defect, these are the metrics above.
    Measure("image_auroc_kinds", "image AUROC, mean of kinds of defect", "loco", column=False),
    Measure("auspro_0.05_kinds", "AU-sPRO (0.05), mean of kinds of defect", "loco", column=False),
    Measure("normality_restored", "normality restored", "restored"),
    Measure("image_auroc_d3ad", "image AUROC, D3AD's code", "d3ad", paper="image AUROC"),
    _threshold("threshold_d3ad", "threshold from test labels", "d3ad"),
    Measure("recall_d3ad", "recall, threshold from test labels", "d3ad"),
    Measure("false_alarm_rate_d3ad", "false-alarm rate, threshold from test labels", "d3ad"),
    Measure("pixel_auroc_d3ad", "pixel AUROC, D3AD's code", "d3ad", paper="pixel AUROC"),
    Measure("pro_d3ad", "PRO, D3AD's code", "d3ad", paper="PRO"),
)
AVERAGED = tuple(measure for measure in MEASURES if measure.averaged)

# What the metrics of each protocol are, for the report.
PROTOCOL_NOTES = {
    "exact": "Protocol exact: masks binarised, per-region overlap by MVTec AD's definition.",
    "paper": (
        "Protocol paper: metrics named after D3AD's code are computed as that code does: from maps "
        "normalised over the test set, a threshold chosen on the test labels, masks that are not "
        "binarised and an overlap curve of 200 rescaled thresholds. All others follow MVTec AD's "
        "definition."
    ),
}


def keys(kind: Kind) -> tuple[str, ...]:
    """Returns the keys of a kind's metrics in metrics.json."""
    return tuple(measure.key for measure in MEASURES if measure.kind == kind)


def mean_of(values: Sequence[float | None]) -> float | None:
    """Returns the mean of a metric's values; None if there are none, or one is missing."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known and len(known) == len(values) else None


def shown(value: float | int | None) -> str:
    """Formats a value: four decimals, a count as it is, a dash for None."""
    if value is None:
        return "–"
    return str(value) if isinstance(value, int) else f"{value:.4f}"
