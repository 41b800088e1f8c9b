import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddad_jax.training.state import TrainSettings, initial_state, make_optimiser, make_step


def quadratic(params, frozen, batch, key):
    return ((params - batch) ** 2).sum(), {}


def take(settings, targets):
    optimiser = make_optimiser(settings)
    state = initial_state(jnp.zeros(2), optimiser)
    step = make_step(quadratic, optimiser, settings.ema_decay)
    states = []
    for target in targets:
        state, metrics = step(state, {}, jnp.asarray(target), jax.random.key(0))
        states.append((jax.device_get(state), jax.device_get(metrics)))
    return states


def test_a_step_that_is_not_finite_changes_only_the_counters():
    settings = TrainSettings(steps=4, batch_size=1, learning_rate=0.1)
    good, bad, later = take(settings, [[1.0, 2.0], [np.nan, 0.0], [1.0, 2.0]])
    np.testing.assert_array_equal(bad[0].params, good[0].params)
    np.testing.assert_array_equal(bad[0].optimiser[1][0].mu, good[0].optimiser[1][0].mu)
    assert (bad[0].step, bad[0].skipped) == (2, 1)
    assert (later[0].step, later[0].skipped) == (3, 0)
    assert (later[0].params != good[0].params).all()


def test_the_average_starts_without_bias():
    """After one step the average is mostly the new parameters, not the first draw."""
    settings = TrainSettings(steps=4, batch_size=1, learning_rate=0.1, ema_decay=0.999)
    (state, _), *_ = take(settings, [[1.0, 1.0]])
    np.testing.assert_allclose(state.ema, 0.9 * state.params, rtol=1e-6)


def test_the_gradient_is_clipped_by_its_global_norm():
    settings = TrainSettings(steps=4, batch_size=1, clip_norm=1e-3)
    optimiser = make_optimiser(settings)
    clipped, _ = optimiser.update(jnp.array([3.0, 4.0]), optimiser.init(jnp.zeros(2)), jnp.zeros(2))
    (state, metrics), *_ = take(settings, [[3.0, 4.0]])
    assert metrics["gradient_norm"] == pytest.approx(10.0)
    np.testing.assert_allclose(state.optimiser[1][0].mu, [-0.06e-3, -0.08e-3], rtol=1e-4)
    assert np.isfinite(clipped).all()


@pytest.mark.parametrize("schedule, last", [("constant", 1.0), ("cosine", 0.0)])
def test_the_rate_warms_up_and_ends_as_its_schedule_says(schedule, last):
    settings = TrainSettings(
        steps=20, batch_size=1, learning_rate=0.01, schedule=schedule, warmup_steps=5,
        weight_decay=0.0,
    )  # fmt: skip
    states = take(settings, [[100.0, 100.0]] * 20)
    moved = np.diff([state.params[0] for state, _ in states], prepend=0.0)
    # Adam's first steps under a steady gradient are the rate itself.
    assert moved[0] == pytest.approx(0.0, abs=1e-6)
    assert moved[5] == pytest.approx(0.01, rel=0.05)
    assert moved[-1] == pytest.approx(0.01 * last, abs=3e-4)
