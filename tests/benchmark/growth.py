"""How time and memory grow with images, their size, the bank and the categories.

python -m tests.benchmark.growth runs/growth --figure=docs/growth.svg

Generated parts of 128², the networks of `configs/demo.py`, trained for few steps. Each point is a
command in a process of its own, its programs compiled before; of the bank it is `detect` by
--mode=benchmark. `growth.json` in the folder is kept after each point, and a point that it holds is
not measured again.
"""

import argparse
import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.ticker import LogLocator

from ddad_jax.data.synthetic import synthetic_source, write_mvtec
from ddad_jax.machine.storage import write_json
from tests.commands import timed

SIZE, CATEGORIES, PHOTOGRAPHS = 128, 15, 8
CONFIG = f"""
from ml_collections import ConfigDict
from ddad_jax.experiment.config import load_config

def get_config():
    config = load_config("demo")
    config.data.source, config.data.settings, config.data.size = "mvtec", ConfigDict(), {SIZE}
    for network in (config.autoencoder, config.denoiser):
        network.training.steps, network.training.warmup_steps = 20, 5
    return config
"""


@dataclass(frozen=True)
class Axis:
    """What grows.

    Attributes:
      title: of its curve.
      unit: of its counts.
      counts: that are measured, the least first.
      measure: command of a count, and what it takes: seconds and gigabytes at most.
      power: the work grows as the count to this power.
    """

    title: str
    unit: str
    counts: tuple[int, ...]
    measure: Callable[[Path, int], tuple[float, float]]
    power: int = 1


def ran(folder: Path, *arguments: str) -> tuple[float, float]:
    """Seconds and the most gigabytes of memory of a command."""
    (folder / "small.py").write_text(CONFIG)
    environment = {"JAX_PLATFORMS": "cpu", "JAX_COMPILATION_CACHE_DIR": str(folder / "programs")}
    seconds, gigabytes, _ = timed(*arguments, environment=environment)
    return seconds, gigabytes


def parts(root: Path, category: str, count: int, seed: int, size: int = SIZE) -> Path:
    """A category of generated parts; what is there is not drawn again."""
    if not (root / category).is_dir():
        source = synthetic_source(
            category=category, image_size=size, num_train=count, num_test_good=4,
            num_test_per_defect=1, seed=seed,
        )  # fmt: skip
        write_mvtec(source, root)
    return root / category


def fit(folder: Path, workdir: Path, root: Path, category: str, *more: str) -> tuple[float, float]:
    return ran(
        folder, f"--config={folder}/small.py", f"--workdir={workdir}", f"--config.data.root={root}",
        f"--config.data.category={category}", *more,
    )  # fmt: skip


def fit_images(folder: Path, count: int) -> tuple[float, float]:
    root = folder / f"{count} parts"
    parts(root, "part", count, seed=0)
    return fit(folder, folder / f"fit {time.time_ns()}", root, "part")


def fit_categories(folder: Path, count: int) -> tuple[float, float]:
    names = [f"part{number}" for number in range(count)]
    for seed, name in enumerate(names):
        parts(folder / "categories", name, 60, seed)
    return fit(folder, folder / f"fit {time.time_ns()}", folder / "categories", ",".join(names))


def fitted(folder: Path, *more: str) -> Path:
    """A detector of a hundred parts."""
    workdir = folder / ("detector" + "".join(more).replace("/", "-"))
    if not (workdir / "detector.safetensors").exists():
        root = folder / "100 parts"
        parts(root, "part", 100, seed=0)
        fit(folder, workdir, root, "part", *more)
    return workdir / "detector.safetensors"


def predict(folder: Path, detector: Path, photographs: Path) -> tuple[float, float]:
    output = folder / f"predicted {time.time_ns()}"
    return ran(
        folder, "--mode=predict", f"--detector={detector}", f"--images={photographs}",
        f"--output={output}",
    )  # fmt: skip


def predict_images(folder: Path, count: int) -> tuple[float, float]:
    photographs = folder / f"{count} photographs"
    if not photographs.is_dir():
        drawn = sorted((parts(folder / "100 parts", "part", 100, 0) / "train/good").iterdir())
        photographs.mkdir()
        for number in range(count):
            os.link(drawn[number % len(drawn)], photographs / f"{number:05}.png")
    return predict(folder, fitted(folder), photographs)


