"""Running a detector over a set of images."""

import numpy as np

from ddad_jax.data.prepare import ImageSet
from ddad_jax.detection.batching import batched, concatenate
from ddad_jax.detection.detector import Detector, detect
from ddad_jax.evaluation.predictions import Predictions


def predict_images(detector: Detector, images: ImageSet, batch_size: int) -> Predictions:
    """What the detector says of every image, beside what is known of it.

    Args:
      detector: a fitted detector.
      images: the images, with labels and masks where they are known.
      batch_size: images at a time.
    """

    def detect_batch(batch):
        found = detect(detector, batch)
        reconstruction = ((found.evidence.reconstruction + 1.0) * 127.5).round().astype(np.uint8)
        return {
            "scores": found.score,
            "calibrated_scores": found.calibrated_score,
            "decisions": found.decision,
            "noise_levels": found.evidence.noise_level,
            "knn_distances": found.evidence.knn_distance,
            "reconstructed_knn_distances": found.evidence.reconstructed_knn_distance,
            "maps": found.anomaly_map,
            "reconstructions": reconstruction,
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
