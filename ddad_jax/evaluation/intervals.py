"""95 % intervals of metrics, for other test images of the same kind.

Shares are counts, and have Clopper and Pearson's interval, which covers at least as often as it
says. Percentiles of resamples do not near 1, where the best detectors are: had no image gone wrong,
no resample would show one. So AUROC has Wilson's interval for as many images as its variance is
worth, and the other metrics an interval on the logit scale, as if one image more had been seen that
the metric is half for.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.special import expit, logit
from scipy.stats import binomtest, norm, t

from ddad_jax.data.sample import ANOMALOUS, NORMAL
from ddad_jax.evaluation.predictions import Predictions

LEVEL = 0.95
Interval = list[float]


def share(count: int, total: int) -> Interval:
    """Clopper and Pearson's interval of a share."""
    found = binomtest(count, total).proportion_ci(LEVEL, "exact")
    return [float(found.low), float(found.high)]


def auroc(normal: Float[np.ndarray, " k"], anomalous: Float[np.ndarray, " m"]) -> Interval:
    """Of the AUROC of some scores.

    Its variance is the larger of DeLong's (1988), which the scores show, and Hanley and McNeil's
    (1982), which the AUROC and the numbers of images imply: few images may show too little.
    """
    better = outranked(normal, anomalous)
    pairs, fewest = better.size, min(better.shape)
    value = float(better.mean())
    shown = sum(
        float(means.var(ddof=1)) / len(means) if len(means) > 1 else 0.0
        for means in (better.mean(0), better.mean(1))
    )
    # A half of a pair more goes wrong, so that a perfect AUROC has a variance too.
    near = (value * pairs + 0.5) / (pairs + 1.0)
    both_above, both_below = near / (2.0 - near), 2.0 * near**2 / (1.0 + near)
    implied = (
        near * (1.0 - near)
        + (len(anomalous) - 1) * (both_above - near**2)
        + (len(normal) - 1) * (both_below - near**2)
    ) / pairs
    worth = max(value * (1.0 - value) / max(shown, implied), fewest)
    return _wilson(value, worth)


def outranked(
    normal: Float[np.ndarray, " k"], anomalous: Float[np.ndarray, " m"]
) -> Float[np.ndarray, "m k"]:
    """Whether each anomalous score is above each normal one, 0.5 where equal; the mean is AUROC."""
    return (anomalous[:, None] > normal) + 0.5 * (anomalous[:, None] == normal)


def _wilson(value: float, count: float | int) -> Interval:
    """Wilson's interval of a share of so many."""
    z = float(norm.ppf(0.5 + LEVEL / 2.0))
    middle = value + z**2 / (2.0 * count)
    half = z * np.sqrt(value * (1.0 - value) / count + z**2 / (4.0 * count**2))
    low, high = ((middle + side * half) / (1.0 + z**2 / count) for side in (-1.0, 1.0))
    return [max(float(low), 0.0), min(float(high), 1.0)]


def resampled(value: float, values: Float[np.ndarray, " resamples"], images: int) -> Interval:
    """Of a metric in [0, 1] whose resamples are known.

    Args:
      value: the metric.
      values: of the resamples; those that are NaN, where a metric could not be had, do not count.
      images: how many it is of.
    """
    if not 0.0 < value < 1.0 or images < 2:
        return _wilson(value, images)
    variance = float(np.nanvar(values)) + ((value - 0.5) / images) ** 2
    half = float(t.ppf(0.5 + LEVEL / 2.0, images - 1)) * np.sqrt(variance) / (value * (1 - value))
    return [float(expit(logit(value) + side * half)) for side in (-1.0, 1.0)]


def difference(value: float, differences: Float[np.ndarray, " resamples"], images: int) -> Interval:
    """Of the difference of two runs' metrics, of which each resample has one.

    Student's, since percentiles of resamples of few images call alike detectors different in up to
    9 of 100 tests.

    Args:
      value: the difference.
      differences: of the resamples; those that are NaN do not count.
      images: how many they are of, of the kind of which there are fewer.
    """
    if images < 2:
        return [-1.0, 1.0]
    variance = float(np.nanvar(differences)) * images / (images - 1)
    half = float(t.ppf(0.5 + LEVEL / 2.0, images - 1)) * variance**0.5
    return [value - half, value + half]


def intervals(
    predictions: Predictions,
    figures: Mapping[str, Any],
    values: Mapping[str, Float[np.ndarray, " resamples"]],
) -> dict[str, Interval]:
    """The intervals of those metrics that have one, as far as they are defined.

    Args:
      predictions: what the metrics are of.
      figures: metrics by name; those that may be had from resamples.
      values: of the resamples, by name; metrics that are not among them have no interval.
    """
    p = predictions
    normal, anomalous = p.labels == NORMAL, p.labels == ANOMALOUS
    found: dict[str, Interval] = {}
    for name, chosen in (("recall", anomalous), ("false_alarm_rate", normal)):
        if chosen.any():
            found[name] = share(int(p.decisions[chosen].sum()), int(chosen.sum()))
    if normal.any() and anomalous.any():
        found["image_auroc"] = auroc(p.scores[normal], p.scores[anomalous])
    # Precision is of both kinds: their geometric mean.
    regions = int((anomalous & p.is_measured).sum())
    both = round(float(np.sqrt(normal.sum() * anomalous.sum())))
    for name, images in (("image_ap", both), ("pixel_auroc", regions), ("aupro", regions)):
        if name in values:
            found[name] = resampled(figures[name], values[name], images)
    return found
