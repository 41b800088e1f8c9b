"""Calibration: common scales and a threshold from held-out normal images, never from test ones."""

import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from scipy.stats import gumbel_r

from ddad_jax.detection.anomaly_map import gaussian_blur
from ddad_jax.detection.detector import Calibration, Settings
from ddad_jax.detection.evidence import Evidence, score_evidence

QUARTILES = (0.25, 0.5, 0.75)
# Scores that must lie beyond a quantile for it to be taken as it is.
BEYOND = 10
# Evidence that is a distance from the reconstruction, which grows with the noise level.
RECONSTRUCTED = ("latent", "feature")
# Part of the usual scale that is left at any noise level, however steep the fit.
LEAST_SCALE = 0.05


def calibrate(evidence: Evidence, settings: Settings, false_alarm_rate: float) -> Calibration:
    """Location and scale of each kind of evidence, and the threshold, from normal images.

    Where scoring is "fused", the maps of the reconstruction are compared with what normal images
    show at that pixel and at that noise level: a line in T̂ is fitted to either. Other maps have one
    location, their median over pixels. The scale is the usual height of a normal image's peak
    above, so that it peaks at 1 whatever the kind.

    Args:
      evidence: of normal images that no network or bank was fitted to.
      settings: the detector's.
      false_alarm_rate: the share of normal images to be called anomalous, in (0, 1).
    """
    location, scale = {}, {}
    for kind, maps in evidence.maps.items():
        if kind in RECONSTRUCTED and settings.scoring == "fused":
            fitted = _line_in_noise_level(maps, evidence.noise_level, settings)
        else:
            fitted = _constant(maps)
        location[kind], scale[kind] = fitted
    unit = jnp.float32(1.0)
    provisional = Calibration(location, scale, threshold=unit, spread=unit)
    _, scores = score_evidence(evidence, provisional, settings)
    threshold, spread = fit_threshold(np.asarray(scores, np.float64), false_alarm_rate)
    return provisional.replace(threshold=jnp.float32(threshold), spread=jnp.float32(spread))


def _constant(maps: Float[Array, "n h w"]) -> tuple[Float[Array, "2 1 1"], Float[Array, "2"]]:
    """Location and scale that are the same at all pixels and noise levels."""
    location = jnp.median(maps)
    scale = jnp.maximum(jnp.median(maps.max((1, 2))) - location, 1e-12)
    return jnp.array([location, 0.0])[:, None, None], jnp.array([scale, 0.0])


def _line_in_noise_level(
    maps: Float[Array, "n h w"], noise_level: Int[Array, " n"], settings: Settings
) -> tuple[Float[Array, "2 h w"], Float[Array, "2"]]:
    """Location of each pixel, and scale, by least squares on the noise level."""
    centre = noise_level.mean()
    offset = noise_level - centre
    # As if each image's level were off by a timestep: where all have one level, nothing is learnt.
    weights = offset / ((offset**2).sum() + len(offset))
    lines = jnp.stack([maps.mean(0), jnp.tensordot(weights, maps, 1)])
    middle, slope = gaussian_blur(lines, 2.0 * settings.blur)
    peaks = (maps - middle - slope * offset[:, None, None]).max((1, 2))
    usual = jnp.maximum(jnp.median(peaks), 1e-12)
    most = (1.0 - LEAST_SCALE) * usual
    above = jnp.maximum(settings.max_noise_level - centre, 1.0)
    steepness = jnp.clip(weights @ peaks, -most / above, most / jnp.maximum(centre, 1.0))
    return (
        jnp.stack([middle - centre * slope, slope]),
        jnp.stack([usual - centre * steepness, steepness]),
    )


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
