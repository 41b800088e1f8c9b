"""Tables over several categories."""

from collections.abc import Sequence
from typing import Any

FIGURES = (
    "image_auroc", "image_ap", "image_f1_max", "pixel_auroc", "pixel_ap", "pixel_f1_max", "aupro",
    "aupro_0.05", "pro_d3ad", "pixel_auroc_d3ad",
)  # fmt: skip


def mean_figures(metrics: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The mean over categories of every figure that all of them have, and the summed counts.

    Recall and false-alarm rate are means over categories too.
    """
    counts = {name: sum(each["counts"][name] for each in metrics) for name in metrics[0]["counts"]}
    decision = {
        name: _mean([each["decision"][name] for each in metrics])
        for name in ("recall", "false_alarm_rate")
    }
    figures = {name: _mean([each.get(name) for each in metrics]) for name in FIGURES}
    return {"counts": counts, "decision": decision, **figures}


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if len(known) == len(values) else None
