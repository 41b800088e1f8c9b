"""Draws figures for papers: curves, score histogram and training loss, as PNG and PDF."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ddad_jax.data.sample import ANOMALOUS, NORMAL, UNKNOWN
from ddad_jax.evaluation.aupro import PRO_LIMIT
from ddad_jax.evaluation.curves import Curve, Curves
from ddad_jax.evaluation.predictions import Predictions
from ddad_jax.machine.storage import whole_file

# In inches: one column of a paper with two.
WIDTH, HEIGHT = 3.3, 2.5
# Each kind of file, and how it is saved.
SUFFIXES: Mapping[str, Mapping[str, Any]] = {
    ".png": {"dpi": 300},
    ".pdf": {"metadata": {"CreationDate": None}},
}
LINE, NORMAL_COLOUR, ANOMALOUS_COLOUR = "#0b6477", "#4a6fa5", "#c0532f"


def write_figures(folder: Path, predictions: Predictions, curves: Curves) -> None:
    """Writes roc, precision_recall, pro and scores as .png and .pdf; removes undefined ones."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn: dict[str, tuple[Curve | None, str, str, float]] = {
        "roc": (curves.roc, "false-alarm rate", "recall", 1.0),
        "precision_recall": (curves.precision_recall, "recall", "precision", 1.0),
        "pro": (curves.pro, "pixel false positive rate", "per-region overlap", PRO_LIMIT),
    }
    for name, (curve, x_label, y_label, limit) in drawn.items():
        if curve is None:
            for suffix in SUFFIXES:
                (folder / name).with_suffix(suffix).unlink(missing_ok=True)
        else:
            figure, axes = _figure(x_label, y_label)
            axes.plot(*curve, color=LINE, linewidth=1.5, clip_on=False)
            axes.set(xlim=(0, limit), ylim=(0, 1.02))
            _save(figure, folder / name)
    _save(_histogram(predictions), folder / "scores")


def write_training_loss(folder: Path, workdir: Path) -> None:
    """Writes training_loss, with a curve for each network that was trained in a run's folder."""
    losses = {}
    for path in sorted(workdir.glob("*/metrics.jsonl")):
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        # A step that an interrupted run repeated is there twice; the later one counts.
        steps = {row["step"]: row["loss"] for row in rows if "loss" in row}
        losses[path.parent.name] = (list(steps), list(steps.values()))
    if not losses:
        return
    folder.mkdir(parents=True, exist_ok=True)
    figure, axes = _figure("step", "loss")
    for name, (taken, values) in losses.items():
        axes.plot(taken, values, linewidth=1.2, label=name)
    axes.set_yscale("log")
    axes.legend(frameon=False, fontsize=7)
    _save(figure, folder / "training_loss")


def _histogram(predictions: Predictions) -> Figure:
    p = predictions
    figure, axes = _figure("score", "images")
    edges = np.histogram_bin_edges(p.scores, 40)
    kinds = [(NORMAL, "good", NORMAL_COLOUR), (ANOMALOUS, "defective", ANOMALOUS_COLOUR)]
    for label, name, colour in [*kinds, (UNKNOWN, "unlabelled", "#58626f")]:
        chosen = p.scores[p.labels == label]
        if len(chosen):
            axes.hist(chosen, edges.tolist(), color=colour, alpha=0.65, label=name)
    locator = axes.yaxis.get_major_locator()
    assert isinstance(locator, MaxNLocator)  # Axes begin with one.
    locator.set_params(integer=True)
    axes.axvline(p.threshold, color="black", linewidth=1, label="threshold")
    axes.legend(frameon=False, fontsize=7)
    return figure


def _figure(x_label: str, y_label: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(WIDTH, HEIGHT), layout="constrained")
    axes = figure.add_subplot()
    axes.set_xlabel(x_label, fontsize=8)
    axes.set_ylabel(y_label, fontsize=8)
    axes.tick_params(labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#e3e6ea", linewidth=0.6)
    axes.set_axisbelow(True)
    return figure, axes


def _save(figure: Figure, path: Path) -> None:
    # Type 42 keeps text as text, as journals require.
    with matplotlib.rc_context({"pdf.fonttype": 42}):
        for suffix, options in SUFFIXES.items():
            with whole_file(path.with_suffix(suffix)) as unfinished:
                figure.savefig(unfinished, **options)
