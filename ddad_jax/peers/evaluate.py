"""Times a whole evaluation of a trained model, from its file to metrics and pictures.

    python -m ddad_jax.peers.evaluate --workdir=runs/bottle

The run must be one of `configs/mvtec_small.py` or `configs/mvtec.py`, made in the folder where this
is called. Ours is `--mode=evaluate` in a fresh folder, including decoding, compilation, metrics,
95 % intervals and the report; the official procedure is `ddad_jax.peers.torch_evaluation`. Each is
started as a process of its own.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from absl import app, flags

from ddad_jax.deploy.fitted import load_detector
from ddad_jax.peers import results

WORKDIR = flags.DEFINE_string("workdir", None, "A fitted run of one category.", required=True)
ROUNDS = flags.DEFINE_integer("rounds", 1, "Evaluations of each.")
RESULTS = flags.DEFINE_string("results", None, "Where figures are kept, without suffix.")

OFFICIAL = """
import dataclasses, json, sys
from pathlib import Path
from ddad_jax.peers.torch_evaluation import evaluate
from ddad_jax.peers.torch_pipeline import Pipeline
from ddad_jax.deploy.fitted import load_detector

detector = load_detector(Path(sys.argv[1])).detector
settings = dataclasses.replace(detector.settings, scoring="paper", num_steps=10)
calibration = detector.calibration
# It is timed: the feature map is made whatever its weight, and where that is 0 any scale does.
location, scale = (
    {"feature": of["latent"]} | of for of in (calibration.location, calibration.scale)
)
calibration = calibration.replace(location=location, scale=scale)
detector = detector.replace(settings=settings, calibration=calibration)
print(json.dumps(evaluate(Pipeline(detector), Path(sys.argv[2]), Path(sys.argv[3]))))
"""


def ours(workdir: Path, config: Mapping[str, Any], folder: Path) -> dict[str, float]:
    """Runs `--mode=evaluate` on the detector of a run, in a folder of its own."""
    folder.mkdir()
    load_detector(workdir / "detector.safetensors").save(folder / "detector.safetensors")
    network = "mvtec" if config["autoencoder"]["name"] == "kl" else "mvtec_small"
    changed = [
        f"--config.{section}.{name}={config[section][name]}"
        for section, name in (("data", "root"), ("data", "category"), ("autoencoder", "weights"))
    ]
    subprocess.run(
        [
            sys.executable, "-m", "ddad_jax.main", "--mode=evaluate",
            f"--config=configs/{network}.py", f"--workdir={folder}",
            f"--config.seed={config['seed']}", f"--config.preset={config['preset']}", *changed,
        ],
        check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    return json.loads((folder / "metrics.json").read_text(encoding="utf-8"))


def official(workdir: Path, config: Mapping[str, Any], folder: Path) -> dict[str, float]:
    """Runs the official procedure."""
    arguments = [workdir / "detector.safetensors", category_folder(config), folder]
    done = subprocess.run(
        [sys.executable, "-c", OFFICIAL, *map(str, arguments)],
        check=True, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    return json.loads(done.stdout.splitlines()[-1])


def category_folder(config: Mapping[str, Any]) -> Path:
    """Returns the folder with the images of a run's category."""
    return Path(config["data"]["root"]) / config["data"]["category"]


def main(argv: list[str]) -> None:
    """Times both in turns."""
    del argv
    workdir = Path(WORKDIR.value).resolve()
    config = json.loads((workdir / "config.json").read_text(encoding="utf-8"))
    contenders = {"PyTorch, official procedure": official, "ddad_jax": ours}
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(ROUNDS.value):
            for name, contender in contenders.items():
                start = time.perf_counter()
                figures = contender(workdir, config, Path(folder) / f"{name}{number}")
                seconds[name].append(time.perf_counter() - start)
                print(f"{name}: {seconds[name][-1]:.1f} s; image AUROC "
                      f"{figures['image_auroc']:.4f}", flush=True)  # fmt: skip
    if RESULTS.value:
        images = len(list((category_folder(config) / "test").glob("*/*.png")))
        reference = "PyTorch, official procedure"
        arrays = {name: np.array(values) for name, values in seconds.items()}
        found = results.rows("evaluation of a category", images, arrays, reference)
        results.keep(Path(RESULTS.value), found, reference)


if __name__ == "__main__":
    app.run(main)
