"""The results of several categories: results.json, results.csv, and tables for papers."""

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ddad_jax.evaluation.published import BENCHMARKS
from ddad_jax.evaluation.shown import D3AD_FIGURES, NAMES, shown
from ddad_jax.evaluation.tables import latex, markdown, markdown_table

FIGURES = (
    "image_auroc", "image_ap", "image_f1_max", "pixel_auroc", "pixel_ap", "pixel_f1_max", "aupro",
    "aupro_0.05", "normality_restored", *D3AD_FIGURES,
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


def write_rows(stem: Path, rows: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]]) -> None:
    """Writes stem.csv and stem.md, a row for every way in which something was evaluated.

    Args:
      stem: the files' path without ending.
      rows: of each way, what is special about it, by name, and its metrics.
    """
    special = list(dict.fromkeys(name for changes, _ in rows for name in changes))
    known = [name for name in FIGURES if any(metrics.get(name) is not None for _, metrics in rows)]
    figures = [
        [metrics["decision"][name] for name in DECISION] + [metrics.get(name) for name in known]
        for _, metrics in rows
    ]
    ways = [[str(changes.get(name, "")) for name in special] for changes, _ in rows]
    with stem.with_suffix(".csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([*special, *DECISION, *known])
        for way, values in zip(ways, figures, strict=True):
            writer.writerow([*way, *map(_decimal, values)])
    header = [*special, *(NAMES[name] for name in (*DECISION, *known))]
    lines = [[*way, *map(shown, values)] for way, values in zip(ways, figures, strict=True)]
    stem.with_suffix(".md").write_text(markdown_table(header, lines) + "\n", encoding="utf-8")


def _decimal(figure: float | None) -> str:
    return "" if figure is None else f"{figure:.6f}"


def _write_csv(path: Path, rows: Mapping[str, dict[str, Any]]) -> None:
    """One row a category, then the mean; six decimals, empty where a figure cannot be had."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["category", "protocol", *COUNTS, *DECISION, *FIGURES])
        for name, row in rows.items():
            figures = [row["decision"][each] for each in DECISION] + [
                row.get(each) for each in FIGURES
            ]
            counts = [row["counts"][each] for each in COUNTS]
            writer.writerow([name, row["protocol"], *counts, *map(_decimal, figures)])
