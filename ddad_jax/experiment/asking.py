"""Asks a fitted detector about a category's images, and about defects planted in them."""

from dataclasses import replace

from ddad_jax.data.image_set import ImageSet
from ddad_jax.data.planted import Planted, plant_in_set
from ddad_jax.deploy.fitted import FittedDetector
from ddad_jax.detection.detector import shard_detector
from ddad_jax.detection.evidence import evidence_weights
from ddad_jax.errors import UserError
from ddad_jax.evaluation.evaluate import evaluate
from ddad_jax.evaluation.predictions import Predictions
from ddad_jax.experiment.category import Category
from ddad_jax.experiment.fitting import contents_of, reconstructing


def evaluate_detector(category: Category, fitted: FittedDetector) -> Predictions:
    """Returns what a detector says about the test images.

    Raises:
      UserError: the detector was made of one of them, or it has no maps for protocol "paper".
    """
    config, test = category.config, category.images["test"]
    fitted = reconstructing(fitted, category)
    weights = evidence_weights(fitted.detector.settings)
    if config.evaluation.protocol == "paper" and not weights.keys() - {"patch"}:
        raise UserError(
            "evaluation.protocol: 'paper' needs the reconstruction's maps, which are not used in "
            f"{category.name}, as planted defects decided; fit it with --config.build.planted=0"
        )
    seen = contents_of(fitted)
    for sample, content in zip(test.samples, test.contents, strict=True):
        if content in seen:
            raise UserError(
                f"{sample.name}: is a test image, but the detector was made of it; take it out of "
                "the test images"
            )
    predictions = evaluate(
        shard_detector(fitted.detector, category.mesh.local_mesh),
        fitted.preprocessing,
        category.source,
        test,
        config.build.batch_size,
        protocol=config.evaluation.protocol,
        at_original=config.at_original,
    )
    return _by_own_pixels(predictions, category, fitted)


def plant_defects(category: Category) -> tuple[ImageSet, list[Planted]]:
    """Returns the held-out good images, with defects planted in them by `plant_in_set`.

    Raises:
      UserError: no good image is held out.
    """
    config, heldout = category.config, category.division[1]
    if not len(heldout):
        raise UserError(
            f"data.heldout_fraction: {config.data.heldout_fraction} holds out no good image to "
            "plant defects in; choose a larger one, and another --workdir"
        )
    return plant_in_set(heldout, config.evaluation.planted, config.seed)


def validate_detector(category: Category, fitted: FittedDetector, images: ImageSet) -> Predictions:
    """Returns what a detector says about images with planted defects, as if they were test images.

    Args:
      category: its settings are used.
      fitted: the detector.
      images: from `plant_defects`.
    """
    fitted = reconstructing(fitted, category)
    predictions = evaluate(
        shard_detector(fitted.detector, category.mesh.local_mesh),
        replace(fitted.preprocessing, tile=0),
        category.source,
        images,
        category.config.build.batch_size,
    )
    return _by_own_pixels(predictions, category, fitted)


def _by_own_pixels(
    predictions: Predictions, category: Category, fitted: FittedDetector
) -> Predictions:
    """Takes the threshold from the category's own good pixels if the detector is of several."""
    if not fitted.detector.kind_names:
        return predictions
    return replace(predictions, sigma_threshold=fitted.sigma_threshold_of(category.name))
