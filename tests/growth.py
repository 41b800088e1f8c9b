"""How time and memory grow with the work, in a table and a picture.

python -m tests.growth docs/results/growth

Each point is a process of its own, start included: `--mode=predict` of so many photographs, and of
one photograph so large, cut into tiles, with the least networks; `--mode=fit` on so many good
photographs, and of so many categories, with the least networks and four steps of training;
`detect` of the small networks' preset "fast" with so many patches in the bank.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from ddad_jax.benchmark.seeded import seeded_images
from ddad_jax.data.synthetic import synthetic_source, write_mvtec
from ddad_jax.detection.batching import batched
from ddad_jax.detection.detect import detect
from ddad_jax.evaluation.tables import markdown_table
from ddad_jax.machine import description
from ddad_jax.peers.networks import make_detector
from tests.deploy.many import SIZE, write_detector, write_photographs
from tests.test_main import TINY

AXES = {
    "photographs to predict": (100, 1_000, 10_000),
    "good photographs to fit": (100, 1_000, 10_000),
    "side of a tiled photograph": (256, 512, 1_024, 2_048),
    "patches in the bank": (1_000, 10_000, 100_000),
    "categories to fit": (1, 2, 4, 8, 15),
}
MAIN = ("-m", "ddad_jax")
IMAGES = 16  # that `detect` takes with each bank


def main(output: Path) -> None:
    """Measures every point and writes <output>.json, .md and .png."""
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="ddad_jax_growth_") as scratch:
        home = Path(scratch)
        (home / "tiny.py").write_text(TINY, encoding="utf-8")
        write_detector(home / "part.safetensors")
        write_detector(home / "tiled.safetensors", tile=SIZE)
        measures: Sequence[Callable[[Path, int], list[str]]] = (
            _predict,
            _fit,
            _tiled,
            _bank,
            _categories,
        )
        for (axis, values), command in zip(AXES.items(), measures, strict=True):
            # What is compiled for the first point would be found by the others.
            _run(command(home / "first", values[0]))
            for value in values:
                seconds, megabytes = _run(command(home / f"{axis} {value}", value))
                rows.append(
                    {"axis": axis, "value": value, "seconds": seconds, "megabytes": megabytes}
                )
                print(f"{axis} {value}: {seconds:.1f} s, {megabytes:.0f} MB", flush=True)
    about = {"machine": description.describe(), "rows": rows}
    output.with_suffix(".json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    output.with_suffix(".md").write_text(_table(rows), encoding="utf-8")
    _picture(rows).savefig(output.with_suffix(".png"), dpi=120)


def _run(arguments: list[str]) -> tuple[float, float]:
    """Seconds and the most memory of a process, in MB."""
    began = time.monotonic()
    process = subprocess.Popen([sys.executable, *arguments], stderr=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{arguments}: exit code {os.waitstatus_to_exitcode(status)}")
    return time.monotonic() - began, used.ru_maxrss / 1024


def _predict(home: Path, count: int) -> list[str]:
    write_photographs(home / "photographs", count)
    return _predicted(home, home.parent / "part.safetensors")


def _tiled(home: Path, side: int) -> list[str]:
    (home / "photographs").mkdir(parents=True)
    source = synthetic_source(image_size=side, num_train=1, num_test_good=0, num_test_per_defect=0)
    part = source.read_image(source.samples[0])
    Image.fromarray(part).save(home / "photographs/part.png")
    return _predicted(home, home.parent / "tiled.safetensors")


def _predicted(home: Path, detector: Path) -> list[str]:
    return [
        *MAIN, "--mode=predict", f"--detector={detector}", f"--images={home}/photographs",
        f"--output={home}/found",
    ]  # fmt: skip


def _fit(home: Path, count: int) -> list[str]:
    write_photographs(home / "photographs", count)
    return _fitted(home, "--config.data.source=folder", f"--config.data.root={home}/photographs")


def _categories(home: Path, count: int) -> list[str]:
    for number in range(count):
        source = synthetic_source(
            category=f"part{number:02d}", image_size=64, num_train=40, num_test_good=8,
            num_test_per_defect=2, seed=number,
        )  # fmt: skip
        write_mvtec(source, home / "parts")
    return _fitted(home, "--config.data.source=mvtec", f"--config.data.root={home}/parts")


def _fitted(home: Path, *data: str) -> list[str]:
    return [*MAIN, f"--config={home.parent}/tiny.py", f"--workdir={home}/run", *data]


def _bank(_: Path, rows: int) -> list[str]:
    return ["-m", "tests.growth", "--bank", str(rows)]


def detect_with_bank(rows: int) -> None:
    """`detect` of some images with so many patches in the bank."""
    detector = make_detector("small", "float32", "fast", 200)
    bank = jax.random.normal(jax.random.key(0), (rows, detector.patch_bank.shape[1]))
    detector = detector.replace(patch_bank=bank)
    images = np.array(seeded_images(IMAGES, detector.settings.image_size, seed=1))
    for _ in batched(partial(detect, detector), images, 1, ""):
        pass


def _table(rows: list[dict[str, Any]]) -> str:
    return markdown_table(
        ["", "", "seconds", "peak memory, MB"],
        [
            [row["axis"], f"{row['value']:,}", f"{row['seconds']:.1f}", f"{row['megabytes']:,.0f}"]
            for row in rows
        ],
    )


def _picture(rows: list[dict[str, Any]]) -> Figure:
    figure = Figure(figsize=(4 * len(AXES), 6), layout="constrained")
    panels = figure.subplots(2, len(AXES))
    for column, axis in enumerate(AXES):
        chosen = [row for row in rows if row["axis"] == axis]
        values = [row["value"] for row in chosen]
        for panel, name in zip(panels[:, column], ("seconds", "megabytes"), strict=True):
            measured = np.array([row[name] for row in chosen])
            panel.plot(values, measured, "o-", color="#0b6477")
            in_proportion = measured[-1] * np.array(values) / values[-1]
            panel.plot(values, in_proportion, ":", color="#58626f")
            panel.set(xlabel=axis, xscale="log", yscale="log")
            panel.set_ylim(0.5 * measured.min(), 2.0 * measured.max())
            panel.set_xticks(values, [f"{value:,}" for value in values])
            panel.minorticks_off()
            panel.grid(color="#e3e6ea", linewidth=0.6)
    panels[0, 0].set_ylabel("seconds, start included; dotted: in proportion")
    panels[1, 0].set_ylabel("peak memory, MB")
    return figure


if __name__ == "__main__":
    if sys.argv[1] == "--bank":
        detect_with_bank(int(sys.argv[2]))
    else:
        main(Path(sys.argv[1]))
