"""The bootstrap over images: what metrics might have been with other test images.

Normal and anomalous images are resampled separately, so that each metric is defined every time.
Which images are drawn depends only on their names and labels: the resamples of two runs over the
same images are pairs, and those of two categories are independent. `intervals` and `compare` use
them.
"""

from zlib import crc32

import numpy as np
from jaxtyping import Bool, Float, Int

from ddad_jax.data.sample import ANOMALOUS, NORMAL
from ddad_jax.evaluation.aupro import (
    PRO_LIMIT,
    Maps,
    Masks,
    can_tell_apart,
    region_gains,
    split_pixels,
)
from ddad_jax.evaluation.predictions import Predictions

RESAMPLES = 1000
# Steps of the false positive rate at which the curves over pixels are computed; finer near 0.
STEPS = 1000


def draw_counts(
    anomalous: Bool[np.ndarray, " n"], resamples: int, seed: int
) -> Int[np.ndarray, "resamples n"]:
    """Draws, with replacement, as many images of each kind as there are; returns the counts."""
    rng = np.random.default_rng(seed)
    counts = np.zeros((resamples, len(anomalous)), np.int64)
    for kind in (anomalous, ~anomalous):
        size = int(kind.sum())
        if size:
            counts[:, kind] = rng.multinomial(size, np.full(size, 1 / size), resamples)
    return counts


def resample(predictions: Predictions) -> dict[str, Float[np.ndarray, " resamples"]]:
    """Returns some metrics for each of `RESAMPLES` resamples of the test images.

    Returns:
      `recall`, `false_alarm_rate`, `image_auroc`, `image_ap`, `pixel_auroc` and `aupro`, as far as
      they are defined.
    """
    p = predictions
    normal, anomalous = p.labels == NORMAL, p.labels == ANOMALOUS
    labelled = normal | anomalous
    seed = crc32("\n".join(f"{s.category} {s.name}" for s in p.samples).encode())
    counts = np.zeros((RESAMPLES, len(p)), np.int64)
    counts[:, labelled] = draw_counts(anomalous[labelled], RESAMPLES, seed)
    drawn = {
        name: counts[:, chosen] @ p.decisions[chosen] / chosen.sum()
        for name, chosen in (("recall", anomalous), ("false_alarm_rate", normal))
        if chosen.any()
    }
    if normal.any() and anomalous.any():
        drawn |= image_figures(anomalous[labelled], p.scores[labelled], counts[:, labelled])
    maps, masks = p.measured(labelled)
    if can_tell_apart(masks):
        # Images with and without a defect in the mask are the kinds, so every resample has one.
        counts = draw_counts(np.array([mask.any() for mask in masks]), RESAMPLES, seed)
        drawn |= pixel_figures(maps, masks, counts, PRO_LIMIT)
    return drawn


def image_figures(
    anomalous: Bool[np.ndarray, " n"],
    scores: Float[np.ndarray, " n"],
    counts: Int[np.ndarray, "resamples n"],
) -> dict[str, Float[np.ndarray, " resamples"]]:
    """Returns `image_auroc` and `image_ap` of every resample; both kinds of image must occur."""
    values, group = np.unique(-scores, return_inverse=True)
    member = (group[:, None] == np.arange(len(values))).astype(np.float64)
    # Images found and false alarms at each score, from the highest down, one row per resample.
    found, alarms = ((counts * kind) @ member for kind in (anomalous, ~anomalous))
    all_found, all_alarms = found.sum(1), alarms.sum(1)
    lower = all_alarms[:, None] - np.cumsum(alarms, 1) + 0.5 * alarms
    called = np.cumsum(found + alarms, 1)
    precision = np.cumsum(found, 1) / np.maximum(called, 1)
    return {
        "image_auroc": (found * lower).sum(1) / (all_found * all_alarms),
        "image_ap": (found * precision).sum(1) / all_found,
    }


def pixel_figures(
    maps: Maps,
    masks: Masks,
    counts: Int[np.ndarray, "resamples n"],
    limit: float,
) -> dict[str, Float[np.ndarray, " resamples"]]:
    """Returns `pixel_auroc` and `aupro` of every resample, accurate to about 1e-4.

    Each image is evaluated once: what it adds to the curves in each of about a thousand steps. A
    resample is a weighted sum of these.
    """
    normal_pixels, _ = split_pixels(maps, masks)
    normal_pixels.sort()
    share = np.linspace(0.0, 1.0, STEPS + 1)[1:] ** 2
    place = np.ceil((1.0 - share) * (len(normal_pixels) - 1)).astype(np.int64)
    edges = np.unique(normal_pixels[place])[::-1]
    normal, defective, gains = (np.zeros((len(maps), len(edges) + 1)) for _ in range(3))
    regions = np.zeros(len(maps))
    for row, (values, mask) in enumerate(zip(maps, masks, strict=True)):
        normal[row] = _steps(values[~mask], edges)
        defective[row] = _steps(values[mask], edges)
        pixel_gains, regions[row] = region_gains(mask[None])
        gains[row] = _steps(values[mask], edges, pixel_gains)
    rate = _rising(counts @ normal, (counts @ normal).sum(1))
    recall = _rising(counts @ defective, (counts @ defective).sum(1))
    overlap = _rising(counts @ gains, counts @ regions)
    return {
        "pixel_auroc": _area(rate, recall, 1.0),
        "aupro": _area(rate, overlap, limit),
    }


def _steps(
    values: Float[np.ndarray, " m"],
    edges: Float[np.ndarray, " steps"],
    weights: Float[np.ndarray, " m"] | None = None,
) -> Float[np.ndarray, " _steps"]:
    """Returns the counts or weights from each falling edge up to the one before, and the rest."""
    step = np.searchsorted(-edges, -values, side="left")
    return np.bincount(step, weights, minlength=len(edges) + 1).astype(np.float64)


def _rising(
    steps: Float[np.ndarray, "resamples steps"], total: Float[np.ndarray, " resamples"]
) -> Float[np.ndarray, "resamples _points"]:
    # Without normal pixels, as when masks cover whole images, there is no such curve: NaN.
    total = np.where(total > 0, total, np.nan)
    return np.pad(np.cumsum(steps, axis=1) / total[:, None], ((0, 0), (1, 0)))


def _area(
    x: Float[np.ndarray, "resamples points"], y: Float[np.ndarray, "resamples points"], limit: float
) -> Float[np.ndarray, " resamples"]:
    """Integrates each row's curve by trapezoids up to x = limit, and divides by the limit."""
    widths, rises = np.diff(x), np.diff(y)
    inside = np.clip(limit - x[:, :-1], 0.0, widths)
    part = inside / np.maximum(widths, np.finfo(float).tiny)
    return (inside * (y[:, :-1] + 0.5 * part * rises)).sum(1) / limit
