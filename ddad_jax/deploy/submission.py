"""Writes the folder that MVTec AD 2's server accepts.

    <folder>/anomaly_images/<object>/<test set>/<image>.tiff                 float16
    <folder>/anomaly_images_thresholded/<object>/<test set>/<image>.png      0, or 255 for a defect

MVTec AD 2's check_and_prepare_data_for_upload.py (public code, 2025) checks for one channel, every
image of both private test sets of all eight objects, and nothing else.
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from ddad_jax.data.sample import Sample
from ddad_jax.deploy.prediction import Prediction
from ddad_jax.errors import UserError
from ddad_jax.evaluation.outputs import save_image
from ddad_jax.machine.storage import whole_file

_LARGEST = float(np.finfo(np.float16).max)


def require_tifffile() -> None:
    """Raises UserError if the package that writes 16-bit floating-point maps is not installed."""
    try:
        import tifffile  # noqa: F401
    except ImportError as error:
        raise UserError(
            "--mode=submit: needs the package tifffile; install it with: pip install "
            "'ddad_jax[submission]'"
        ) from error


def not_written(folder: Path, samples: Iterable[Sample], detector: Path) -> list[Sample]:
    """Returns the samples for which the folder lacks a file as new as the detector's."""
    since = detector.stat().st_mtime_ns
    return [
        sample
        for sample in samples
        if not all(
            path.is_file() and path.stat().st_mtime_ns >= since
            for path in _paths(folder, sample.name)
        )
    ]


def write_prediction(folder: Path, prediction: Prediction) -> None:
    """Writes the two files of an image.

    Args:
        folder: of the submission.
        prediction: with its sample's name, <object>/<test set>/<image>.
    """
    import tifffile

    heat, thresholded = _paths(folder, prediction.name)
    heat.parent.mkdir(parents=True, exist_ok=True)
    values = np.clip(prediction.anomaly_map, -_LARGEST, _LARGEST).astype(np.float16)
    with whole_file(heat) as unfinished:
        tifffile.imwrite(unfinished, values, compression="zlib")
    save_image(Image.fromarray(prediction.mask.astype(np.uint8) * 255), thresholded)


def _paths(folder: Path, name: str) -> tuple[Path, Path]:
    return (
        (folder / "anomaly_images" / name).with_suffix(".tiff"),
        (folder / "anomaly_images_thresholded" / name).with_suffix(".png"),
    )
