"""Evaluates a detector on test images, and calibrates it on normal photographs."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import Float

from ddad_jax.data.image_set import ImageSet
from ddad_jax.data.preprocessing import Preprocessing
from ddad_jax.data.sample import Source
from ddad_jax.detection.build import BuildSettings
from ddad_jax.detection.calibration import three_sigma, with_thresholds
from ddad_jax.detection.detector import Calibration, Detector, with_reconstruct
from ddad_jax.evaluation import d3ad
from ddad_jax.evaluation.find import NOTHING, Finder, Found
from ddad_jax.evaluation.metrics import Protocol
from ddad_jax.evaluation.originals import as_picture, at_original_size, for_showing, on_disk
from ddad_jax.evaluation.predictions import Predictions
from ddad_jax.evaluation.saturation import regions_of


def find_all(
    detector: Detector,
    preprocessing: Preprocessing,
    images: ImageSet,
    batch_size: int,
    *,
    with_evidence: bool = False,
) -> Iterator[Found]:
    """Calls `Finder.find` for the photographs of a set, about `batch_size` squares at a time."""
    finder = Finder(detector, preprocessing, batch_size, len(images.squares))
    return finder.find(images.squares, images.starts, images.sizes, with_evidence=with_evidence)


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
    """Returns what the detector says about every photograph, and what is known about it.

    Args:
      detector: a fitted detector.
      preprocessing: the one that it was made with.
      source: of the photographs.
      images: prepared from the source.
      batch_size: squares at a time.
      protocol: "paper" adds the maps for the metrics of the official code.
      at_original: whether maps and masks have the photographs' resolution instead of the networks'.
        Those of tiled photographs always have it.
    """
    found = find_all(detector, preprocessing, images, batch_size, with_evidence=protocol == "paper")
    if preprocessing.tile:
        return _of_tiled(detector, source, images, found)
    every = list(found)
    normalised = None
    if protocol == "paper":
        evidence = [each.evidence for each in every if each.evidence is not None]
        maps, extremes = (
            {kind: np.stack([each[kind][part] for each in evidence]) for kind in evidence[0]}
            for part in (0, 1)
        )
        weight = detector.settings.latent_weight
        normalised = d3ad.normalise_by_test_set(maps, extremes, weight)
    reconstructions = [each.reconstruction for each in every if each.reconstruction is not None]
    predictions = Predictions.of(
        detector,
        every,
        **_known(images),
        images=np.asarray(images.squares),
        masks=np.asarray(images.masks),
        regions=regions_of(source, images.samples, preprocessing.fit_mask),
        maps=np.stack([each.anomaly_map for each in every]),
        reconstructions=np.stack(reconstructions) if reconstructions else None,
        test_normalised_maps=normalised,
    )
    if at_original:
        return at_original_size(predictions, source, preprocessing.resize)
    return predictions


def _of_tiled(
    detector: Detector, source: Source, images: ImageSet, found: Iterator[Found]
) -> Predictions:
    every: list[Found] = []
    shown, masks, maps, reconstructions = [], [], [], []
    for sample, each in zip(images.samples, found, strict=True):
        image, mask = source.read_image(sample), source.read_mask(sample)
        small = for_showing(image)
        shown.append(small)
        masks.append(np.broadcast_to(np.False_, image.shape[:2]) if mask is None else mask)
        maps.append(on_disk(each.anomaly_map))
        if each.reconstruction is not None:
            reconstructions.append(as_picture(each.reconstruction, *small.shape[:2]))
        every.append(replace(each, anomaly_map=NOTHING, reconstruction=None))
    return Predictions.of(
        detector,
        every,
        **_known(images),
        images=shown,
        masks=masks,
        regions=regions_of(source, images.samples),
        maps=maps,
        reconstructions=reconstructions or None,
    )


def _known(images: ImageSet) -> dict[str, Any]:
    return {"samples": images.samples, "has_mask": images.has_mask, "labels": images.labels}


def calibrate_on_photographs(
    sets: Iterable[tuple[Detector, ImageSet]], preprocessing: Preprocessing, build: BuildSettings
) -> Calibration:
    """Returns a calibration whose thresholds are for photographs instead of tiles.

    Args:
      sets: detectors with one calibration, made on tiles; each with normal photographs that its
        banks do not hold.
      preprocessing: the one that they were made with.
      build: the rates, per photograph, and how many tiles are taken at a time.
    """
    scores: list[float] = []
    peaks: list[float] = []
    calibration = None

    def maps() -> Iterator[Float[np.ndarray, "_ _"]]:
        nonlocal calibration
        for detector, images in sets:
            calibration = detector.calibration
            brief = with_reconstruct(detector, False)
            for each in find_all(brief, preprocessing, images, build.batch_size):
                scores.append(each.score)
                peaks.append(float(each.anomaly_map.max()))
                yield each.anomaly_map

    sigma_threshold = three_sigma(maps())
    assert calibration is not None  # There is at least one set.
    return with_thresholds(
        calibration.replace(sigma_threshold=np.float32(sigma_threshold)),
        np.array(scores, np.float64),
        np.array(peaks, np.float64),
        build.false_alarm_rate,
        build.pixel_alarm_rate,
    )
