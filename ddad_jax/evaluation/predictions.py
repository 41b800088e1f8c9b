"""What a detector said about a set of images, together with what is known about them."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from ddad_jax.data.sample import ANOMALOUS, Sample
from ddad_jax.detection.detector import Detector
from ddad_jax.detection.regions import Region, find_regions
from ddad_jax.errors import UserError
from ddad_jax.evaluation.drawing import shrunk_map, shrunk_mask
from ddad_jax.evaluation.saturation import Saturating

# All of one size, or each of its own.
Maps = Float[np.ndarray, "n h w"] | Sequence[Float[np.ndarray, "_ _"]]
Masks = Bool[np.ndarray, "n h w"] | Sequence[Bool[np.ndarray, "_ _"]]
Pictures = UInt8[np.ndarray, "n h w 3"] | Sequence[UInt8[np.ndarray, "_ _ 3"]]


@dataclass(frozen=True, eq=False)
class Predictions:
    """Everything that metrics, pictures and reports are made from.

    Attributes:
      samples: what is known about each image.
      images: RGB, 0 to 255, as they are shown; large ones are scaled down.
      masks: the pixels of the defect, at the size of the maps; all False if the image is normal,
        unknown or without a mask.
      has_mask: whether the mask is known.
      labels: 0 normal, 1 anomalous, -1 unknown.
      scores: unbounded; above `threshold` an image is called anomalous.
      calibrated_scores: in [0, 1]; 0.5 at the threshold.
      decisions: whether an image is called anomalous.
      noise_levels: the T̂ used.
      knn_distances: distance to the training images, which chose T̂.
      reconstructed_knn_distances: the same for the reconstructions; None without them.
      maps: anomaly maps on the scale of the scores, at the resolution of the networks or of the
        original images.
      reconstructions: RGB, 0 to 255, at the size of the images; None without
        `Settings.reconstruct`.
      threshold: of the scores, from good images outside the test set.
      pixel_threshold: of the maps, likewise.
      sigma_threshold: of the maps, by MVTec AD 2's definition; see `Calibration`.
      smallest_region: share of an image; see `find_regions`.
      regions: for each image, its defects with their saturation, at the size of the maps; None if
        the data set has no saturations.
      kinds: the kind of good part that each image is taken for; None if the kinds have no names.
      test_normalised_maps: with protocol "paper", the maps from `d3ad.normalise_by_test_set`; else
        None.

    Raises:
      UserError: a score or a map is not finite.
    """

    samples: tuple[Sample, ...]
    images: Pictures
    masks: Masks
    has_mask: Bool[np.ndarray, " n"]
    labels: Int[np.ndarray, " n"]
    scores: Float[np.ndarray, " n"]
    calibrated_scores: Float[np.ndarray, " n"]
    decisions: Bool[np.ndarray, " n"]
    noise_levels: Int[np.ndarray, " n"]
    knn_distances: Float[np.ndarray, " n"]
    reconstructed_knn_distances: Float[np.ndarray, " n"] | None
    maps: Maps
    reconstructions: Pictures | None
    threshold: float
    pixel_threshold: float
    sigma_threshold: float
    smallest_region: float
    regions: Sequence[Sequence[Saturating]] | None = None
    kinds: Sequence[str] | None = None
    test_normalised_maps: Float[np.ndarray, "n h w"] | None = None

    def __post_init__(self):
        finite = np.isfinite(self.scores) & [np.isfinite(each).all() for each in self.maps]
        if not finite.all():
            name = self.samples[int(np.argmin(finite))].name
            raise UserError(
                f"{name}: its score is not a finite number ({int((~finite).sum())} images "
                "in all); the detector is broken, train it again with a lower learning rate"
            )

    @classmethod
    def of(cls, detector: Detector, answers: Sequence[Any], **others: Any) -> "Predictions":
        """Returns the predictions of a detector.

        Args:
          detector: has the thresholds.
          answers: one per photograph: its score, calibrated_score, decision, noise_level, the two
            distances and its kind.
          **others: all other attributes.
        """
        calibration = detector.calibration
        return cls(
            scores=np.array([each.score for each in answers]),
            calibrated_scores=np.array([each.calibrated_score for each in answers]),
            decisions=np.array([each.decision for each in answers]),
            noise_levels=np.array([each.noise_level for each in answers]),
            knn_distances=np.array([each.knn_distance for each in answers]),
            reconstructed_knn_distances=np.array(
                [each.reconstructed_knn_distance for each in answers]
            )
            if detector.settings.reconstruct
            else None,
            kinds=[each.kind for each in answers] if detector.kind_names else None,
            threshold=float(calibration.threshold),
            pixel_threshold=float(calibration.pixel_threshold),
            sigma_threshold=float(calibration.sigma_threshold),
            smallest_region=detector.settings.smallest_region,
            **others,
        )

    def __len__(self) -> int:
        return len(self.samples)

    @cached_property
    def is_measured(self) -> Bool[np.ndarray, " n"]:
        """Whether an image's pixels count: its mask is known, and not empty if it is anomalous."""
        left = np.array([mask.any() for mask in self.masks], bool)
        return self.has_mask & ((self.labels != ANOMALOUS) | left)

    def measured(
        self, chosen: Bool[np.ndarray, " n"]
    ) -> tuple[list[Float[np.ndarray, "_ _"]], list[Bool[np.ndarray, "_ _"]]]:
        """Returns maps and masks of the chosen images whose pixels count."""
        rows = np.flatnonzero(chosen & self.is_measured).tolist()
        return [self.maps[row] for row in rows], [self.masks[row] for row in rows]

    def measured_regions(self, chosen: Bool[np.ndarray, " n"]) -> list[Sequence[Saturating]] | None:
        """Returns the defects of the images of `measured`; None if there are no `regions`."""
        if self.regions is None:
            return None
        return [self.regions[row] for row in np.flatnonzero(chosen & self.is_measured).tolist()]

    def shown_map(self, row: int) -> Float[np.ndarray, "h w"]:
        """Returns the map at the size of the image; a narrow peak keeps its height."""
        return shrunk_map(self.maps[row], *self.images[row].shape[:2])

    def shown_mask(self, row: int) -> Bool[np.ndarray, "h w"]:
        """Returns the mask at the size of the image: True for pixels with some of the defect."""
        return shrunk_mask(self.masks[row], *self.images[row].shape[:2])

    def found(self, row: int) -> tuple[Bool[np.ndarray, "h w"], list[Region]]:
        """Returns the defective pixels and the regions of an image."""
        return find_regions(
            self.maps[row],
            self.pixel_threshold,
            self.smallest_region,
            anomalous=bool(self.decisions[row]),
        )
