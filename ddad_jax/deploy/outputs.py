"""What is written of each photograph besides its row, where it is asked for."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from ddad_jax.data.sample import UNKNOWN, Sample
from ddad_jax.deploy.prediction import Prediction
from ddad_jax.detection.detector import Detector
from ddad_jax.evaluation.bootstrap import resample
from ddad_jax.evaluation.curves import compute_curves
from ddad_jax.evaluation.metrics import compute_metrics
from ddad_jax.evaluation.outputs import file_of, path_of
from ddad_jax.evaluation.predictions import Predictions
from ddad_jax.evaluation.report import report_part, write_report
from ddad_jax.settings import Checked, setting

# Value of a 16-bit map that is the threshold; the highest that it can hold is eight times that.
LEVEL = 8192


@dataclass(frozen=True)
class PredictionSettings(Checked):
    """What --mode=predict writes of each photograph besides its row.

    Attributes:
      maps: its anomaly map: "png" of 16 bits, in which 8192 is the threshold and all values are
        cut off at eight times that, or "tiff", floating point on the scale of the score.
      masks: its defective pixels, a PNG.
      pictures: the photograph, its reconstruction and its heat map side by side, a PNG.
      report: report.html of the photographs with the highest scores.
      report_images: how many those are.
      coco: regions.json, all regions in the form of COCO's annotations.
      parquet: scores.parquet, the rows once more.
      settle_seconds: a file that appears, with --watch, must not have changed for so long.
    """

    maps: Literal["none", "png", "tiff"] = setting("none", changes="nothing")
    masks: bool = setting(False, changes="nothing")
    pictures: Literal["none", "anomalous", "all"] = setting("none", changes="nothing")
    report: bool = setting(False, changes="nothing")
    report_images: int = setting(200, changes="nothing", low=1)
    coco: bool = setting(False, changes="nothing")
    parquet: bool = setting(False, changes="nothing")
    settle_seconds: float = setting(1.0, changes="nothing", low=0)


def outputs_of(prediction: Prediction, settings: PredictionSettings) -> dict[str, bytes]:
    """Map, mask and picture of a photograph, as far as they are asked for.

    Returns:
      What each file holds, by its path in the folder of results.
    """
    p = prediction
    images: dict[Path, Image.Image] = {}
    if settings.maps != "none":
        path = path_of(Path("maps"), p.name, f".{settings.maps}")
        images[path] = map_image(p, settings.maps)
    if settings.masks:
        images[path_of(Path("masks"), p.name)] = mask_image(p)
    if settings.pictures == "all" or (settings.pictures == "anomalous" and p.decision):
        images[path_of(Path("pictures"), p.name)] = p.draw()
    return {str(path): file_of(image, path) for path, image in images.items()}


def map_image(prediction: Prediction, kind: Literal["png", "tiff"]) -> Image.Image:
    """The anomaly map as a file of that kind holds it, of 16 bits or floating point."""
    if kind == "tiff":
        return Image.fromarray(prediction.anomaly_map.astype(np.float32))
    share = prediction.anomaly_map / max(prediction.threshold, np.finfo(np.float32).tiny)
    return Image.fromarray(np.rint(share * LEVEL).clip(0, 2**16 - 1).astype(np.uint16))


def mask_image(prediction: Prediction) -> Image.Image:
    """The defective pixels, white on black."""
    return Image.fromarray(prediction.mask.astype(np.uint8) * 255)


def write_prediction_report(
    path: Path,
    title: str,
    predictions: Sequence[Prediction],
    detector: Detector,
    calibrated: Mapping[str, int | float],
    verdict: str,
) -> None:
    """Writes report.html of some photographs.

    Args:
      path: the file.
      title: of the page.
      predictions: what it shows, at least one.
      detector: that they are from.
      calibrated: what its threshold is worth.
      verdict: what is said of all photographs.
    """
    shown = Predictions.of(
        detector,
        predictions,
        samples=tuple(Sample(p.name, UNKNOWN, "unknown", "test", "") for p in predictions),
        images=[p.image for p in predictions],
        masks=[np.broadcast_to(np.False_, p.mask.shape) for p in predictions],
        has_mask=np.zeros(len(predictions), bool),
        labels=np.full(len(predictions), UNKNOWN),
        maps=[p.anomaly_map for p in predictions],
        reconstructions=[p.shown_reconstruction for p in predictions],
    )
    metrics = compute_metrics(shown, resample(shown)) | {"calibration": calibrated}
    part = report_part(title, shown, metrics, compute_curves(shown))
    write_report(path, title, [part], verdict)
