"""Running a detector over a set of images."""

import numpy as np

from ddad_jax.data.prepare import ImageSet
from ddad_jax.detection.batching import batched, concatenate, fitted_batch_size
from ddad_jax.detection.detect import compile_detect
from ddad_jax.detection.detector import Detector
from ddad_jax.evaluation import d3ad
from ddad_jax.evaluation.metrics import Protocol
from ddad_jax.evaluation.predictions import Predictions


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
