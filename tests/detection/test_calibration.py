import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from ddad_jax.detection.anomaly_map import normalise
from ddad_jax.detection.calibration import calibrate
from ddad_jax.detection.detector import Settings
from ddad_jax.detection.evidence import Evidence, score_evidence

SIZE = 24
ONE_KIND = Settings(image_size=SIZE, blur=1.0, latent_weight=1.0, patch_weight=0.0)


def evidence_of(levels, seed=0):
    """Normal images whose distance from the reconstruction rises with the level, more on the left.

    The patch map knows nothing of the level.
    """
    rng = np.random.default_rng(seed)
    rise = np.linspace(0.03, 0.01, SIZE)
    noise = rng.gamma(4.0, 0.05, (2, len(levels), SIZE, SIZE))
    latent = 0.5 + levels[:, None, None] * (rise + 0.02 * noise[0])
    return Evidence(
        maps={
            "latent": jnp.asarray(latent),
            "patch": jnp.asarray(noise[1]),
            "cosine": jnp.asarray(noise[1, :, ::-1] ** 2),
        },
        extremes={},
        noise_level=jnp.asarray(levels),
        knn_distance=None,
        reconstructed_knn_distance=None,
        reconstruction=None,
        kind=None,
    )


def calibrated(evidence, calibration):
    parts = calibration.location["latent"], calibration.scale["latent"]
    return np.asarray(normalise(evidence.maps["latent"], evidence.noise_level, *parts))


@pytest.mark.parametrize("counts", [(25, 25, 25, 25), (60, 20, 10, 10), (10, 10, 10, 70)])
def test_normal_images_look_alike_at_every_place_and_noise_level(counts):
    fitted = calibrate(evidence_of(np.repeat([20, 40, 60, 80], counts)), ONE_KIND, 0.01)
    fresh = evidence_of(np.repeat([20, 40, 60, 80], 25), seed=1)
    maps = calibrated(fresh, fitted)
    peaks = np.median(maps.max((1, 2)).reshape(4, 25), axis=1)
    np.testing.assert_allclose(peaks, 1.0, atol=0.15)
    left, right = np.median(maps[..., 2]), np.median(maps[..., -3])
    np.testing.assert_allclose(left, right, atol=0.1)


