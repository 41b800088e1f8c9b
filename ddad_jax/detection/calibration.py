"""Calibration: common scales and a threshold from held-out normal images, never from test ones."""

import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from scipy.stats import gumbel_r

from ddad_jax.detection.detector import Calibration, Settings
from ddad_jax.detection.evidence import Evidence, score_evidence

QUARTILES = (0.25, 0.5, 0.75)
# Scores that must lie beyond a quantile for it to be taken as it is.
BEYOND = 10


def calibrate(evidence: Evidence, settings: Settings, false_alarm_rate: float) -> Calibration:
    """Location and scale of each kind of evidence, and the threshold, from normal images.

    A map's location is its median over pixels, its scale the median over images of the peak above
    that: calibrated evidence of a typical normal image peaks at 1, whatever its kind.

    Args:
      evidence: of normal images that no network or bank was fitted to.
      settings: the detector's.
      false_alarm_rate: the share of normal images to be called anomalous, in (0, 1).
    """
    location = {kind: jnp.median(maps) for kind, maps in evidence.maps.items()}
    scale = {
        kind: jnp.maximum(jnp.median(maps.max((1, 2))) - location[kind], 1e-12)
        for kind, maps in evidence.maps.items()
    }
    unit = jnp.float32(1.0)
    provisional = Calibration(location, scale, threshold=unit, spread=unit)
    _, scores = score_evidence(evidence, provisional, settings)
    threshold, spread = fit_threshold(np.asarray(scores, np.float64), false_alarm_rate)
    return provisional.replace(threshold=jnp.float32(threshold), spread=jnp.float32(spread))


def fit_threshold(scores: Float[np.ndarray, " n"], false_alarm_rate: float) -> tuple[float, float]:
    """The score that normal images exceed at the given rate, and the scale of their scores.

    Where ten scores or more lie beyond it, it is the conformal quantile, which holds whatever their
    distribution. With fewer scores it is the tail of a Gumbel distribution, that of maxima (an
    image's score is the maximum of its map), with the scores' quartiles: the odd image that slipped
    in among the normal ones moves those the least.

    Args:
      scores: of held-out normal images.
      false_alarm_rate: in (0, 1).
    """
    low, middle, high = np.quantile(scores, QUARTILES)
    unit_low, unit_middle, unit_high = gumbel_r.ppf(QUARTILES)
    spread = max(float(high - low) / (unit_high - unit_low), 1e-6)
    rank = math.ceil((len(scores) + 1) * (1 - false_alarm_rate))
    if rank <= len(scores) - BEYOND:
        return float(np.sort(scores)[rank - 1]), spread
    return float(middle + spread * (gumbel_r.isf(false_alarm_rate) - unit_middle)), float(spread)
