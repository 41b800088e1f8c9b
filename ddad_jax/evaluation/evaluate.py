"""What a detector says of photographs: the one way for test images, calibration and prediction.

A photograph that is tiled has the map that its tiles' maps blend into, and its score is the maximum
of that; memory holds the tiles of one batch and the map of one photograph.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Int, UInt8
from scipy.special import expit

from ddad_jax.data.prepare import ImageSet
from ddad_jax.data.preprocessing import Preprocessing
from ddad_jax.data.sample import Source
from ddad_jax.detection.batching import batched, fitted_batch_size
from ddad_jax.detection.build import BuildSettings
from ddad_jax.detection.calibration import three_sigma, with_thresholds
from ddad_jax.detection.detect import detect
from ddad_jax.detection.detector import Calibration, Detector
from ddad_jax.evaluation import d3ad
from ddad_jax.evaluation.metrics import Protocol
from ddad_jax.evaluation.originals import as_picture, at_original_size, for_showing, on_disk
from ddad_jax.evaluation.predictions import Maps, Masks, Pictures, Predictions

# Kinds of evidence that protocol "paper" normalises over the test set.
KINDS = ("latent", "feature")
NOTHING = np.zeros((0, 0, 3), np.float32)


@dataclass(frozen=True, eq=False)
class Found:
    """What a detector says of one photograph.

    Attributes:
      score: unbounded; above the threshold it is called anomalous.
      calibrated_score: in [0, 1]; 0.5 at the threshold.
      decision: whether it is called anomalous.
      noise_level: T̂; of a tiled photograph that of the tile with the highest score, and so the two
        distances.
      knn_distance: to the training images.
      reconstructed_knn_distance: that of the reconstruction.
      anomaly_map: on the scale of the score, at the networks' size; of a tiled photograph at its
        own.
      reconstruction: RGB of 0 to 255, of the same size, not rounded where it is tiled.
      evidence: with protocol "paper", of each kind the blurred map and the extremes before.
    """

    score: float
    calibrated_score: float
    decision: bool
    noise_level: int
    knn_distance: float
    reconstructed_knn_distance: float
    anomaly_map: Float[np.ndarray, "h w"]
    reconstruction: UInt8[np.ndarray, "h w 3"] | Float[np.ndarray, "h w 3"]
    evidence: dict[str, tuple[np.ndarray, np.ndarray]] | None = None

    @property
    def layers(self) -> Float[np.ndarray, "h w 4"]:
        """The map and the colours of the reconstruction."""
        return np.dstack([self.anomaly_map, self.reconstruction]).astype(np.float32)


def find(
    detector: Detector,
    preprocessing: Preprocessing,
    squares: UInt8[np.ndarray, "m size size 3"],
    starts: Int[np.ndarray, "n1"],
    sizes: Int[np.ndarray, "n 2"],
    batch_size: int,
    protocol: Protocol = "exact",
    *,
    bar: str = "detect",
) -> Iterator[Found]:
    """What the detector says of each photograph, in order.

    Args:
      detector: a fitted detector.
      preprocessing: that it was made with.
      squares: the networks' input, as `Preprocessing.squares` makes it.
      starts: the squares of photograph i are those from starts[i] up to starts[i + 1].
      sizes: height and width of each photograph.
      batch_size: squares at a time, as `batch_size_of` makes it.
      protocol: with "paper" there is also the evidence.
      bar: name of the progress bar; "": there is none.
    """
    found = _of_squares(detector, squares, batch_size, protocol, bar)
    if not preprocessing.tile:
        yield from found
        return
    calibration = detector.calibration
    threshold, spread = float(calibration.threshold), float(calibration.spread)
    for count, (height, width) in zip(np.diff(starts).tolist(), sizes.tolist(), strict=True):
        tiles: list[Found] = []
        whole = preprocessing.restore(_layers(found, count, tiles), height, width)
        first = max(tiles, key=lambda tile: tile.score)
        score = float(whole[..., 0].max())
        yield Found(
            score=score,
            calibrated_score=float(expit((score - threshold) / spread)),
            decision=score > threshold,
            noise_level=first.noise_level,
            knn_distance=first.knn_distance,
            reconstructed_knn_distance=first.reconstructed_knn_distance,
            anomaly_map=whole[..., 0],
            reconstruction=whole[..., 1:],
        )


def _layers(
    found: Iterator[Found], count: int, tiles: list[Found]
) -> Iterator[Float[np.ndarray, "size size 4"]]:
    """The layers of so many tiles, one after another; what else is said of them goes to `tiles`."""
    for tile in islice(found, count):
        tiles.append(replace(tile, anomaly_map=NOTHING[..., 0], reconstruction=NOTHING))
        yield tile.layers


def _of_squares(
    detector: Detector,
    squares: UInt8[np.ndarray, "m size size 3"],
    batch_size: int,
    protocol: Protocol,
    bar: str,
) -> Iterator[Found]:

    def detect_batch(batch: UInt8[np.ndarray, "b size size 3"]) -> Any:
        f = detect(detector, batch)
        evidence = None
        if protocol == "paper":
            evidence = {kind: (f.maps[kind], f.extremes[kind]) for kind in KINDS}
        figures = {
            "score": f.score,
            "calibrated_score": f.calibrated_score,
            "decision": f.decision,
            "noise_level": f.noise_level,
            "knn_distance": f.knn_distance,
            "reconstructed_knn_distance": f.reconstructed_knn_distance,
        }
        return figures, f.anomaly_map, f.reconstruction, evidence

    for figures, maps, reconstructions, evidence in batched(detect_batch, squares, batch_size, bar):
        for row in range(len(maps)):
            yield Found(
                **{name: values[row].item() for name, values in figures.items()},
                anomaly_map=maps[row],
                reconstruction=reconstructions[row],
                evidence=evidence and {k: (m[row], e[row]) for k, (m, e) in evidence.items()},
            )


def batch_size_of(detector: Detector, wanted: int, count: int = 0) -> int:
    """How many squares a detector takes at a time.

    Args:
      detector: says over how many devices.
      wanted: about so many.
      count: how many there are in all, if that is known: the last batch is then as full as may be.
    """
    if jax.default_backend() == "cpu":
        # It takes images one by one anyway, and so one program serves any number of them.
        wanted = 1
    return fitted_batch_size(wanted, count or wanted, detector.device_count)


def find_all(
    detector: Detector,
    preprocessing: Preprocessing,
    images: ImageSet,
    batch_size: int,
    protocol: Protocol = "exact",
) -> Iterator[Found]:
    """`find` of the photographs of a set, about `batch_size` squares at a time."""
    return find(
        detector,
        preprocessing,
        images.squares,
        images.starts,
        images.sizes,
        batch_size_of(detector, batch_size, len(images.squares)),
        protocol,
    )


def evaluate(
    detector: Detector,
    preprocessing: Preprocessing,
    source: Source,
    images: ImageSet,
    batch_size: int,
    *,
    protocol: Protocol = "exact",
    at_original: bool = False,
) -> Predictions:
    """What the detector says of every photograph, beside what is known of it.

    Args:
      detector: a fitted detector.
      preprocessing: that it was made with.
      source: of the photographs.
      images: prepared from the source.
      batch_size: squares at a time.
      protocol: with "paper" there are also the maps of the official code's figures.
      at_original: whether maps and masks have the photographs' resolution, and not the networks'.
        Those of tiled photographs have it anyway.
    """
    found = find_all(detector, preprocessing, images, batch_size, protocol)
    if preprocessing.tile:
        return _of_tiled(detector, source, images, found)
    every = list(found)
    normalised = None
    if protocol == "paper":
        evidence = [each.evidence for each in every if each.evidence is not None]
        maps, extremes = (
            {kind: np.stack([each[kind][part] for each in evidence]) for kind in KINDS}
            for part in (0, 1)
        )
        weight = detector.settings.latent_weight
        normalised = d3ad.normalise_by_test_set(maps, extremes, weight)
    predictions = _predictions(
        detector,
        images,
        every,
        shown=np.asarray(images.squares),
        masks=np.asarray(images.masks),
        maps=np.stack([each.anomaly_map for each in every]),
        reconstructions=np.stack([each.reconstruction for each in every]),
        normalised=normalised,
    )
    if at_original:
        return at_original_size(predictions, source, preprocessing.resize)
    return predictions


def _of_tiled(
    detector: Detector, source: Source, images: ImageSet, found: Iterator[Found]
) -> Predictions:
    every, shown, masks, maps, reconstructions = [], [], [], [], []
    for sample, each in zip(images.samples, found, strict=True):
        image, mask = source.read_image(sample), source.read_mask(sample)
        small = for_showing(image)
        shown.append(small)
        masks.append(np.broadcast_to(np.False_, image.shape[:2]) if mask is None else mask)
        maps.append(on_disk(each.anomaly_map))
        reconstructions.append(as_picture(each.reconstruction, *small.shape[:2]))
        every.append(replace(each, anomaly_map=NOTHING[..., 0], reconstruction=NOTHING))
    return _predictions(
        detector,
        images,
        every,
        shown=shown,
        masks=masks,
        maps=maps,
        reconstructions=reconstructions,
    )


def _predictions(
    detector: Detector,
    images: ImageSet,
    every: Sequence[Found],
    *,
    shown: Pictures,
    masks: Masks,
    maps: Maps,
    reconstructions: Pictures,
    normalised: Float[np.ndarray, "n h w"] | None = None,
) -> Predictions:
    calibration = detector.calibration
    return Predictions(
        samples=images.samples,
        images=shown,
        masks=masks,
        has_mask=images.has_mask,
        labels=images.labels,
        scores=np.array([each.score for each in every]),
        calibrated_scores=np.array([each.calibrated_score for each in every]),
        decisions=np.array([each.decision for each in every]),
        noise_levels=np.array([each.noise_level for each in every]),
        knn_distances=np.array([each.knn_distance for each in every]),
        reconstructed_knn_distances=np.array([each.reconstructed_knn_distance for each in every]),
        maps=maps,
        reconstructions=reconstructions,
        threshold=float(calibration.threshold),
        pixel_threshold=float(calibration.pixel_threshold),
        sigma_threshold=float(calibration.sigma_threshold),
        smallest_region=detector.settings.smallest_region,
        test_normalised_maps=normalised,
    )


def calibrate_on_photographs(
    sets: Iterable[tuple[Detector, ImageSet]], preprocessing: Preprocessing, build: BuildSettings
) -> Calibration:
    """A calibration with thresholds for photographs, where it had them for tiles.

    Args:
      sets: detectors calibrated on tiles, each with normal photographs that neither its networks
        nor its banks know; all of the same calibration.
      preprocessing: that they were made with.
      build: the rates, of photographs, and how many tiles are taken at a time.
    """
    scores: list[float] = []
    calibration = None

    def maps() -> Iterator[Float[np.ndarray, "_ _"]]:
        nonlocal calibration
        for detector, images in sets:
            calibration = detector.calibration
            for each in find_all(detector, preprocessing, images, build.batch_size):
                scores.append(each.score)
                yield each.anomaly_map

    sigma_threshold = three_sigma(maps())
    assert calibration is not None  # There is at least one set.
    return with_thresholds(
        calibration.replace(sigma_threshold=np.float32(sigma_threshold)),
        np.array(scores, np.float64),
        build.false_alarm_rate,
        build.pixel_alarm_rate,
    )
