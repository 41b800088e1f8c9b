"""Running a detector over a set of images."""

import numpy as np

from ddad_jax.data.prepare import ImageSet
from ddad_jax.data.sample import Source
from ddad_jax.data.tiled import TiledSource
from ddad_jax.detection.batching import batched, concatenate, fitted_batch_size
from ddad_jax.detection.detect import compile_detect
from ddad_jax.detection.detector import Detector
from ddad_jax.evaluation import d3ad
from ddad_jax.evaluation.metrics import Protocol
from ddad_jax.evaluation.originals import at_original_size
from ddad_jax.evaluation.predictions import Predictions
from ddad_jax.evaluation.tiled import predict_tiled


def predict(
    detector: Detector,
    source: Source,
    images: ImageSet,
    batch_size: int,
    *,
    protocol: Protocol = "exact",
    at_original: bool,
    resize: str,
) -> Predictions:
    """What the detector says of every image, at the resolution that is asked for.

    Args:
      detector: a fitted detector.
      source: of the images; of their tiles, where the detector sees tiles.
      images: prepared from the source.
      batch_size: images or tiles at a time.
      protocol: as of `predict_images`; tiles have no other than "exact".
      at_original: whether maps and masks of whole images have the original images' resolution, and
        not the networks'. Those of tiled images have it anyway.
      resize: how images were made square.
    """
    if isinstance(source, TiledSource):
        return predict_tiled(detector, source, images, batch_size)
    predictions = predict_images(detector, images, batch_size, protocol)
    if at_original:
        return at_original_size(predictions, source, resize)
    return predictions


def predict_images(
    detector: Detector, images: ImageSet, batch_size: int, protocol: Protocol = "exact"
) -> Predictions:
    """What the detector says of every image, beside what is known of it.

    Args:
      detector: a fitted detector.
      images: the images, with labels and masks where they are known.
      batch_size: images at a time.
      protocol: with "paper" there are also the maps of the official code's figures.
    """
    batch_size = fitted_batch_size(batch_size, len(images.images), detector.device_count)
    program = compile_detect(detector, batch_size)

    def detect_batch(batch):
        found = program(batch)
        kept = {
            "scores": found.score,
            "calibrated_scores": found.calibrated_score,
            "decisions": found.decision,
            "noise_levels": found.noise_level,
            "knn_distances": found.knn_distance,
            "reconstructed_knn_distances": found.reconstructed_knn_distance,
            "maps": found.anomaly_map,
            "reconstructions": found.reconstruction,
        }
        if protocol == "exact":
            return kept, {}
        kinds = ("latent", "feature")
        return kept, [{kind: of[kind] for kind in kinds} for of in (found.maps, found.extremes)]

    kept, evidence = concatenate(batched(detect_batch, images.images, batch_size, "detect"))
    if evidence:
        weight = detector.settings.latent_weight
        kept["test_normalised_maps"] = d3ad.normalise_by_test_set(*evidence, weight)
    return Predictions(
        samples=images.samples,
        images=np.asarray(images.images),
        masks=np.asarray(images.masks),
        has_mask=images.has_mask,
        labels=images.labels,
        threshold=float(detector.calibration.threshold),
        **kept,
    )
