"""A detector with its preprocessing: from photographs of any size to predictions, in steps.

Reading needs no detector and may be done in any thread. Finding is the detector's work. A
prediction is made from the results of both. The caller decides where and when each is done.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from jaxtyping import UInt8
from scipy.special import expit

from ddad_jax.data.preprocessing import Photograph, Preprocessing
from ddad_jax.deploy.prediction import Prediction, prediction_of
from ddad_jax.detection.detector import Detector
from ddad_jax.evaluation.find import Finder, Found
from ddad_jax.evaluation.originals import for_showing


@dataclass(frozen=True, eq=False)
class Read:
    """A photograph that has been read.

    Attributes:
      name: its name.
      size: its height and width in pixels.
      shown: the photograph as it is shown.
      squares: the networks' input.
    """

    name: str
    size: tuple[int, int]
    shown: UInt8[np.ndarray, "_ _ 3"]
    squares: UInt8[np.ndarray, "_ size size 3"]


class Predictor:
    """A detector that is ready to predict.

    Attributes:
      batch_size: squares that it takes at a time.
    """

    def __init__(self, detector: Detector, preprocessing: Preprocessing, batch_size: int):
        """Compiles nothing yet; the first photograph does.

        Args:
          detector: a fitted detector, divided over its devices.
          preprocessing: the one that it was made with.
          batch_size: squares at a time, approximately.
        """
        self._preprocessing = preprocessing
        self._finder = Finder(detector, preprocessing, batch_size)
        self.batch_size = self._finder.batch_size
        calibration = detector.calibration
        self._threshold = float(calibration.threshold)
        self._pixel_threshold = float(calibration.pixel_threshold)
        self._spread = float(calibration.spread)
        self._smallest_region = detector.settings.smallest_region

    def read(self, photograph: Photograph, name: str) -> Read:
        """Prepares a photograph for the detector.

        Raises:
          UserError: it cannot be used; the error says why.
        """
        image = self._preprocessing.read(photograph, name)
        squares = self._preprocessing.squares(image, name)
        return Read(name, image.shape[:2], for_showing(image), squares)

    def find(self, photographs: Sequence[Read]) -> Iterator[Found]:
        """Yields what the detector finds in each photograph, in order, as soon as it is ready."""
        if not photographs:
            return iter(())
        squares = [each.squares for each in photographs]
        starts = np.cumsum([0, *map(len, squares)])
        sizes = np.array([each.size for each in photographs])
        return self._finder.find(np.concatenate(squares), starts, sizes, bar="")

    def with_reconstruction(self, photograph: Read, found: Found) -> Found:
        """Returns the same with the reconstruction; if it lacks that, the detector runs again."""
        if found.reconstruction is not None:
            return found
        made = self._finder.reconstruction(photograph.squares, photograph.size)
        return replace(found, reconstruction=made)

    def prediction(
        self, photograph: Read, found: Found, threshold: float | None = None
    ) -> Prediction:
        """Makes the prediction for a photograph.

        Args:
          photograph: the photograph as it was read.
          found: what the detector found in it.
          threshold: of the score, to use instead of the detector's; also used for pixels, if the
            detector's two thresholds are equal.

        Raises:
          UserError: the score is not finite.
        """
        pixel_threshold = self._pixel_threshold
        if threshold is not None:
            calibrated = float(expit((found.score - threshold) / self._spread))
            decision = found.score > threshold
            found = replace(found, decision=decision, calibrated_score=calibrated)
            if pixel_threshold == self._threshold:
                pixel_threshold = threshold
        return prediction_of(
            photograph.name,
            found,
            partial(self._finder.reconstruction, photograph.squares, photograph.size),
            photograph.shown,
            photograph.size,
            self._preprocessing,
            threshold=self._threshold if threshold is None else threshold,
            pixel_threshold=pixel_threshold,
            smallest_region=self._smallest_region,
        )
