import numpy as np
import pytest
from scipy import stats

from ddad_jax.detection.threshold import FEW, fit_threshold, promise, promised_rate

MAXIMA = 1000


class MaximaOfNormals:
    """What the score of an image is: the highest of many pixels."""

    def ppf(self, share):
        return stats.norm.ppf(share ** (1 / MAXIMA))

    def sf(self, score):
        return -np.expm1(MAXIMA * stats.norm.logcdf(score))


DISTRIBUTIONS = {
    "normal": stats.norm(),
    "maxima of normals": MaximaOfNormals(),
    "Gumbel": stats.gumbel_r(),
    "log-normal": stats.lognorm(0.5),
    "t3": stats.t(3),
    "Fréchet": stats.invweibull(3),
}


def false_alarms(distribution, count, rate, repeats=1500):
    """The share of new good images above the threshold, on average; thresholds as well."""
    drawn = distribution.ppf(np.random.default_rng(1).random((repeats, count)))
    thresholds = np.array([fit_threshold(scores, rate)[0] for scores in drawn])
    return distribution.sf(thresholds).mean(), thresholds


@pytest.mark.slow
@pytest.mark.parametrize("name", DISTRIBUTIONS)
@pytest.mark.parametrize("count", [5, 7, 10, 14, 20, 45, 100])
def test_the_promise_is_held_for_every_distribution(name, count):
    seen, _ = false_alarms(DISTRIBUTIONS[name], count, 0.01)
    assert seen < 1.05 * promised_rate(count, 0.01) <= 1.05 * 0.01 * (3 if count < 10 else 2)


@pytest.mark.slow
@pytest.mark.parametrize("rate", [0.001, 0.05, 0.2])
@pytest.mark.parametrize("name", ["normal", "Gumbel", "Fréchet"])
def test_other_rates_are_promised_too(name, rate):
    for count in (6, 25, 300):
        # Fewer alarms than one in ten thousand are not told apart by so few draws.
        assert false_alarms(DISTRIBUTIONS[name], count, rate)[0] < 1.15 * max(
            promised_rate(count, rate), 1e-3
        )


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_many_scores_give_the_rate_itself(name):
    assert promised_rate(999, 0.01) == 0.01
    seen, _ = false_alarms(DISTRIBUTIONS[name], 999, 0.01, repeats=300)
    assert seen == pytest.approx(0.01, rel=0.1)


@pytest.mark.slow
def test_what_the_promise_costs_falls_with_the_number_of_scores():
    """Medians of the threshold of Gumbel scores, in units of their scale, above their median.

    The quantile itself is 4.23 there: a weak defect has to stand out by so much more.
    """
    costs = []
    for count in (5, 10, 19, 30, 100, 400):
        _, thresholds = false_alarms(DISTRIBUTIONS["Gumbel"], count, 0.01)
        costs.append(np.median(thresholds) - stats.gumbel_r.ppf(0.5))
    np.testing.assert_allclose(costs, [8.5, 6.8, 5.2, 5.1, 4.7, 4.3], atol=0.4)


def test_shift_and_scale_of_the_scores_carry_over():
    scores = np.random.default_rng(0).gumbel(size=30)
    threshold, spread = fit_threshold(scores, 0.01)
    moved = fit_threshold(5.0 + 3.0 * scores, 0.01)
    np.testing.assert_allclose(moved, [5.0 + 3.0 * threshold, 3.0 * spread])


def test_an_odd_image_among_twenty_counts_little():
    scores = np.random.default_rng(0).gumbel(size=25)
    threshold, spread = fit_threshold(scores, 0.01)
    with_odd_one, _ = fit_threshold(np.append(scores, 50.0), 0.01)
    highest_alone = fit_threshold(np.append(scores[:18], 50.0), 0.01)[0]
    assert with_odd_one - threshold < 4 * spread < 0.1 * (highest_alone - threshold)


@pytest.mark.parametrize("scores", [[1.2], [1.0, 1.0], [0.9, 1.0, 1.1], [1.0, 1.0, 1.0, 1.3]])
def test_fewer_than_five_scores_are_kept_far_from(scores):
    threshold, spread = fit_threshold(np.array(scores), 0.01)
    assert threshold >= 2.0 * max(scores)
    assert spread > 0.05
    assert len(scores) < FEW and "too few to promise" in promise(len(scores), 0.01)


def test_equal_scores_are_not_called_anomalous():
    threshold, spread = fit_threshold(np.ones(12), 0.01)
    assert threshold >= 1.0
    assert spread > 0.0


def test_the_promise_in_words():
    assert promise(12, 0.01) == (
        "from 12 good images: at most 2 % false alarms on average; promising the 1 % asked for "
        "takes 999 good images"
    )
    assert promise(1200, 0.01) == (
        "from 1200 good images: 1 % false alarms on average, as asked for"
    )
    assert promise(1, 0.05).startswith("from 1 good image, too few to promise 5 % false alarms")
