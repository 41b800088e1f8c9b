"""What each of several processes computes, beside one that works alone.

python -m tests.machine.shares <folder for runs> <images to predict on> -- <flags of a run>
    [--processes=4] [--devices=2]

A run is fitted once, and from its networks a detector is built, evaluated and used by one process
and by several. What a process's devices compute is the processor time of its calls of compiled
programs on images: of each program the calls times their median, since the first may compile.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from tests.machine.test_processes import ROOT, free_address

SECONDS = "DDAD_JAX_SECONDS"
MEASURED = """
import json, os, statistics, sys, time
from collections import defaultdict
import jax
from ddad_jax.detection import batching

calls, batched = defaultdict(list), batching.batched

def measured(function, *arguments):
    own = calls[getattr(function, "__qualname__", repr(function)[:60])]

    def one(batch):
        start = time.process_time()
        result = jax.device_get(function(batch))
        own.append(time.process_time() - start)
        return result

    return batched(one, *arguments)

# Before any module takes it from there.
batching.batched = measured
from ddad_jax import main
code = main.run(sys.argv)
assert calls
with open(os.environ["DDAD_JAX_SECONDS"], "w") as file:
    json.dump(sum(len(each) * statistics.median(each) for each in calls.values()), file)
sys.exit(code)
"""


def run(processes: int, devices: int, scratch: Path, *arguments: str) -> list[float]:
    """Processor seconds of the calls of each process."""
    address = free_address()
    started = []
    for number in range(processes):
        together = [
            f"--coordinator={address}", f"--num_processes={processes}", f"--process_id={number}"
        ]  # fmt: skip
        environment = os.environ | {
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
            SECONDS: str(scratch / f"seconds-{number}"),
        }
        command = [sys.executable, "-c", MEASURED, *arguments]
        started.append(
            subprocess.Popen(
                command + (together if processes > 1 else []), env=environment, cwd=ROOT
            )
        )
    codes = [process.wait() for process in started]
    if any(codes):
        sys.exit(f"exit codes {codes}")
    return [json.loads((scratch / f"seconds-{number}").read_text()) for number in range(processes)]


def main() -> None:
    """Measures, and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("images", type=Path)
    parser.add_argument("flags", nargs="+")
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--devices", type=int, default=2)
    asked = parser.parse_args()
    fitted, scratch = asked.folder / "fitted", asked.folder
    scratch.mkdir(parents=True, exist_ok=True)
    run(1, asked.devices, scratch, *asked.flags, f"--workdir={fitted}")
    found: dict[str, dict[int, list[float]]] = {}
    for count in (1, asked.processes):
        workdir = asked.folder / str(count)
        shutil.rmtree(workdir, ignore_errors=True)
        shutil.copytree(fitted, workdir)
        for name in ("detector.safetensors", "metrics.json", "scores.csv"):
            (workdir / name).unlink()
        for name, arguments in {
            "calibration and evaluation": asked.flags,
            "evaluation": [*asked.flags, "--mode=evaluate"],
            "prediction": ["--mode=predict", f"--images={asked.images}"],
        }.items():
            began = time.monotonic()
            seconds = run(count, asked.devices, scratch, *arguments, f"--workdir={workdir}")
            found.setdefault(name, {})[count] = seconds
            print(name, count, seconds, f"{time.monotonic() - began:.0f} s in all", flush=True)
    for name, seconds in found.items():
        (alone,) = seconds[1]
        shares = ", ".join(f"{each / alone:.3f}" for each in seconds[asked.processes])
        print(
            f"{name}: one process {alone:.1f} s of processor time; of that each of several {shares}"
        )
    one, several = (asked.folder / str(count) for count in (1, asked.processes))
    for name in ("metrics.json", "scores.csv", "predictions/scores.csv"):
        texts = [(run / name).read_text() for run in (one, several)]
        same = texts[0] == texts[1] or sorted(texts[0].split("\n")) == sorted(texts[1].split("\n"))
        print(f"{name}: {'the same' if same else 'differs'}")


if __name__ == "__main__":
    main()
