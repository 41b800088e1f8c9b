"""Running a detector over a set of images."""

import numpy as np

from ddad_jax.data.prepare import ImageSet
from ddad_jax.detection.batching import batched, concatenate, fitted_batch_size
from ddad_jax.detection.detect import compile_detect
from ddad_jax.detection.detector import Detector
from ddad_jax.evaluation.predictions import Predictions


def predict_images(detector: Detector, images: ImageSet, batch_size: int) -> Predictions:
    """What the detector says of every image, beside what is known of it.

    Args:
      detector: a fitted detector.
      images: the images, with labels and masks where they are known.
      batch_size: images at a time.
    """
    batch_size = fitted_batch_size(batch_size, len(images.images), detector.device_count)
    program = compile_detect(detector, batch_size)

    def detect_batch(batch):
        found = program(batch)
        return {
            "scores": found.score,
            "calibrated_scores": found.calibrated_score,
            "decisions": found.decision,
            "noise_levels": found.noise_level,
            "knn_distances": found.knn_distance,
            "reconstructed_knn_distances": found.reconstructed_knn_distance,
            "maps": found.anomaly_map,
            "reconstructions": found.reconstruction,
        }

    found = concatenate(batched(detect_batch, images.images, batch_size, "detect"))
    return Predictions(
        samples=images.samples,
        images=np.asarray(images.images),
        masks=np.asarray(images.masks),
        has_mask=images.has_mask,
        labels=images.labels,
        threshold=float(detector.calibration.threshold),
        **found,
    )
