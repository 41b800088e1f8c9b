"""Writes the results of several categories: results.json, results.csv, and tables for papers."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ddad_jax.evaluation.measures import AVERAGED, mean_of, shown
from ddad_jax.evaluation.published import BENCHMARKS
from ddad_jax.evaluation.tables import latex, markdown, markdown_table
from ddad_jax.machine.storage import write_atomically, write_csv, write_json

COUNTS = ("normal", "anomalous", "unlabelled")


def mean_figures(metrics: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Returns the mean over categories of every metric that all of them have, and total counts.

    "taken_for", the images that a unified detector took for another category, is also added up.
    """
    counts = {name: sum(each["counts"][name] for each in metrics) for name in metrics[0]["counts"]}
    means: dict[str, Any] = {"protocol": metrics[0]["protocol"], "counts": counts, "decision": {}}
    for measure in AVERAGED:
        place = means["decision"] if measure.kind == "decision" else means
        place[measure.key] = mean_of([measure.of(each) for each in metrics])
    if all("taken_for" in each for each in metrics):
        means["taken_for"] = dict(sum((Counter(each["taken_for"]) for each in metrics), Counter()))
    return means


def write_results(folder: Path, source: str, metrics: Mapping[str, dict[str, Any]]) -> None:
    """Writes results.json, results.csv, results.md and results.tex.

    Args:
      folder: the folder to write to.
      source: the data set's name in the config; published results on it are added.
      metrics: of each category, from `compute_metrics`.
    """
    mean = mean_figures(list(metrics.values()))
    benchmark = BENCHMARKS.get(source)
    results = {
        "protocol": mean["protocol"],
        "mean": mean,
        "categories": metrics,
        "published": asdict(benchmark) if benchmark else None,
    }
    write_json(folder / "results.json", results)
    _write_csv(folder / "results.csv", {**metrics, "mean": mean})
    write_atomically(folder / "results.md", markdown(metrics, mean, benchmark))
    write_atomically(folder / "results.tex", latex(metrics, mean, benchmark))


def write_rows(stem: Path, rows: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]]) -> None:
    """Writes stem.csv and stem.md, one row for every variant that was evaluated.

    Args:
      stem: the files' path without suffix.
      rows: for each variant, the settings that it changes, by name, and its metrics.
    """
    special = list(dict.fromkeys(name for changes, _ in rows for name in changes))
    known = [
        measure
        for measure in AVERAGED
        if measure.kind == "decision" or any(measure.of(each) is not None for _, each in rows)
    ]
    figures = [[measure.of(each) for measure in known] for _, each in rows]
    ways = [[str(changes.get(name, "")) for name in special] for changes, _ in rows]
    header = [*special, *(measure.key for measure in known)]
    lines = [[*way, *map(_decimal, values)] for way, values in zip(ways, figures, strict=True)]
    write_csv(stem.with_suffix(".csv"), [header, *lines])
    header = [*special, *(measure.label for measure in known)]
    lines = [[*way, *map(shown, values)] for way, values in zip(ways, figures, strict=True)]
    write_atomically(stem.with_suffix(".md"), markdown_table(header, lines) + "\n")


def _decimal(figure: float | None) -> str:
    return "" if figure is None else f"{figure:.6f}"


def _write_csv(path: Path, rows: Mapping[str, dict[str, Any]]) -> None:
    """Writes one row per category, then the mean; six decimals, empty for an undefined metric."""
    header = ["category", "protocol", *COUNTS, *(measure.key for measure in AVERAGED)]
    lines = [
        [
            name,
            row["protocol"],
            *(row["counts"][each] for each in COUNTS),
            *(_decimal(measure.of(row)) for measure in AVERAGED),
        ]
        for name, row in rows.items()
    ]
    write_csv(path, [header, *lines])
