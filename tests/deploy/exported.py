"""Whether exported files say what `predict` says of photographs, and how long they take.

python -m tests.deploy.exported runs/mine/detector.safetensors photos/good photos/test

The files make no image without defect. Processes that cannot import this package run them on all
photographs of the second folder, made to several sizes, as many at a time as batches have; then
they are timed on the first of these in turns, in one process.
"""

import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

import ddad_jax
from ddad_jax.data.files import images_below
from ddad_jax.deploy import onnx_file, stablehlo_file
from ddad_jax.deploy.export import compare
from ddad_jax.detection.detector import with_reconstruct
from tests.deploy.conftest import WITH_JAX, WITH_ONNX_RUNTIME, WITH_OPENVINO, answers_of

# Width and height of photographs, and how many of them are given at a time.
SIZES = {(256, 256): 16, (900, 900): 3, (640, 480): 1}
BATCHES, TURNS = (1, 3, 16), 5
READERS = (("ONNX Runtime", "part.onnx", WITH_ONNX_RUNTIME),
           ("OpenVINO", "part.onnx", WITH_OPENVINO),
           ("JAX", "part.stablehlo", WITH_JAX))  # fmt: skip


def main(path: str, good: str, test: str) -> None:
    fitted = ddad_jax.load(path)
    fitted = replace(fitted, detector=with_reconstruct(fitted.detector, False))
    read = [fitted.preprocessing.read(each) for each in images_below(Path(test))]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for name in ("part.onnx", "part.stablehlo"):
            began = time.monotonic()
            fitted.export(folder / name, images_below(Path(good)), reconstruction=False)
            seconds, size = time.monotonic() - began, (folder / name).stat().st_size / 1e6
            print(f"{name}: {seconds:.0f} s, {size:.1f} MB", flush=True)
        for (width, height), together in SIZES.items():
            images = [np.asarray(Image.fromarray(each).resize((width, height))) for each in read]
            predictions = fitted.predict(images)
            for name, file, program in READERS:
                given = {"all": np.stack(images)}
                found = answers_of(program, folder / file, given, together)["all"]
                rows = [{key: found[key][row] for key in found} for row in range(len(images))]
                said = compare(fitted, rows, predictions)
                print(f"{width} x {height}, {together} at a time, {name}: {said}", flush=True)
        print_times(fitted, folder, read)


def print_times(fitted, folder: Path, images: list[np.ndarray]) -> None:
    """Milliseconds an image, of the detector and of its files in turns."""
    runners = {
        "predict": lambda batch: fitted.predict(list(batch)),
        "ONNX Runtime": onnx_file.runner((folder / "part.onnx").read_bytes()),
        "OpenVINO": openvino_runner(folder / "part.onnx"),
        "JAX": stablehlo_file.runner((folder / "part.stablehlo").read_bytes()),
    }
    for count in BATCHES:
        batch = np.stack(images[:count])
        times = {name: [] for name in runners}
        for turn in range(TURNS + 1):
            for name, run in runners.items():
                began = time.monotonic()
                run(batch)
                if turn:  # What is compiled for a size is compiled by then.
                    times[name].append(1000 * (time.monotonic() - began) / count)
        for name, each in times.items():
            low, middle, high = np.quantile(each, (0, 0.5, 1))
            print(f"{count} at a time, {name}: {middle:.0f} ms an image ({low:.0f} to {high:.0f})")


def openvino_runner(file: Path) -> onnx_file.Runner:
    import openvino

    model = openvino.Core().compile_model(file, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda batch: {key.any_name: value for key, value in model({"images": batch}).items()}


if __name__ == "__main__":
    main(*sys.argv[1:])
