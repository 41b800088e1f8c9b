"""Calibration: common scales and thresholds, from normal images that are no test images."""

from collections.abc import Iterable, Mapping

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ddad_jax.detection.anomaly_map import gaussian_blur, image_scores
from ddad_jax.detection.detector import Calibration, Settings
from ddad_jax.detection.evidence import (
    Evidence,
    evidence_kinds,
    evidence_weights,
    score_weights,
)
from ddad_jax.detection.threshold import fit_threshold

# Stored with each detector. Raise it whenever the calibration comes out differently.
VERSION = 3
# Evidence that is a distance from the reconstruction and grows with the noise level.
RECONSTRUCTED = ("latent", "feature")
# With fewer images, all pixels and noise levels share one location and one scale.
LEAST_IMAGES = 10
# The scale never falls below this share of its usual value, however steep the fit.
LEAST_SCALE = 0.05
# Share of normal images in which no patch is restored.
UNTOUCHED = 0.75


def calibrate(
    evidence: Evidence, settings: Settings, false_alarm_rate: float, pixel_alarm_rate: float = 0.0
) -> Calibration:
    """Returns location and scale of each kind of evidence, and thresholds, from normal images.

    With scoring "fused" and `LEAST_IMAGES` images or more, maps of the reconstruction have a
    location for each pixel, and location and scale are linear in T̂; for the thresholds, each image
    is calibrated with the location fitted to the others. Other maps have one location, their median
    over pixels. The scale is the usual height of a normal image's peak above the location, so that
    every kind of evidence peaks near 1.

    Args:
      evidence: of normal images that the detector's banks do not hold.
      settings: of the detector.
      false_alarm_rate: the share of normal images to be called anomalous, in (0, 1).
      pixel_alarm_rate: see `with_thresholds`.
    """
    location, scale, calibrated = {}, {}, {}
    for kind in evidence_kinds(settings):
        maps = evidence.maps[kind]
        lines = kind in RECONSTRUCTED and settings.scoring == "fused"
        if lines and len(maps) >= LEAST_IMAGES:
            fitted = _lines(maps, evidence.noise_level, settings)
        else:
            fitted = _constants(maps)
        location[kind], scale[kind], calibrated[kind] = fitted

    def weighed(weights: Mapping[str, float]) -> Float[Array, "n h w"]:
        heat = sum(weight * calibrated[kind] for kind, weight in weights.items())
        assert isinstance(heat, Array)  # There is evidence of at least one kind.
        return heat

    heat = weighed(evidence_weights(settings))
    scored = weighed(score_weights(settings)) if settings.scores_by_cosine else heat
    scores = np.asarray(image_scores(scored, settings.score_share), np.float64)
    peaks = np.asarray(image_scores(heat, 0.0), np.float64)
    sigma_threshold = three_sigma(np.asarray(heat))
    of_patches = evidence.extremes["patch"][:, 1] if "patch" in evidence.extremes else jnp.inf
    calibration = Calibration(
        location=location,
        scale=scale,
        threshold=0.0,
        pixel_threshold=0.0,
        sigma_threshold=jnp.float32(sigma_threshold),
        spread=0.0,
        scores=None,
        peaks=None,
        patch_limit=jnp.quantile(of_patches, UNTOUCHED).astype(jnp.float32),
    )
    return with_thresholds(calibration, scores, peaks, false_alarm_rate, pixel_alarm_rate)


def with_thresholds(
    calibration: Calibration,
    scores: Float[np.ndarray, " n"],
    peaks: Float[np.ndarray, " n"],
    false_alarm_rate: float,
    pixel_alarm_rate: float = 0.0,
) -> Calibration:
    """Returns the calibration with thresholds fitted to the scores and peaks of normal images.

    Args:
      calibration: of the maps.
      scores: of normal images.
      peaks: the highest pixel of each of their anomaly maps; equal to the scores, unless
        the score is something else (`Settings.score_is_peak`).
      false_alarm_rate: the share of normal images to be called anomalous, in (0, 1).
      pixel_alarm_rate: the share of normal images that may have any defective pixel, in (0, 1); 0:
        as many as may be called anomalous.
    """
    threshold, spread = fit_threshold(scores, false_alarm_rate)
    of_pixels = fit_threshold(peaks, pixel_alarm_rate or false_alarm_rate)[0]
    return calibration.replace(
        threshold=jnp.float32(threshold),
        pixel_threshold=jnp.float32(of_pixels),
        spread=jnp.float32(spread),
        scores=jnp.asarray(scores, jnp.float32),
        peaks=jnp.asarray(peaks, jnp.float32),
    )


def three_sigma(maps: Iterable[Float[np.ndarray, "_ _"]]) -> float:
    """Returns the mean plus three standard deviations of the pixels of some maps.

    For anomaly maps of good images this is MVTec AD 2's pixel threshold (Heckler-Kram et al.,
    arXiv 2503.21622).
    """
    moments = np.zeros(3)
    for each in maps:
        values = each.astype(np.float64)
        moments += values.size, values.sum(), np.square(values).sum()
    count, total, squares = moments
    mean = total / count
    return float(mean + 3.0 * np.sqrt(max(squares / count - mean**2, 0.0)))


def _constants(
    maps: Float[Array, "n h w"],
) -> tuple[Float[Array, "2 1 1"], Float[Array, "2"], Float[Array, "n h w"]]:
    """Returns one location and scale for all pixels and noise levels, and the calibrated maps."""
    location = jnp.median(maps)
    scale = jnp.maximum(jnp.median(maps.max((1, 2))) - location, 1e-12)
    coefficients = jnp.array([location, 0.0])[:, None, None], jnp.array([scale, 0.0])
    return *coefficients, (maps - location) / scale


def _lines(
    maps: Float[Array, "n h w"], noise_level: Int[Array, " n"], settings: Settings
) -> tuple[Float[Array, "2 h w"], Float[Array, "2"], Float[Array, "n h w"]]:
    """Returns each pixel's location, the scale, both fitted to T̂, and the calibrated maps.

    The location is smoothed over pixels. Each map is calibrated with the location fitted to the
    other maps, which least squares gives without a second fit.
    """
    centre = noise_level.mean()
    offset = noise_level - centre
    # As if each level were uncertain by one timestep: if all levels are equal, the slope is 0.
    weights = offset / ((offset**2).sum() + len(offset))
    smooth = gaussian_blur(maps, 2.0 * settings.blur)
    middle, slope = smooth.mean(0), jnp.tensordot(weights, smooth, 1)
    own = (1.0 / len(offset) + weights * offset)[:, None, None]
    found = middle + slope * offset[:, None, None]
    above = maps - (found - own * smooth) / (1.0 - own)

    peaks = above.max((1, 2))
    steepness = weights @ peaks
    usual = jnp.maximum(jnp.median(peaks - steepness * offset), 1e-12)
    most = (1.0 - LEAST_SCALE) * usual
    beyond = jnp.maximum(settings.max_noise_level - centre, 1.0)
    steepness = jnp.clip(steepness, -most / beyond, most / jnp.maximum(centre, 1.0))
    return (
        jnp.stack([middle - centre * slope, slope]),
        jnp.stack([usual - centre * steepness, steepness]),
        above / (usual + steepness * offset)[:, None, None],
    )
