"""Very many photographs through `--mode=predict`: memory, rate, and going on after a kill.

python -m tests.deploy.many 100000

A thousand generated photographs of 256², linked as often as asked for, and a detector of the least
networks. Prints the peak memory for a thousand and for all, and that every photograph has one row
though the run is killed at 40 %.
"""

import csv
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from ddad_jax.data.preprocessing import Preprocessing
from ddad_jax.data.synthetic import synthetic_source
from ddad_jax.deploy.fitted import FittedDetector
from ddad_jax.detection.build import BuildSettings
from ddad_jax.detection.detector import Settings
from ddad_jax.detection.networks import build_networks
from tests.conftest import NETWORKS, detector_of, drawn_networks
from tests.deploy.conftest import SETTINGS

SIZE, UNIQUE, FOLDER = 32, 1000, 1000


def main(count: int) -> None:
    with tempfile.TemporaryDirectory(prefix="ddad_jax_many_") as scratch:
        home = Path(scratch)
        write_detector(home / "part.safetensors")
        write_photographs(home / "photographs")
        for number in (UNIQUE, count):
            link(home / "photographs", home / f"of {number}", number)
        peak = predict(home, UNIQUE)
        print(f"{UNIQUE} photographs: peak memory {peak / 1024:.0f} MB", flush=True)
        killed = predict(home, count, kill_at=0.4)
        rows = sum(1 for _ in (home / f"found {count}/scores.jsonl").open())
        print(
            f"{count} photographs, killed at {rows}: peak memory {killed / 1024:.0f} MB", flush=True
        )
        began = time.monotonic()
        peak = predict(home, count)
        rate = (count - rows) / (time.monotonic() - began)
        print(
            f"gone on with: peak memory {peak / 1024:.0f} MB, {rate:.0f} a second, with the start"
        )
        with (home / f"found {count}/scores.csv").open(newline="") as file:
            names = [row["path"] for row in csv.DictReader(file)]
        print(f"{len(names)} rows of {len(set(names))} photographs")


def write_detector(path: Path) -> None:
    description = NETWORKS | {"image_size": SIZE}
    networks = build_networks(**description)
    source = synthetic_source(image_size=SIZE, num_train=20, num_test_good=0, num_test_per_defect=0)
    images = np.stack([source.read_image(sample) for sample in source.samples])
    detector = detector_of(
        networks,
        drawn_networks(networks),
        images,
        Settings(image_size=SIZE, blur=1.0, num_neighbours=5, num_steps=1),
        BuildSettings(patch_bank_size=64, calibration_size=0),
    )
    made_of = {"settings": SETTINGS, "images": {}, "networks": {}}
    FittedDetector(detector, Preprocessing(size=SIZE), description, made_of).save(path)


def write_photographs(folder: Path) -> None:
    folder.mkdir()
    source = synthetic_source(num_train=100, num_test_good=0, num_test_per_defect=0)
    parts = [source.read_image(sample) for sample in source.samples]
    for number in range(UNIQUE):
        part = np.roll(parts[number % 100], number // 100, axis=(0, 1))
        Image.fromarray(part).save(folder / f"{number:04d}.png")


def link(photographs: Path, folder: Path, count: int) -> None:
    paths = sorted(photographs.iterdir())
    for number in range(count):
        home = folder / f"{number // FOLDER:03d}"
        home.mkdir(parents=True, exist_ok=True)
        os.link(paths[number % len(paths)], home / f"{number:06d}.png")


def predict(home: Path, count: int, kill_at: float = 1.0) -> int:
    """Runs it, and returns the most memory that it held, in KB."""
    rows = home / f"found {count}/scores.jsonl"
    process = subprocess.Popen(
        [sys.executable, "-m", "ddad_jax", "--mode=predict", f"--output={rows.parent}",
         f"--detector={home}/part.safetensors", f"--images={home}/of {count}"],
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    while kill_at < 1.0 and process.poll() is None:
        time.sleep(1.0)
        if rows.is_file() and sum(1 for _ in rows.open()) >= kill_at * count:
            process.send_signal(signal.SIGKILL)
            break
    _, status, used = os.wait4(process.pid, 0)
    expected = -signal.SIGKILL if kill_at < 1.0 else 0
    code = os.waitstatus_to_exitcode(status)
    assert code == expected, f"exit code {code}"
    return used.ru_maxrss


if __name__ == "__main__":
    main(int(sys.argv[1]))
