"""Asks a detector about photographs: the same way for test images, calibration and prediction.

The map of a tiled photograph is blended from the maps of its tiles, and gives its score. Memory
holds the tiles of one batch and the map of one photograph.
"""

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from typing import Any

import numpy as np
from jaxtyping import Float, Int, UInt8
from scipy.special import expit

from ddad_jax.data.preprocessing import Preprocessing
from ddad_jax.detection.anomaly_map import pixels_of_share
from ddad_jax.detection.batching import batched, fitted_batch_size
from ddad_jax.detection.calibration import RECONSTRUCTED
from ddad_jax.detection.detect import Detections, detect
from ddad_jax.detection.detector import Detector, with_reconstruct
from ddad_jax.machine.programs import compiled

NOTHING = np.zeros((0, 0), np.float32)


@dataclass(frozen=True, eq=False)
class Found:
    """What a detector says about one photograph.

    Noise level, distances and kind of a tiled photograph are those of its highest-scoring tile.

    Attributes:
      score: unbounded; above the threshold the photograph is called anomalous.
      calibrated_score: in [0, 1]; 0.5 at the threshold.
      decision: whether the photograph is called anomalous.
      noise_level: the T̂ used.
      knn_distance: to the training images.
      reconstructed_knn_distance: the same for the reconstruction; None if there is none.
      anomaly_map: on the scale of the score, at the networks' size, or at the photograph's own if
        it is tiled.
      reconstruction: RGB of 0 to 255, of the same size, not rounded if it is tiled; None without
        `Settings.reconstruct`.
      kind: the kind of good part that it is taken for; None if the kinds have no names.
      evidence: if asked for, the blurred map of each kind that compares with the reconstruction,
        and the extremes before the blur.
    """

    score: float
    calibrated_score: float
    decision: bool
    noise_level: int
    knn_distance: float
    reconstructed_knn_distance: float | None
    anomaly_map: Float[np.ndarray, "h w"]
    reconstruction: UInt8[np.ndarray, "h w 3"] | Float[np.ndarray, "h w 3"] | None
    kind: str | None = None
    evidence: dict[str, tuple[np.ndarray, np.ndarray]] | None = None

    @property
    def layers(self) -> Float[np.ndarray, "h w _"]:
        """The map and, if there is one, the colours of the reconstruction."""
        colours = [] if self.reconstruction is None else [self.reconstruction]
        return np.dstack([self.anomaly_map, *colours]).astype(np.float32)


