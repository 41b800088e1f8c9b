"""How often the intervals hold the truth, by simulation; and what they are where it is known."""

import numpy as np
import pytest
from scipy import stats

from ddad_jax.evaluation.bootstrap import draw_counts, image_figures
from ddad_jax.evaluation.intervals import auroc, difference, resampled, share

REPEATS = 600
# What 600 repeats may show of a coverage of .93, in all but one of a thousand cases.
LEAST = 0.93 - 3.1 * np.sqrt(0.93 * 0.07 / REPEATS)


def holds(ends, truth):
    low, high = ends
    assert 0.0 <= low <= high <= 1.0
    return low <= truth <= high


@pytest.mark.parametrize("found, total", [(0, 20), (1, 20), (63, 63), (59, 60), (7, 9)])
def test_a_share_has_clopper_and_pearsons_interval(found, total):
    """The ends are where so many, or so few, would be seen in one of forty tests."""
    low, high = share(found, total)
    if found:
        assert stats.binom.sf(found - 1, total, low) == pytest.approx(0.025)
    if found < total:
        assert stats.binom.cdf(found, total, high) == pytest.approx(0.025)
    assert (low == 0.0) == (found == 0) and (high == 1.0) == (found == total)


def binormal(rng, truth, normal, anomalous, spread):
    away = stats.norm.ppf(truth) * np.hypot(1.0, spread)
    return rng.normal(size=normal), rng.normal(away, spread, anomalous)


def exponential(rng, truth, normal, anomalous):
    return rng.exponential(1.0, normal), rng.exponential(truth / (1.0 - truth), anomalous)


SCORES = {
    "alike": lambda *arguments: binormal(*arguments, 1.0),
    "wide": lambda *arguments: binormal(*arguments, 3.0),
    "exponential": exponential,
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", SCORES)
@pytest.mark.parametrize("truth", [0.76, 0.86, 0.95, 0.983, 0.993])
@pytest.mark.parametrize("normal, anomalous", [(20, 20), (40, 60), (20, 63), (100, 20)])
def test_the_auroc_is_covered(kind, truth, normal, anomalous):
    rng = np.random.default_rng(0)
    drawn = (SCORES[kind](rng, truth, normal, anomalous) for _ in range(REPEATS))
    assert np.mean([holds(auroc(*scores), truth) for scores in drawn]) > LEAST


def test_the_interval_of_the_auroc_is_no_wider_than_it_has_to_be():
    """For many images it nears what a bootstrap says."""
    rng = np.random.default_rng(0)
    normal, anomalous = binormal(rng, 0.9, 400, 300, 1.0)
    truth = np.arange(700) >= 400
    scores = np.append(normal, anomalous)
    values = image_figures(truth, scores, draw_counts(truth, 4000, 0))["image_auroc"]
    np.testing.assert_allclose(
        auroc(normal, anomalous), np.percentile(values, [2.5, 97.5]), atol=6e-3
    )


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["alike", "wide"])
@pytest.mark.parametrize("separation", [0.76, 0.95, 0.993])
@pytest.mark.parametrize("normal, anomalous", [(20, 20), (40, 60), (20, 63)])
def test_average_precision_is_covered(kind, separation, normal, anomalous):
    rng = np.random.default_rng(0)
    labels = np.arange(normal + anomalous) >= normal

    def figure(scores, counts):
        return image_figures(labels, np.concatenate(scores), counts)["image_ap"]

    once = np.ones((1, len(labels)), int)
    many = [SCORES[kind](rng, separation, normal, anomalous) for _ in range(1500)]
    truth = np.mean([figure(scores, once)[0] for scores in many])
    held = [
        holds(
            resampled(
                figure(scores, once)[0],
                figure(scores, draw_counts(labels, 100, seed)),
                round((normal * anomalous) ** 0.5),
            ),
            truth,
        )  # fmt: skip
        for seed, scores in enumerate(many[:REPEATS])
    ]
    assert np.mean(held) > LEAST


# How well the regions of an image are found: few badly, and never quite the same.
OVERLAPS = {
    "even": (lambda rng, n: rng.beta(9.0, 1.0, n), 0.9),
    "a few missed": (
        lambda rng, n: np.where(rng.random(n) < 0.93, rng.beta(60.0, 1.0, n), rng.random(n)),
        0.93 * 60 / 61 + 0.07 / 2,
    ),
    "found or not": (lambda rng, n: (rng.random(n) < 0.95).astype(float), 0.95),
}


