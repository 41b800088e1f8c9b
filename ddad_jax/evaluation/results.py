"""The results of several categories: results.json, results.csv, and tables for papers."""

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ddad_jax.evaluation.published import BENCHMARKS
from ddad_jax.evaluation.tables import latex, markdown

FIGURES = (
    "image_auroc", "image_ap", "image_f1_max", "pixel_auroc", "pixel_ap", "pixel_f1_max", "aupro",
    "aupro_0.05", "normality_restored", "pro_d3ad", "pixel_auroc_d3ad",
)  # fmt: skip
COUNTS = ("normal", "anomalous", "unlabelled")
DECISION = ("recall", "false_alarm_rate")


def mean_figures(metrics: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The mean over categories of every figure that all of them have, and the summed counts.

    Recall and false-alarm rate are means over categories too.
    """
    counts = {name: sum(each["counts"][name] for each in metrics) for name in metrics[0]["counts"]}
    decision = {name: _mean([each["decision"][name] for each in metrics]) for name in DECISION}
    figures = {name: _mean([each.get(name) for each in metrics]) for name in FIGURES}
    protocol = metrics[0]["protocol"]
    return {"protocol": protocol, "counts": counts, "decision": decision, **figures}


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if len(known) == len(values) else None


def write_results(folder: Path, source: str, metrics: Mapping[str, dict[str, Any]]) -> None:
    """Writes results.json, results.csv, results.md and results.tex.

    Args:
      folder: where to.
      source: the data set, by its name in the config; what is published on it stands beside.
      metrics: of each category, as `compute_metrics` makes them.
    """
    mean = mean_figures(list(metrics.values()))
    benchmark = BENCHMARKS.get(source)
    results = {
        "protocol": mean["protocol"],
        "mean": mean,
        "categories": metrics,
        "published": asdict(benchmark) if benchmark else None,
    }
    text = json.dumps(results, indent=2, allow_nan=False)
    (folder / "results.json").write_text(text + "\n", encoding="utf-8")
    _write_csv(folder / "results.csv", {**metrics, "mean": mean})
    (folder / "results.md").write_text(markdown(metrics, mean, benchmark), encoding="utf-8")
    (folder / "results.tex").write_text(latex(metrics, mean, benchmark), encoding="utf-8")


def _write_csv(path: Path, rows: Mapping[str, dict[str, Any]]) -> None:
    """One row a category, then the mean; six decimals, empty where a figure cannot be had."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["category", "protocol", *COUNTS, *DECISION, *FIGURES])
        for name, row in rows.items():
            figures = [row["decision"][each] for each in DECISION] + [
                row.get(each) for each in FIGURES
            ]
            shown = ["" if figure is None else f"{figure:.6f}" for figure in figures]
            counts = [row["counts"][each] for each in COUNTS]
            writer.writerow([name, row["protocol"], *counts, *shown])