def test_the_paper_has_one_location_and_one_scale():
    levels = np.repeat([20, 40, 60, 80], 25)
    evidence = evidence_of(levels)
    evidence = evidence.replace(maps={"latent": evidence.maps["latent"]})
    fitted = calibrate(evidence, dataclasses.replace(ONE_KIND, scoring="paper"), 0.01)
    maps = np.asarray(evidence.maps["latent"])
    scale = np.median(maps.max((1, 2))) - np.median(maps)
    expected = (maps - np.median(maps)) / scale
    np.testing.assert_allclose(calibrated(evidence, fitted), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("count", [5, 12, 20, 60])
def test_fresh_normal_images_seldom_exceed_the_threshold_however_few_there_were(count):
    rng = np.random.default_rng(0)
    fresh = evidence_of(rng.choice([20, 40, 60, 80], 500), seed=99)
    rates = []
    for seed in range(12):
        evidence = evidence_of(rng.choice([20, 40, 60, 80], count), seed)
        fitted = calibrate(evidence, ONE_KIND, 0.01)
        rates.append(np.mean(score_evidence(fresh, fitted, ONE_KIND)[1] > fitted.threshold))
    assert np.mean(rates) < 0.05


@pytest.mark.parametrize("level", [10, 80])
def test_one_noise_level_teaches_nothing_of_others(level):
    fitted = calibrate(evidence_of(np.full(30, level)), ONE_KIND, 0.01)
    np.testing.assert_allclose(fitted.location["latent"][1], 0.0, atol=1e-4)
    assert abs(fitted.scale["latent"][1]) < 1e-4


def test_the_scale_stays_positive_at_every_noise_level():
    # Two images, of which the one of the higher level has no peak at all.
    evidence = evidence_of(np.array([70, 80]))
    maps = evidence.maps | {"latent": evidence.maps["latent"].at[1].set(0.0)}
    fitted = calibrate(evidence.replace(maps=maps), ONE_KIND, 0.01)
    constant, slope = fitted.scale["latent"]
    assert all(constant + slope * level > 0.0 for level in (0, 10, 80))


@pytest.mark.parametrize("share", [1e-9, 0.01, 0.25, 1.0])
def test_a_score_may_be_of_a_share_of_the_highest_pixels(share):
    settings = dataclasses.replace(ONE_KIND, score_share=share)
    evidence = evidence_of(np.repeat([20, 40, 60, 80], 5))
    fitted = calibrate(evidence, settings, 0.1)
    heat, scores = score_evidence(evidence, fitted, settings)
    count = max(round(share * SIZE**2), 1)
    ordered = np.sort(np.asarray(heat, np.float64).reshape(20, -1), axis=1)
    np.testing.assert_allclose(scores, ordered[:, -count:].mean(1), atol=1e-5)


def test_the_threshold_of_pixels_is_that_of_the_highest_ones_whatever_the_score_is_of():
    rng = np.random.default_rng(0)
    settings = dataclasses.replace(ONE_KIND, score_share=0.05)
    evidence = evidence_of(rng.choice([20, 40, 60, 80], 60))
    by_peaks, by_share = (calibrate(evidence, each, 0.05) for each in (ONE_KIND, settings))
    assert float(by_peaks.threshold) == float(by_peaks.pixel_threshold)
    assert float(by_share.pixel_threshold) == float(by_peaks.pixel_threshold)
    assert float(by_share.threshold) < float(by_peaks.threshold)
    np.testing.assert_array_equal(by_share.peaks, by_peaks.scores)
    fresh = evidence_of(rng.choice([20, 40, 60, 80], 500), seed=99)
    heat, scores = score_evidence(fresh, by_share, settings)
    for values, threshold in (
        (scores, by_share.threshold), (heat.max((1, 2)), by_share.pixel_threshold)
    ):  # fmt: skip
        assert 0.0 < np.mean(values > threshold) < 0.1
    rare = calibrate(evidence, settings, 0.05, 0.01)
    assert float(rare.threshold) == float(by_share.threshold)
    assert float(rare.pixel_threshold) > float(by_share.pixel_threshold)


def test_a_score_by_the_cosine_is_the_peak_of_a_map_of_its_own():
    """It is that of a detector whose map compares patches so; map and pixels stay as they are."""
    rng = np.random.default_rng(0)
    plain = dataclasses.replace(ONE_KIND, patch_weight=0.65)
    settings = dataclasses.replace(plain, score_metric="cosine")
    good, fresh = (evidence_of(rng.choice([20, 40, 60], 30), seed=seed) for seed in (0, 1))
    swapped = {"latent": "latent", "patch": "cosine"}
    of_good, of_fresh = (
        each.replace(maps={name: each.maps[of] for name, of in swapped.items()})
        for each in (good, fresh)
    )
    found, by_map, by_cosine = (
        calibrate(evidence, each, 0.05)
        for evidence, each in ((good, settings), (good, plain), (of_good, plain))
    )
    np.testing.assert_array_equal(found.scores, by_cosine.scores)
    np.testing.assert_array_equal(found.peaks, by_map.peaks)
    assert float(found.threshold) == float(by_cosine.threshold)
    assert float(found.pixel_threshold) == float(by_map.pixel_threshold)
    heat, scores = score_evidence(fresh, found, settings)
    np.testing.assert_array_equal(heat, score_evidence(fresh, by_map, plain)[0])
    np.testing.assert_array_equal(scores, score_evidence(of_fresh, by_cosine, plain)[1])
    assert not settings.score_is_peak and plain.score_is_peak


@pytest.mark.parametrize(
    "changes", [{"scoring": "paper"}, {"patch_weight": 0.0}, {"patch_metric": "cosine"}]
)
def test_where_the_map_is_by_the_cosine_or_without_patches_the_score_is_its_peak(changes):
    settings = dataclasses.replace(ONE_KIND, patch_weight=0.65, score_metric="cosine")
    assert settings.scores_by_cosine
    assert dataclasses.replace(settings, **changes).score_is_peak
