"""Draws the roofline model: each stage's rate below the device's limits (doi 10.1145/1498765)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ddad_jax.machine.storage import whole_file

COLOURS = ("#0b6477", "#c0532f", "#4a6fa5", "#8a6d1f", "#6b4c8f", "#3f7f4c", "#a23b62")
MARKERS = "osD^v<>"


def write_roofline(document: Mapping[str, Any], path: Path) -> None:
    """Draws a panel for each compute type whose stages were measured: attained rate over intensity.

    Args:
      document: from `run_benchmark`.
      path: a .png file.
    """
    rows_of: dict[str, list[Mapping[str, Any]]] = {}
    for row in document["rows"]:
        if "traffic" in row:
            rows_of.setdefault(row["dtype"], []).append(row)
    if not rows_of:
        return
    figure = Figure(figsize=(5.2 * len(rows_of), 3.8), layout="constrained")
    panels = figure.subplots(1, len(rows_of), squeeze=False)[0]
    for axes, (dtype, rows) in zip(panels, rows_of.items(), strict=True):
        _draw_roof(axes, document["limits"][dtype], [row["intensity"] for row in rows])
        _draw_stages(axes, rows)
        axes.set_title(f"{document['machine']['device']}, {dtype}", fontsize=9)
    with whole_file(path) as unfinished:
        figure.savefig(unfinished, dpi=150)


def _draw_roof(axes: Axes, limits: Mapping[str, Any], intensities: list[float]) -> None:
    ridge = limits["flops"] / limits["bandwidth"]
    span = [*intensities, ridge]
    x = np.geomspace(min(span) / 3, 3 * max(span), 200)
    axes.plot(x, np.minimum(limits["flops"], limits["bandwidth"] * x), color="black", linewidth=1.2)
    kind = "peak" if limits["known"] else "measured"
    axes.annotate(
        f"{kind}: {limits['flops'] / 1e9:.4g} GFLOP/s, {limits['bandwidth'] / 1e9:.4g} GB/s",
        (x[-1], limits["flops"]), xytext=(0, 4), textcoords="offset points",
        ha="right", fontsize=7,
    )  # fmt: skip
    axes.set(xscale="log", yscale="log")
    axes.set_xlabel("arithmetic intensity, FLOP/byte", fontsize=8)
    axes.set_ylabel("attained, FLOP/s", fontsize=8)
    axes.tick_params(labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#e3e6ea", linewidth=0.6)
    axes.set_axisbelow(True)


def _draw_stages(axes: Axes, rows: list[Mapping[str, Any]]) -> None:
    names = list(dict.fromkeys(row["program"] for row in rows))
    sizes = sorted({row["batch_size"] for row in rows})
    for row in rows:
        axes.plot(
            row["intensity"], row["rate"], linestyle="none",
            marker=MARKERS[sizes.index(row["batch_size"]) % len(MARKERS)], markersize=6,
            color=COLOURS[names.index(row["program"]) % len(COLOURS)],
        )  # fmt: skip
    for number, name in enumerate(names):
        axes.plot([], [], color=COLOURS[number % len(COLOURS)], linewidth=4, label=name)
    for number, size in enumerate(sizes):
        axes.plot([], [], MARKERS[number % len(MARKERS)], color="grey", label=f"batch {size}")
    axes.legend(frameon=False, fontsize=7, loc="lower right")
