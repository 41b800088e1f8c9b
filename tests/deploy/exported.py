"""Whether exported files say what `predict` says of photographs, and how long they take.

python -m tests.deploy.exported runs/mine/detector.safetensors photos/good photos/test

The files make no image without defect. They are compared on all photographs of the second folder,
and timed on the first of them, in turns.
"""

import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

import ddad_jax
from ddad_jax.data.files import images_below
from ddad_jax.deploy import onnx_file, stablehlo_file
from ddad_jax.deploy.export import compare
from ddad_jax.detection.detector import with_reconstruct

BATCHES, TURNS = (1, 3, 16), 5


def main(path: str, good: str, test: str) -> None:
    fitted = ddad_jax.load(path)
    fitted = replace(fitted, detector=with_reconstruct(fitted.detector, False))
    images = [fitted.preprocessing.read(each) for each in images_below(Path(test))]
    predictions = fitted.predict(images)
    runners = {"predict": lambda batch: fitted.predict(list(batch))}
    with tempfile.TemporaryDirectory() as scratch:
        for name in ("part.onnx", "part.stablehlo"):
            file = Path(scratch) / name
            began = time.monotonic()
            fitted.export(file, images_below(Path(good)), reconstruction=False)
            seconds, size = time.monotonic() - began, file.stat().st_size / 1e6
            print(f"{name}: {seconds:.0f} s, {size:.1f} MB", flush=True)
            if name == "part.onnx":
                runners["ONNX Runtime"] = onnx_file.runner(file.read_bytes())
                runners["OpenVINO"] = openvino_runner(file)
            else:
                runners["StableHLO"] = stablehlo_file.runner(file.read_bytes())
    for name, run in list(runners.items())[1:]:
        print(f"{name}: {compare(fitted, images, predictions, run)}", flush=True)
    for count in BATCHES:
        batch = np.stack(images[:count])
        times = {name: [] for name in runners}
        for turn in range(TURNS + 1):
            for name, run in runners.items():
                began = time.monotonic()
                run(batch)
                if turn:  # What is compiled for a size is compiled by then.
                    times[name].append((time.monotonic() - began) / count)
        for name, seconds in times.items():
            print(f"{count} at a time, {name}: {1000 * np.median(seconds):.0f} ms an image")


def openvino_runner(file: Path) -> onnx_file.Runner:
    import openvino

    model = openvino.Core().compile_model(file, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda batch: {key.any_name: value for key, value in model({"images": batch}).items()}


if __name__ == "__main__":
    main(*sys.argv[1:])
