"""Compares two runs over the same test images, and says which differences exceed chance."""

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from ddad_jax.errors import UserError
from ddad_jax.evaluation.intervals import difference
from ddad_jax.evaluation.measures import MEASURES, shown
from ddad_jax.machine.storage import whole_file

RESAMPLED = "resampled.npz"
# The metrics of two runs, by name: numbers, or one value per resample.
Pair = tuple[Mapping[str, Any], Mapping[str, Any]]


def write_resampled(folder: Path, resampled: Mapping[str, Float[np.ndarray, " resamples"]]) -> None:
    """Writes resampled.npz: the metrics of every bootstrap resample, for comparing runs."""
    with whole_file(folder / RESAMPLED) as unfinished:
        np.savez(unfinished, **resampled)  # type: ignore[arg-type]  # None is "allow_pickle".


def compare_runs(first: Path, second: Path) -> str:
    """Returns a Markdown table of both runs' metrics, their differences and 95 % paired intervals.

    If the runs have several categories, there is one table for each, and one of the means.

    Raises:
      UserError: a folder holds no results, or the categories or images differ.
    """
    folders = _categories(first), _categories(second)
    if folders[0].keys() != folders[1].keys():
        names = [", ".join(sorted(found)) or "one category" for found in folders]
        raise UserError(
            f"{second}: holds {names[1]}, but {first} holds {names[0]}; compare runs of the "
            "same categories"
        )
    tables, all_resampled, all_figures, fewest = [], [], [], []
    for name in folders[0]:
        pair = folders[0][name], folders[1][name]
        _require_same_images(*pair)
        resampled = _resampled(pair[0]), _resampled(pair[1])
        metrics = _metrics(pair[0]), _metrics(pair[1])
        figures = _figures(metrics[0]), _figures(metrics[1])
        counts = metrics[0]["counts"]
        fewest.append(min(counts["normal"], counts["anomalous"]))
        tables.append(_table(name, resampled, figures, fewest[-1]))
        all_resampled.append(resampled)
        all_figures.append(figures)
    if len(tables) > 1:
        means = _mean_pair(all_resampled), _mean_pair(all_figures)
        tables.append(_table("mean", *means, min(fewest)))
    return f"A is {first}, B is {second}; differences are B - A.\n\n" + "\n".join(tables)


def _categories(folder: Path) -> dict[str, Path]:
    if (folder / "metrics.json").exists():
        return {"": folder}
    found = {path.parent.name: path.parent for path in sorted(folder.glob("*/metrics.json"))}
    found.pop("predictions", None)
    if not found:
        raise UserError(f"{folder}: holds no metrics.json; make one with --mode=evaluate")
    return found


def _require_same_images(first: Path, second: Path) -> None:
    rows = []
    for folder in (first, second):
        with _existing(folder / "scores.csv").open(encoding="utf-8") as file:
            rows.append([(row["path"], row["label"]) for row in csv.DictReader(file)])
    if rows[0] != rows[1]:
        raise UserError(
            f"{second}/scores.csv: differs from {first}/scores.csv in images, labels or order; "
            "compare runs over the same test images"
        )


def _resampled(folder: Path) -> dict[str, Float[np.ndarray, " resamples"]]:
    with np.load(_existing(folder / RESAMPLED)) as stored:
        return dict(stored)


def _existing(path: Path) -> Path:
    if not path.exists():
        raise UserError(f"{path}: is missing; write it again with --mode=evaluate")
    return path


def _metrics(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "metrics.json").read_text(encoding="utf-8"))


def _figures(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Returns every metric that is defined."""
    found = {measure.key: measure.of(metrics) for measure in MEASURES}
    return {key: value for key, value in found.items() if value is not None}


def _mean_pair(pairs: Sequence[Pair]) -> Pair:
    """Returns, for each of two runs, the mean over categories of every metric that all have."""
    first, second = (
        {
            name: sum(each[name] for each in side) / len(side)
            for name in set.intersection(*map(set, side))
        }
        for side in zip(*pairs, strict=True)
    )
    return first, second


def _table(name: str, resampled: Pair, figures: Pair, images: int) -> str:
    """Returns one row per metric resampled in both; `images` counts those of the rarer kind."""
    lines = [
        f"| {name or 'metric'} | A | B | difference | 95 % interval | |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for measure in MEASURES:
        key = measure.key
        if key not in resampled[0] or key not in resampled[1]:
            continue
        a, b = (float(each[key]) for each in figures)
        low, high = difference(b - a, resampled[1][key] - resampled[0][key], images)
        clear = "differs" if low > 0 or high < 0 else ""
        lines.append(
            f"| {measure.label} | {shown(a)} | {shown(b)} | {b - a:+.4f} "
            f"| {low:+.4f} to {high:+.4f} | {clear} |"
        )
    return "\n".join(lines) + "\n"