@pytest.mark.parametrize("kind", OVERLAPS)
@pytest.mark.parametrize("images", [8, 20, 63])
def test_a_mean_over_images_is_covered(kind, images):
    draw, truth = OVERLAPS[kind]
    rng = np.random.default_rng(0)
    held = []
    for _ in range(REPEATS):
        values = draw(rng, images)
        means = values[rng.integers(0, images, (300, images))].mean(1)
        held.append(holds(resampled(values.mean(), means, images), truth))
    assert np.mean(held) > LEAST


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_a_figure_at_the_end_has_an_interval(value):
    low, high = resampled(value, np.full(9, value), 20)
    assert (low, high) == pytest.approx((0.839, 1.0) if value else (0.0, 0.161), abs=1e-3)
    assert 0.6 < auroc(np.array([0.0]), np.array([1.0]))[1] <= 1.0


def test_resamples_without_a_value_do_not_count():
    values = np.array([0.8, 0.9, 0.85, 0.87])
    expected = resampled(0.86, values, 30)
    assert resampled(0.86, np.append(values, np.nan), 30) == expected


@pytest.mark.slow
@pytest.mark.parametrize("separation", [0.8, 0.95, 0.983])
@pytest.mark.parametrize("normal, anomalous", [(20, 20), (20, 63), (40, 60)])
def test_alike_detectors_seldom_differ(separation, normal, anomalous):
    rng = np.random.default_rng(0)
    labels = np.arange(normal + anomalous) >= normal
    away = labels * stats.norm.ppf(separation) * 2**0.5
    once, called = np.ones((1, len(labels)), int), []
    for seed in range(200):
        shared, *own = rng.normal(size=(3, len(labels)))
        counts = np.append(once, draw_counts(labels, 200, seed), axis=0)
        first, second = (
            image_figures(labels, away + 0.6 * shared + 0.8 * noise, counts)["image_auroc"]
            for noise in own
        )
        low, high = difference(second[0] - first[0], (second - first)[1:], min(normal, anomalous))
        called.append(low > 0 or high < 0)
    # 200 repeats may show so much of 5 %, in all but one of a thousand cases.
    assert np.mean(called) < 0.05 + 3.1 * np.sqrt(0.05 * 0.95 / 200)


def test_detectors_that_differ_are_told_apart():
    differences = np.random.default_rng(0).normal(0.05, 0.01, 1000)
    low, high = difference(0.05, differences, 40)
    assert 0.025 < low < 0.05 < high < 0.075


@pytest.mark.parametrize("images", [5, 40])
def test_intervals_from_resamples_are_those_of_nineteen_in_twenty(images):
    """Ends are where Student's distribution leaves one in forty on either side."""
    values = np.random.default_rng(0).normal(0.6, 0.05, 4000)
    low, high = resampled(0.6, values, images)
    # Symmetric on the logit scale, and there of the deviation that is stated.
    middle, half = np.log(0.6 / 0.4), 0.5 * (np.log(high / (1 - high)) - np.log(low / (1 - low)))
    assert np.log(high / (1 - high)) - middle == pytest.approx(half)
    deviation = np.sqrt(values.var() + (0.1 / images) ** 2) / (0.6 * 0.4)
    assert stats.t.sf(half / deviation, images - 1) == pytest.approx(0.025)

    low, high = difference(0.1, values, images)
    half = (high - low) / 2
    assert (low + high) / 2 == pytest.approx(0.1)
    deviation = np.sqrt(values.var() * images / (images - 1))
    assert stats.t.sf(half / deviation, images - 1) == pytest.approx(0.025)


def test_a_figure_without_resamples_that_differ_has_wilsons_interval():
    """Its ends are the shares whose own test at one in forty just fails (Wilson 1927)."""
    for value, images in ((1.0, 12), (0.0, 30)):
        low, high = resampled(value, np.full(10, value), images)
        for end in (low, high):
            if end not in (0.0, 1.0):
                score = abs(value - end) / np.sqrt(end * (1 - end) / images)
                assert stats.norm.sf(score) == pytest.approx(0.025)


@pytest.mark.parametrize("normal, anomalous", [(30, 30), (20, 80)])
def test_the_auroc_of_a_few_images_has_an_interval_of_nineteen_in_twenty(normal, anomalous):
    """Quick: of 300 tests at one figure; the slow test does many figures."""
    rng = np.random.default_rng(7)
    drawn = (binormal(rng, 0.86, normal, anomalous, 1.0) for _ in range(300))
    covered = np.mean([holds(auroc(*scores), 0.86) for scores in drawn])
    assert 0.92 < covered < 0.99
