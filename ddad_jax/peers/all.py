"""Runs every comparison on an accelerator, in one command of, by default, ten minutes.

    python -m ddad_jax.peers.all --results=docs/results/h100

Writes the benchmark of the networks and the comparison of detection with PyTorch to one folder; the
training step is only printed. Names at the end what did not fit into the time.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

from absl import app, flags

RESULTS = flags.DEFINE_string("results", None, "A folder for all figures.", required=True)
SIZE = flags.DEFINE_enum("size", "published", ["published", "small"], "Whose networks.")
BATCH_SIZE = flags.DEFINE_integer("batch_size", 32, "Images at a time, beside 1.")
MINUTES = flags.DEFINE_float("minutes", 10.0, "Time for all of it.")

CONFIGS = {"published": "configs/mvtec.py", "small": "configs/mvtec_small.py"}


def commands(output: Path, size: str, batch_size: int) -> dict[str, list[str]]:
    """Returns what to run, by name, as the arguments of `python -m`."""
    peers = ["ddad_jax.peers.detect", f"--size={size}", f"--results={output / 'pytorch'}"]
    one, many = "--batch_sizes=1", f"--batch_sizes={batch_size}"
    return {
        "detection against PyTorch": [
            *peers, many, "--work=detect", "--rounds=3", "--dtypes=bfloat16,float32",
            "--presets=paper", "--peers=eager,bfloat16",
        ],
        "benchmark": [
            "ddad_jax.main", "--mode=benchmark", f"--config={CONFIGS[size]}",
            f"--workdir={output}", f"--config.benchmark.batch_sizes=(1,{batch_size})",
            f"--config.benchmark.train_batch_size={batch_size}",
            "--config.benchmark.dtypes=('bfloat16',)", "--config.benchmark.max_seconds=2.0",
        ],
        "training step against PyTorch": [
            "ddad_jax.peers.train_step", f"--size={size}", f"--batch_size={batch_size}",
            "--repeats=5", "--dtype=bfloat16",
        ],
        "stages against PyTorch": [
            *peers, one, "--work=detect,encode,UNet step,decode", "--rounds=5",
            "--dtypes=bfloat16,float32", "--presets=paper", "--check=false",
        ],
        "torch.compile": [
            *peers, many, "--work=detect", "--rounds=3", "--dtypes=bfloat16", "--presets=paper",
            "--peers=compiled,compiled bfloat16", "--check=false",
        ],
    }  # fmt: skip


def main(argv: list[str]) -> None:
    """Runs one command after the other while there is time."""
    del argv
    output = Path(RESULTS.value)
    output.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + 60.0 * MINUTES.value
    # PyTorch needs some of the device's memory too.
    environment = os.environ | {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    missing = []
    for name, arguments in commands(output, SIZE.value, BATCH_SIZE.value).items():
        print(f"\n{name}: python -m {' '.join(arguments)}", flush=True)
        left = end - time.monotonic()
        try:
            if (
                left <= 0
                or subprocess.run(
                    [sys.executable, "-m", *arguments], env=environment, timeout=left
                ).returncode
            ):
                missing.append(name)
        except subprocess.TimeoutExpired:
            missing.append(name)
    print(f"\nfigures are in {output}" + (f"; not whole: {', '.join(missing)}" if missing else ""))
    sys.exit(bool(missing))


if __name__ == "__main__":
    app.run(main)