def predict_size(folder: Path, side: int) -> tuple[float, float]:
    photographs = parts(folder / f"{side} pixels", "part", PHOTOGRAPHS, 0, side) / "train/good"
    tiles = f"--config.data.tiling.tile={SIZE}", f"--config.data.tiling.overlap={SIZE // 4}"
    return predict(folder, fitted(folder, *tiles), photographs)


def detect_bank(folder: Path, rows: int) -> tuple[float, float]:
    workdir = folder / f"bank {time.time_ns()}"
    _, most = ran(
        folder, f"--config={folder}/small.py", "--mode=benchmark", f"--workdir={workdir}",
        f"--config.build.patch_bank_size={rows}", "--config.benchmark.dtypes=('float32',)",
        "--config.benchmark.batch_sizes=(16,)", "--config.benchmark.train_batch_size=0",
        "--config.benchmark.rounds=3",
    )  # fmt: skip
    rows_measured = json.loads((workdir / "benchmark.json").read_text())["rows"]
    (found,) = (row for row in rows_measured if row["program"] == "detect")
    return found["median"] / found["batch_size"], most


AXES = {
    "fit": Axis("fit, by good images", "images", (100, 300, 1000, 3000, 10000), fit_images),
    "predict": Axis(
        "predict, by photographs", "photographs", (100, 300, 1000, 3000, 10000), predict_images
    ),
    "size": Axis(
        f"predict of {PHOTOGRAPHS} photographs in tiles, by side", "pixels",
        (256, 512, 1024, 2048), predict_size, power=2,
    ),
    "bank": Axis(
        "detect of an image, by patches in the bank", "patches",
        (1000, 3000, 10000, 30000, 100000), detect_bank,
    ),
    "categories": Axis(
        "fit, by categories of 60 good images", "categories", (1, 2, 4, 8, 15), fit_categories
    ),
}  # fmt: skip


def draw(found: dict[str, dict[str, list[float]]], path: Path) -> None:
    """A column an axis: seconds above, memory below, and what growth with the work would be."""
    figure, panels = plt.subplots(
        2, len(found), figsize=(3.2 * len(found), 5.6), sharex="col", squeeze=False
    )
    for column, (name, points) in enumerate(found.items()):
        axis = AXES[name]
        counts = [int(count) for count in points]
        for row, unit in enumerate(("seconds", "GB")):
            panel = panels[row][column]
            values = [point[row] for point in points.values()]
            panel.loglog(counts, values, "o-", color="#1f5fa8")
            linear = [values[-1] * (count / counts[-1]) ** axis.power for count in counts]
            panel.loglog(counts, linear, ":", color="0.5", label="proportional")
            panel.set_ylim(min(values) / 2, max(values) * 2)
            panel.set_ylabel(unit)
            panel.set_xticks(counts, [f"{count:,}" for count in counts], fontsize=7)
            panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            panel.yaxis.set_major_formatter("{x:g}")
            panel.minorticks_off()
            panel.grid(color="0.9")
        panels[0][column].set_title(axis.title, fontsize=9)
        panels[1][column].set_xlabel(axis.unit)
    panels[0][0].legend(frameon=False)
    figure.tight_layout()
    figure.savefig(path)


def measure(folder: Path, names: Sequence[str]) -> dict[str, dict[str, list[float]]]:
    """Seconds and gigabytes by axis and count; each axis's least count once more beforehand."""
    path = folder / "growth.json"
    found: dict[str, dict[str, list[float]]] = {}
    if path.exists():
        found = json.loads(path.read_text())
    for name in names:
        axis, points = AXES[name], found.setdefault(name, {})
        missing = [count for count in axis.counts if str(count) not in points]
        for count in missing[:1]:
            axis.measure(folder, count)
        for count in missing:
            points[str(count)] = list(axis.measure(folder, count))
            seconds, most = points[str(count)]
            print(f"{axis.title}: {count}: {seconds:.3g} s, {most:.2f} GB", flush=True)
            write_json(path, found)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--axes", nargs="+", default=list(AXES), choices=list(AXES))
    parser.add_argument("--figure", type=Path)
    asked = parser.parse_args()
    folder = asked.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    found = measure(folder, asked.axes)
    draw(found, asked.figure or folder / "growth.svg")


if __name__ == "__main__":
    main()
