"""Extends a fitted detector by a new kind of good part, from photographs and without training.

The photographs join the banks. The new kind has its own calibration: how high its maps usually are,
and a threshold. A photograph is judged by the calibration of the kind that it is nearest to.
Networks and earlier banks stay as they are, so that the extension can be undone.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float, Int, UInt8

from ddad_jax.data.image_set import content_of
from ddad_jax.data.preprocessing import Preprocessing
from ddad_jax.detection.build import Banks, BuildSettings
from ddad_jax.detection.calibration import calibrate
from ddad_jax.detection.detector import Detector, Kind, with_reconstruct
from ddad_jax.detection.extend import extend_banks
from ddad_jax.detection.normal import normal_evidence
from ddad_jax.errors import UserError
from ddad_jax.evaluation.find import Finder

# Squares at a time.
BATCH_SIZE = 16


@dataclass(frozen=True)
class Change:
    """What an extension changed.

    Attributes:
      added: how many photographs were new.
      threshold: of the detector; it stays.
      new_threshold: of the new kind, on the scale of its own calibration.
      known: good images that the detector's threshold is from.
      known_alarms: how many of them are called anomalous, by the scores that they had.
      new_alarms: how many new photographs are called anomalous, before and after; after, each is
        measured against banks that do not hold it.
    """

    added: int
    threshold: float
    new_threshold: float
    known: int
    known_alarms: int
    new_alarms: tuple[int, int]

    def __str__(self) -> str:
        new = self.new_alarms
        return (
            f"{self.added} good photographs added. The threshold is {self.threshold:.3f} as "
            f"before; {self.known_alarms} of the {self.known} earlier good images exceed it. The "
            f"new kind's is {self.new_threshold:.3f}, on a scale of its own. Of the {self.added} "
            f"photographs, {new[0]} were called anomalous before, and {new[1]} are now"
        )


@dataclass(frozen=True, eq=False)
class Extension:
    """A detector with a new kind of good part.

    Attributes:
      detector: the extended detector; the factor of the new kind is still 1.
      record: what was added, serialisable: the "images" by content, how many rows of "bank",
        "patch_bank" and "latent_bank" they have, and their "scores" by their own calibration.
      scores_before: of the same photographs, by the detector as it was.
    """

    detector: Detector
    record: dict[str, Any]
    scores_before: Float[np.ndarray, " n"]


def extend(
    detector: Detector,
    preprocessing: Preprocessing,
    made_of: Mapping[str, Any],
    photographs: Iterable[UInt8[np.ndarray, "_ _ 3"]],
) -> Extension:
    """Adds good photographs to a detector, and measures them.

    Args:
      detector: a fitted detector, on one device.
      preprocessing: the one that it was made with.
      made_of: what it was made of; photographs that it knows, and duplicates, are left out.
      photographs: RGB, of any size.

    Raises:
      UserError: fewer than two photographs are new, it is not known what the detector was made of,
        or its score is not the highest pixel of its map.
    """
    if not detector.settings.score_is_peak:
        name, value, usual = "score_share", f"{detector.settings.score_share:g}", "0"
        if detector.settings.scores_by_cosine:
            name, value, usual = "score_metric", "cosine", "map"
        raise UserError(
            f"detection.{name}: the detector has {value}, but only one with {usual} can be "
            "extended, since the factor of a kind brings either its scores or its pixels to the "
            f"detector's thresholds; fit one with --config.detection.{name}={usual}"
        )
    new = _new_ones(preprocessing, made_of, photographs)
    settings = made_of["settings"]
    build = BuildSettings(
        **{
            name.removeprefix("build."): value
            for name, value in settings.items()
            if name.startswith("build.")
        }
        | {"batch_size": BATCH_SIZE}
    )
    squares = [each for _, each in new.values()]
    sizes = np.array([size for size, _ in new.values()])
    counts = np.array([len(each) for each in squares])
    images, seed, parts = np.concatenate(squares), settings["seed"], np.arange(len(new))
    banks = extend_banks(detector, build, images, seed)
    of_all = replace(build, calibration_size=len(images))
    evidence = normal_evidence(banks, of_all, images, np.repeat(parts, counts), images[:0], seed)
    rates = build.false_alarm_rate, build.pixel_alarm_rate
    calibration = calibrate(evidence, detector.settings, *rates)

    def scores(of: Detector, chosen: Int[np.ndarray, " k"]) -> list[float]:
        starts = np.append(0, np.cumsum(counts[chosen]))
        taken = np.concatenate([squares[row] for row in chosen])
        finder = Finder(with_reconstruct(of, False), preprocessing, BATCH_SIZE, len(taken))
        return [each.score for each in finder.find(taken, starts, sizes[chosen])]

    found = np.asarray(calibration.scores, np.float64)
    if preprocessing.tile:
        found = np.zeros(len(new))
        folds = banks.cross_fitted(parts, len(new), seed, calibration=calibration, counts=counts)
        for fold, chosen in folds:
            found[chosen] = scores(fold.replace(kinds=(), kind_names=()), chosen)
    names = detector.kind_names
    if names:
        names += (f"extension {len(made_of.get('extensions', ())) + 1}",)
    kinds = (*detector.kinds, Kind.of(calibration))
    extended = banks.detector.replace(kinds=kinds, kind_names=names)
    return Extension(
        detector=extended,
        record={
            "images": list(new),
            "bank": len(extended.bank) - len(detector.bank),
            "patch_bank": len(extended.patch_bank) - len(detector.patch_bank),
            "latent_bank": len(extended.latent_bank) - len(detector.latent_bank),
            "scores": found.tolist(),
        },
        scores_before=np.array(scores(_without(banks), parts)),
    )


def _new_ones(
    preprocessing: Preprocessing,
    made_of: Mapping[str, Any],
    photographs: Iterable[UInt8[np.ndarray, "_ _ 3"]],
) -> dict[str, tuple[tuple[int, int], UInt8[np.ndarray, "_ size size 3"]]]:
    """Returns size and squares of each photograph that the detector does not know, by content."""
    if not made_of:
        raise UserError(
            "the detector does not say what it was made of, because an older version made it; "
            "make it again with --mode=fit"
        )
    known = {content for contents in made_of["images"].values() for content in contents}
    known |= {content for each in made_of.get("extensions", ()) for content in each["images"]}
    new, count = {}, 0
    for image in photographs:
        count += 1
        squares = preprocessing.squares(image)
        content = content_of(squares)
        if content not in known:
            new[content] = image.shape[:2], squares
    if len(new) < 2:
        raise UserError(
            f"{len(new)} of {count} photographs are new to the detector; at least 2 are "
            "needed, so that each can be measured against the others"
        )
    return new


def _without(banks: Banks) -> Detector:
    """Returns the detector as it was, in the new shapes, so that one program serves both."""
    rows = np.arange(len(banks.detector.bank)) >= banks.before
    return banks.hiding(rows, banks.origins >= 0)
