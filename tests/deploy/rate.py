"""How long a photograph takes from its file to its row, beside `detect` alone.

python -m tests.deploy.rate runs/demo/detector.safetensors photographs

Takes turns three times. Both judge one image at a time, as on a CPU `detect` does.
"""

import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path

import jax
import numpy as np

import ddad_jax
from ddad_jax.data.files import images_below
from ddad_jax.deploy.rows import Rows, row_of
from ddad_jax.deploy.watch import stamp_of
from ddad_jax.detection.detect import detect

MOST = 120


def main(path: str, folder: str) -> None:
    fitted = ddad_jax.load(path)
    paths = images_below(Path(folder))[:MOST]
    how = fitted.preprocessing
    squares = np.concatenate([how.squares(how.read(each)) for each in paths])
    fitted.predict(paths[:2])
    for _ in range(3):
        began = time.monotonic()
        for row in range(len(squares)):
            jax.device_get(detect(fitted.detector, squares[row : row + 1]))
        alone = (time.monotonic() - began) / len(paths)
        began = time.monotonic()
        with tempfile.TemporaryDirectory() as scratch, closing(Rows(Path(scratch), {})) as rows:
            for each, found in zip(paths, fitted.predict_iter(paths), strict=True):
                rows.add(row_of(found, stamp_of(each), False))
        whole = (time.monotonic() - began) / len(paths)
        print(f"detect {alone:.3f} s, file to row {whole:.3f} s, {whole / alone:.3f}", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
