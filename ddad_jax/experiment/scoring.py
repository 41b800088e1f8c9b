"""Measures what is found in the images of a category, and writes it to its folder."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging
from jaxtyping import Float

from ddad_jax.deploy.fitted import FittedDetector
from ddad_jax.evaluation.bootstrap import resample
from ddad_jax.evaluation.compare import write_resampled
from ddad_jax.evaluation.curves import compute_curves
from ddad_jax.evaluation.figures import write_figures, write_training_loss
from ddad_jax.evaluation.metrics import compute_metrics
from ddad_jax.evaluation.outputs import write_metrics, write_pictures, write_scores
from ddad_jax.evaluation.predictions import Predictions
from ddad_jax.evaluation.report import ReportPart, report_part, write_report
from ddad_jax.evaluation.restoration import restoration_figures
from ddad_jax.experiment.asking import evaluate_detector, plant_defects, validate_detector
from ddad_jax.experiment.category import Category, Subject
from ddad_jax.machine import processes, together

VALIDATION = "validation"


def score(subject: Subject, fitted: FittedDetector) -> list[ReportPart]:
    """Scores the test images of each category, if there are any.

    Process 0 writes, and only it returns parts.
    """
    parts = [part for category in subject.categories for part in _score(category, fitted)]
    if parts:
        write_training_loss(subject.workdir / "figures", subject.workdir)
    return parts


def _score(category: Category, fitted: FittedDetector) -> list[ReportPart]:
    if len(category.images["test"]) == 0:
        logging.info("%s: no test images; the detector is ready for --mode=predict", category.name)
        return []
    with together.dividing():
        predictions = evaluate_detector(category, fitted)
    if not processes.is_first():
        return []
    more = _taken_for_others(category, predictions)
    masks = category.resized_masks()
    part = _write_results(category.workdir, category.name, predictions, fitted, masks, more)
    for name in ("image_auroc", "pixel_auroc", "aupro"):
        value = part.metrics[name]
        shown = part.metrics["undefined"][name] if value is None else f"{value:.4f}"
        logging.info("%s: %s", name, shown)
    return [part]


def _taken_for_others(category: Category, predictions: Predictions) -> dict[str, Any]:
    """Counts the images that are taken for each other category, if there are several."""
    if predictions.kinds is None:
        return {}
    others = Counter(kind for kind in predictions.kinds if kind != category.name)
    if others:
        logging.warning(
            "%s: %d of %d images are taken for parts of another category: %s", category.name,
            others.total(), len(predictions),
            ", ".join(f"{count} for {kind}" for kind, count in others.most_common()),
        )  # fmt: skip
    return {"taken_for": dict(others)}


def validate(subject: Subject, fitted: FittedDetector) -> list[ReportPart]:
    """Scores planted defects of each category; process 0 writes, and only it returns parts."""
    return [part for category in subject.categories for part in _validate(category, fitted)]


def _validate(category: Category, fitted: FittedDetector) -> list[ReportPart]:
    images, planted = plant_defects(category)
    restored = None
    with together.dividing():
        predictions = validate_detector(category, fitted, images)
        if predictions.reconstructions is not None:
            reconstructions = np.asarray(predictions.reconstructions)[-len(planted) :]
            restored = restoration_figures(
                fitted.detector, planted, reconstructions, category.config.build.batch_size
            )
    if not processes.is_first():
        return []
    folder = category.workdir / VALIDATION
    folder.mkdir(parents=True, exist_ok=True)
    name = f"{category.name}, planted defects"
    more = {"restoration": restored, **_taken_for_others(category, predictions)}
    part = _write_results(folder, name, predictions, fitted, more=more)
    for kind, of in part.metrics["per_defect"].items():
        count = of["images"]
        logging.info("%s: %d of %d found", kind, round(of["recall"] * count), count)
    if restored:
        logging.info(
            "restored: inside defects, %.2f of the difference is left, %.2f in the features (%.2f "
            "with the autoencoder alone); outside, PSNR %.1f dB (%.1f dB)", restored["inside"],
            restored["features"], restored["features_autoencoder"], restored["outside"],
            restored["outside_autoencoder"],
        )  # fmt: skip
    return [part]


# The modes that evaluate an existing detector.
SCORED = {"evaluate": score, "validate": validate}


def _write_results(
    folder: Path,
    name: str,
    predictions: Predictions,
    fitted: FittedDetector,
    resized_masks: Float[np.ndarray, "n h w"] | None = None,
    more: Mapping[str, Any] | None = None,
) -> ReportPart:
    """Writes everything about a set of images; returns its part for a report over several."""
    resampled = resample(predictions)
    metrics = compute_metrics(predictions, resampled, resized_masks)
    metrics |= {"calibration": fitted.calibrated, **(more or {})}
    if "choice" in fitted.made_of:
        metrics["choice"] = fitted.made_of["choice"]
    lost = metrics["counts"]["mask_lost"]
    if lost:
        logging.warning(
            "%s: %d of %d masks mark nothing at the working size; their images count in no pixel "
            "metric; use a larger data.size, data.tiling, or evaluation.resolution='original'",
            name, lost, lost + metrics["counts"]["with_mask"],
        )  # fmt: skip
    curves = compute_curves(predictions)
    write_metrics(folder, metrics)
    write_resampled(folder, resampled)
    write_scores(folder, predictions)
    write_pictures(folder, predictions)
    write_figures(folder / "figures", predictions, curves)
    part = report_part(name, predictions, metrics, curves)
    write_report(folder / "report.html", name, [part])
    logging.info("see %s", folder / "report.html")
    return part
