"""A detector's prediction for one photograph."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image

from ddad_jax.data.preprocessing import Preprocessing
from ddad_jax.detection.regions import Region, find_regions
from ddad_jax.errors import UserError
from ddad_jax.evaluation.drawing import decision_name, encoded, panels, shrunk_map, shrunk_mask
from ddad_jax.evaluation.find import Found
from ddad_jax.evaluation.originals import as_picture

# Regions that are listed when a prediction is printed.
LISTED = 3


@dataclass(frozen=True, eq=False, repr=False)
class Prediction:
    """What a detector says of one photograph.

    Noise level, distances and kind of a tiled photograph are those of its highest-scoring tile.

    Attributes:
      name: the photograph's path, or its number.
      score: the maximum of the anomaly map, or the mean of its highest pixels, unbounded.
      calibrated_score: in [0, 1]; 0.5 at the threshold.
      decision: whether it is called anomalous: its score is above `threshold`.
      threshold: of the score.
      noise_level: T̂ used.
      knn_distance: distance to the training images, by which T̂ was chosen.
      reconstructed_knn_distance: that of the reconstruction; None if not made for every photograph.
      kind: name of the kind of good part that it is taken for; None if the kinds have no names.
      anomaly_map: on the scale of the score, at the photograph's own size.
      mask: the defective pixels, which are those of the regions.
      regions: the defective regions, the highest peak first.
      image: the photograph as RGB, 0 to 255; its longest side is at most 1024 pixels.
    """

    name: str
    score: float
    calibrated_score: float
    decision: bool
    threshold: float
    noise_level: int
    knn_distance: float
    reconstructed_knn_distance: float | None
    kind: str | None
    anomaly_map: Float[np.ndarray, "h w"]
    mask: Bool[np.ndarray, "h w"]
    regions: Sequence[Region]
    image: UInt8[np.ndarray, "_ _ 3"]
    _reconstructed: np.ndarray | Callable[[], np.ndarray]
    _preprocessing: Preprocessing

    @cached_property
    def reconstruction(self) -> UInt8[np.ndarray, "h w 3"]:
        """How the photograph would look without its defect, RGB, at its own size.

        If it was not made for every photograph, the detector runs again; until then the prediction
        holds the detector.
        """
        return self._restored(*self.anomaly_map.shape)

    @property
    def _colours(self) -> np.ndarray:
        """The reconstruction as the detector makes it; afterwards the detector is not held."""
        made = self._reconstructed() if callable(self._reconstructed) else self._reconstructed
        object.__setattr__(self, "_reconstructed", made)
        return made

    def __getstate__(self) -> dict[str, Any]:
        """Returns what is pickled: arrays, with the reconstruction made."""
        return {**vars(self), "_reconstructed": self._colours}

    @property
    def shown_reconstruction(self) -> UInt8[np.ndarray, "_ _ 3"]:
        """The reconstruction at the size of `image`."""
        height, width = self.image.shape[:2]
        if self._preprocessing.tile:
            return as_picture(self._colours.astype(np.float32), height, width)
        return self._restored(height, width)

    def as_shown(self) -> "Prediction":
        """Returns the same at the size of `image`, to save memory; regions stay as they are."""
        height, width = self.image.shape[:2]
        return replace(
            self,
            anomaly_map=shrunk_map(self.anomaly_map, height, width),
            mask=shrunk_mask(self.mask, height, width),
            _reconstructed=self.shown_reconstruction if self._preprocessing.tile else self._colours,
        )

    def draw(self) -> Image.Image:
        """Draws photograph, reconstruction, and heat map with the regions, side by side."""
        height, width = self.image.shape[:2]
        return panels(
            self.image,
            self.shown_reconstruction,
            shrunk_map(self.anomaly_map, height, width),
            self.threshold,
            defective=shrunk_mask(self.mask, height, width),
            decision=self.decision,
            said=f"score {self.score:.3f}, threshold {self.threshold:.3f}, "
            f"noise level {self.noise_level}",
        )

    def _restored(self, height: int, width: int) -> UInt8[np.ndarray, "{height} {width} 3"]:
        values = self._colours
        if not self._preprocessing.tile:
            whole = values.astype(np.float32)[None]
            values = self._preprocessing.restore(whole, height, width)
        return np.rint(values).clip(0, 255).astype(np.uint8)

    def __repr__(self) -> str:
        taken_for = f", taken for {self.kind}" if self.kind else ""
        lines = [
            f"{self.name}: {decision_name(self.decision)}, score {self.score:.3f}, "
            f"threshold {self.threshold:.3f}{taken_for}"
        ]
        lines += [
            f"  {each.width}×{each.height} pixels at ({each.left}, {each.top}), "
            f"{100 * each.share:.2g} % of the image, peak {each.peak:.3f}"
            for each in self.regions[:LISTED]
        ]
        if len(self.regions) > LISTED:
            lines.append(f"  and {len(self.regions) - LISTED} more regions")
        return "\n".join(lines)

    def _repr_png_(self) -> bytes:
        """Returns the picture that a notebook shows."""
        return encoded(self.draw(), "png")


def prediction_of(
    name: str,
    found: Found,
    reconstruct: Callable[[], np.ndarray],
    image: UInt8[np.ndarray, "_ _ 3"],
    size: tuple[int, int],
    preprocessing: Preprocessing,
    *,
    threshold: float,
    pixel_threshold: float,
    smallest_region: float,
) -> Prediction:
    """Makes a prediction from what the detector found.

    Args:
      name: of the photograph.
      found: by `Finder.find`.
      reconstruct: makes the reconstruction if `find` made none.
      image: the photograph as it is shown.
      size: height and width of the photograph.
      preprocessing: of the detector.
      threshold: of the score.
      pixel_threshold: of the anomaly map.
      smallest_region: see `find_regions`.

    Raises:
      UserError: the score is not finite.
    """
    if not np.isfinite(found.score):
        raise UserError(
            f"{name}: its score is not a finite number; the detector is broken, train it again "
            "with a lower learning rate"
        )
    heat = found.anomaly_map
    if not preprocessing.tile:
        heat = preprocessing.restore(heat[None], *size)
    mask, regions = find_regions(heat, pixel_threshold, smallest_region, anomalous=found.decision)
    return Prediction(
        name=name,
        score=found.score,
        calibrated_score=found.calibrated_score,
        decision=found.decision,
        threshold=threshold,
        noise_level=found.noise_level,
        knn_distance=found.knn_distance,
        reconstructed_knn_distance=found.reconstructed_knn_distance,
        kind=found.kind,
        anomaly_map=heat,
        mask=mask,
        regions=regions,
        image=image,
        _reconstructed=reconstruct if found.reconstruction is None else found.reconstruction,
        _preprocessing=preprocessing,
    )