class Finder:
    """A detector ready to be asked about photographs.

    Attributes:
      batch_size: squares that it takes at a time.
    """

    def __init__(
        self, detector: Detector, preprocessing: Preprocessing, batch_size: int, count: int = 0
    ):
        """Compiles nothing yet; the first photograph does.

        Args:
          detector: a fitted detector.
          preprocessing: the one that it was made with.
          batch_size: squares at a time, approximately.
          count: how many squares there are in all, if that is known; batches are then filled
            evenly.
        """
        self._detector, self._preprocessing = detector, preprocessing
        self._one_at_a_time = threading.Lock()
        self.batch_size = fitted_batch_size(batch_size, count or batch_size, detector.device_count)

    @cached_property
    def _detect(self) -> Callable[[Detector, np.ndarray], Detections]:
        size = self._detector.settings.image_size
        batch = np.zeros((self.batch_size, size, size, 3), np.uint8)
        return compiled(detect, self._detector, batch)

    def find(
        self,
        squares: UInt8[np.ndarray, "m size size 3"],
        starts: Int[np.ndarray, "n1"],
        sizes: Int[np.ndarray, "n 2"],
        *,
        with_evidence: bool = False,
        bar: str = "detect",
    ) -> Iterator[Found]:
        """Yields what the detector says about each photograph, in order.

        Args:
          squares: the networks' input, from `Preprocessing.squares`.
          starts: see `ImageSet`.
          sizes: height and width of each photograph.
          with_evidence: whether to add the evidence; tiled photographs never have it.
          bar: name of the progress bar; "": there is none.
        """
        found = self._of_squares(squares, with_evidence, bar)
        if not self._preprocessing.tile:
            yield from found
            return
        calibration = self._detector.calibration
        threshold, spread = float(calibration.threshold), float(calibration.spread)
        for count, (height, width) in zip(np.diff(starts).tolist(), sizes.tolist(), strict=True):
            tiles: list[Found] = []
            whole = self._preprocessing.restore(_layers(found, count, tiles), height, width)
            first = max(tiles, key=lambda tile: tile.score)
            score = _score(whole[..., 0], self._detector.settings.score_share)
            yield Found(
                score=score,
                calibrated_score=float(expit((score - threshold) / spread)),
                decision=score > threshold,
                noise_level=first.noise_level,
                knn_distance=first.knn_distance,
                reconstructed_knn_distance=first.reconstructed_knn_distance,
                anomaly_map=whole[..., 0],
                reconstruction=whole[..., 1:] if self._detector.settings.reconstruct else None,
                kind=first.kind,
            )

    def reconstruction(
        self, squares: UInt8[np.ndarray, "m size size 3"], size: tuple[int, int]
    ) -> UInt8[np.ndarray, "h w 3"] | Float[np.ndarray, "h w 3"]:
        """Returns the reconstruction of one photograph; the whole detector runs again for it."""
        starts, sizes = np.array([0, len(squares)]), np.array([size])
        with self._one_at_a_time:
            found = next(self._reconstructing.find(squares, starts, sizes, bar=""))
        assert found.reconstruction is not None  # It was asked for.
        return found.reconstruction

    @cached_property
    def _reconstructing(self) -> "Finder":
        detector = with_reconstruct(self._detector, True)
        return Finder(
            detector, self._preprocessing, self.batch_size if self._preprocessing.tile else 1
        )

    def _of_squares(
        self, squares: UInt8[np.ndarray, "m size size 3"], with_evidence: bool, bar: str
    ) -> Iterator[Found]:
        detect_one = self._detect  # Compiled here, and not in each of several threads.
        names = self._detector.kind_names

        def detect_batch(batch: UInt8[np.ndarray, "b size size 3"]) -> Any:
            f = detect_one(self._detector, batch)
            evidence = None
            if with_evidence:
                kinds = [kind for kind in RECONSTRUCTED if kind in f.maps]
                evidence = {kind: (f.maps[kind], f.extremes[kind]) for kind in kinds}
            figures = {
                "score": f.score,
                "calibrated_score": f.calibrated_score,
                "decision": f.decision,
                "noise_level": f.noise_level,
                "knn_distance": f.knn_distance,
                "reconstructed_knn_distance": f.reconstructed_knn_distance,
            }
            return figures, f.anomaly_map, f.reconstruction, evidence, f.kind

        results = batched(detect_batch, squares, self.batch_size, bar)
        for figures, maps, reconstructions, evidence, kinds in results:
            for row in range(len(maps)):
                of_row: dict[str, Any] = {
                    name: None if values is None else values[row].item()
                    for name, values in figures.items()
                }
                yield Found(
                    **of_row,
                    anomaly_map=maps[row],
                    reconstruction=None if reconstructions is None else reconstructions[row],
                    kind=names[kinds[row]] if names else None,
                    evidence=evidence and {k: (m[row], e[row]) for k, (m, e) in evidence.items()},
                )


def _score(heat: Float[np.ndarray, "h w"], share: float) -> float:
    """Returns what `image_scores` does, for a map of any size, without compiling anything."""
    if share == 0:
        return float(heat.max())
    count = pixels_of_share(heat.size, share)
    return float(np.partition(heat, -count, axis=None)[-count:].mean(dtype=np.float64))


def _layers(
    found: Iterator[Found], count: int, tiles: list[Found]
) -> Iterator[Float[np.ndarray, "size size _"]]:
    """Yields the layers of `count` tiles, one by one, and appends the rest of each to `tiles`."""
    for tile in islice(found, count):
        tiles.append(replace(tile, anomaly_map=NOTHING, reconstruction=None))
        yield tile.layers
