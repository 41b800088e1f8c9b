import numpy as np
import pytest

from ddad_jax.detection.calibration import fit_threshold


@pytest.mark.parametrize("count", [20, 50, 2000])
def test_normal_scores_exceed_the_threshold_at_the_chosen_rate(count):
    """Maxima of many draws, as an image's score is; the rate holds on fresh ones on average."""
    rng = np.random.default_rng(0)
    fresh = rng.normal(size=(20000, 200)).max(1)
    rates = [
        np.mean(fresh > fit_threshold(rng.normal(size=(count, 200)).max(1), 0.02)[0])
        for _ in range(40)
    ]
    assert 0.005 < np.mean(rates) < 0.04


def test_shift_and_scale_of_the_scores_carry_over():
    scores = np.random.default_rng(0).gumbel(size=30)
    threshold, spread = fit_threshold(scores, 0.01)
    moved = fit_threshold(5.0 + 3.0 * scores, 0.01)
    np.testing.assert_allclose(moved, [5.0 + 3.0 * threshold, 3.0 * spread])


def test_an_odd_image_hardly_moves_the_threshold():
    scores = np.random.default_rng(0).gumbel(size=25)
    threshold, spread = fit_threshold(scores, 0.01)
    with_odd_one, _ = fit_threshold(np.append(scores, 50.0), 0.01)
    assert abs(with_odd_one - threshold) < spread


def test_equal_scores_are_not_called_anomalous():
    threshold, spread = fit_threshold(np.ones(12), 0.01)
    assert threshold >= 1.0
    assert spread > 0.0
