"""What a detector said of a set of images, beside what is known of them."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from ddad_jax.data.sample import Sample
from ddad_jax.errors import UserError


@dataclass(frozen=True, eq=False)
class Predictions:
    """Everything that figures, pictures and reports are made from.

    Attributes:
      samples: what is known of each image.
      images: RGB, 0 to 255.
      masks: the pixels of the defect; all False where it is normal, unknown or without mask.
      has_mask: where the mask is known.
      labels: 0 normal, 1 anomalous, -1 unknown.
      scores: unbounded; above `threshold` an image is called anomalous.
      calibrated_scores: in [0, 1]; 0.5 at the threshold.
      decisions: whether it is called anomalous.
      noise_levels: T̂ used.
      knn_distances: distance to the training images, which chose T̂.
      reconstructed_knn_distances: the same distance of the reconstructions.
      maps: anomaly maps on the scale of the scores.
      reconstructions: RGB, 0 to 255.
      threshold: of the scores, from held-out normal images alone.
      test_normalised_maps: with protocol "paper", the maps as `d3ad.normalise_by_test_set` makes
        them; else None.

    Raises:
      UserError: a score or a map is not finite.
    """

    samples: tuple[Sample, ...]
    images: UInt8[np.ndarray, "n h w 3"]
    masks: Bool[np.ndarray, "n h w"]
    has_mask: Bool[np.ndarray, " n"]
    labels: Int[np.ndarray, " n"]
    scores: Float[np.ndarray, " n"]
    calibrated_scores: Float[np.ndarray, " n"]
    decisions: Bool[np.ndarray, " n"]
    noise_levels: Int[np.ndarray, " n"]
    knn_distances: Float[np.ndarray, " n"]
    reconstructed_knn_distances: Float[np.ndarray, " n"]
    maps: Float[np.ndarray, "n h w"]
    reconstructions: UInt8[np.ndarray, "n h w 3"]
    threshold: float
    test_normalised_maps: Float[np.ndarray, "n h w"] | None = None

    def __post_init__(self):
        finite = np.isfinite(self.scores) & np.isfinite(self.maps).all((1, 2))
        if not finite.all():
            name = self.samples[int(np.argmin(finite))].name
            raise UserError(
                f"{name}: its score is not a finite number, as those of {int((~finite).sum())} "
                "images are not; the detector is broken, train it again with a lower learning rate"
            )

    def __len__(self) -> int:
        return len(self.samples)
