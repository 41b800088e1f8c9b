"""Optional output for each photograph, besides its row: maps, masks, pictures, a report."""

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

# Value of the threshold in a 16-bit map, whose highest value is almost eight times that.
LEVEL = 8192


@dataclass(frozen=True)
class PredictionSettings(Checked):
    """What --mode=predict writes for each photograph, besides its row.

    Attributes:
      maps: its anomaly map: "png" of 16 bits, in which 8192 is the threshold, cut off at 0 and at
        eight times that; or "tiff", floating point on the scale of the score.
      masks: its defective pixels, as a PNG.
      pictures: the photograph, its reconstruction and its heat map side by side, as a PNG.
      report: report.html of the photographs with the highest scores.
      report_images: how many photographs the report shows.
      coco: regions.json, all regions in the form of COCO's annotations.
      parquet: scores.parquet, which holds the rows, too.
      settle_seconds: with --watch, seconds that a new file must have stayed unchanged.
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
    """Makes map, mask and picture of a photograph, as far as the settings ask for them.

    Returns:
      The content of each file, by its path in the folder of results.
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
    """Returns the anomaly map as such a file holds it: "png" of 16 bits, "tiff" floating point."""
    if kind == "tiff":
        return Image.fromarray(prediction.anomaly_map.astype(np.float32))
    share = prediction.anomaly_map / max(prediction.threshold, np.finfo(np.float32).tiny)
    return Image.fromarray(np.rint(share * LEVEL).clip(0, 2**16 - 1).astype(np.uint16))


def mask_image(prediction: Prediction) -> Image.Image:
    """Returns the defective pixels, white on black."""
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
      predictions: those that it shows, at least one.
      detector: the one that made them.
      calibrated: see `FittedDetector.calibrated`.
      verdict: a summary of all photographs.
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
