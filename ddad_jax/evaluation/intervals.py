"""95 % intervals of metrics, for other test images of the same kind.

Shares of images get Clopper and Pearson's interval, which covers at least as often as it says.
Percentiles of resamples fail near 1, where the best detectors are: if no image went wrong, no
resample shows an error. So AUROC gets Wilson's interval, for the number of images that its variance
corresponds to. The other metrics get an interval on the logit scale, as if there were one more
image, for which the metric is one half.
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
    """Returns Clopper and Pearson's interval of a share."""
    found = binomtest(count, total).proportion_ci(LEVEL, "exact")
    return [float(found.low), float(found.high)]


def auroc(normal: Float[np.ndarray, " k"], anomalous: Float[np.ndarray, " m"]) -> Interval:
    """Returns the interval of the AUROC of some scores.

    The variance is the larger of DeLong's (1988), which the scores show, and Hanley and McNeil's
    (1982), which the AUROC and the numbers of images imply: few images may show too little.
    """
    better = outranked(normal, anomalous)
    pairs, fewest = better.size, min(better.shape)
    value = float(better.mean())
    shown = sum(
        float(means.var(ddof=1)) / len(means) if len(means) > 1 else 0.0
        for means in (better.mean(0), better.mean(1))
    )
    # One more pair, half of it wrong, is added, so that a perfect AUROC has a variance too.
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
    """Returns 1 where an anomalous score exceeds a normal one, 0.5 at ties; the mean is AUROC."""
    return (anomalous[:, None] > normal) + 0.5 * (anomalous[:, None] == normal)


def _wilson(value: float, count: float | int) -> Interval:
    """Returns Wilson's interval of a share of `count`."""
    z = float(norm.ppf(0.5 + LEVEL / 2.0))
    middle = value + z**2 / (2.0 * count)
    half = z * np.sqrt(value * (1.0 - value) / count + z**2 / (4.0 * count**2))
    low, high = ((middle + side * half) / (1.0 + z**2 / count) for side in (-1.0, 1.0))
    return [max(float(low), 0.0), min(float(high), 1.0)]


def resampled(value: float, values: Float[np.ndarray, " resamples"], images: int) -> Interval:
    """Returns the interval of a metric in [0, 1] whose resamples are known.

    Args:
      value: the metric.
      values: of the resamples; NaN, where the metric is not defined, is ignored.
      images: the number of images that it is computed from.
    """
    if not 0.0 < value < 1.0 or images < 2:
        return _wilson(value, images)
    variance = float(np.nanvar(values)) + ((value - 0.5) / images) ** 2
    half = float(t.ppf(0.5 + LEVEL / 2.0, images - 1)) * np.sqrt(variance) / (value * (1 - value))
    return [float(expit(logit(value) + side * half)) for side in (-1.0, 1.0)]


def difference(value: float, differences: Float[np.ndarray, " resamples"], images: int) -> Interval:
    """Returns the interval of the difference between two runs' metrics, from its resamples.

    It is Student's interval: with few images, percentiles of resamples call equal detectors
    different in up to 9 of 100 tests.

    Args:
      value: the difference.
      differences: of the resamples; NaN is ignored.
      images: the number of images of the rarer kind.
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
    """Returns the intervals of the metrics that have one, as far as they are defined.

    Args:
      predictions: what the metrics are computed from.
      figures: metrics by name.
      values: of the resamples, by name, for "image_ap", "pixel_auroc" and "aupro".
    """
    p = predictions
    normal, anomalous = p.labels == NORMAL, p.labels == ANOMALOUS
    found: dict[str, Interval] = {}
    for name, chosen in (("recall", anomalous), ("false_alarm_rate", normal)):
        if chosen.any():
            found[name] = share(int(p.decisions[chosen].sum()), int(chosen.sum()))
    if normal.any() and anomalous.any():
        found["image_auroc"] = auroc(p.scores[normal], p.scores[anomalous])
    # Precision depends on both kinds of images: the geometric mean of their numbers counts.
    regions = int((anomalous & p.is_measured).sum())
    both = round(float(np.sqrt(normal.sum() * anomalous.sum())))
    for name, images in (("image_ap", both), ("pixel_auroc", regions), ("aupro", regions)):
        if name in values:
            found[name] = resampled(figures[name], values[name], images)
    return found
