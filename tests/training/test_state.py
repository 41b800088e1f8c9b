import jax
import jax.numpy as jnp
import numpy as np
import pytest
from clu.metrics import Average

from ddad_jax.settings import SettingError
from ddad_jax.training.state import (
    TrainSettings,
    initial_state,
    make_optimiser,
    make_step,
    measured,
)


def quadratic(params, frozen, batch, key):
    return ((params - batch) ** 2).sum(), {}


def take(settings, targets):
    state = initial_state(jnp.zeros(2), settings)
    step = jax.jit(make_step(quadratic, settings))
    states = []
    for target in targets:
        state, metrics = step(state, {}, jnp.asarray(target), jnp.int32(0), settings.steps)
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


def test_a_step_that_would_spoil_the_parameters_changes_only_the_counters():
    """Loss and gradient are finite, and the rate is not: 0/0, where only a warm-up is trained."""
    settings = TrainSettings(
        steps=4, batch_size=1, schedule="cosine", warmup_steps=2, learning_rate=0.1
    )
    state = initial_state(jnp.ones(2), settings)
    step = jax.jit(make_step(quadratic, settings))
    spoiled, metrics = step(state, {}, jnp.zeros(2), jnp.int32(0), jnp.int32(2))
    assert np.isfinite(metrics["loss"]) and np.isfinite(metrics["gradient_norm"])
    np.testing.assert_array_equal(spoiled.params, state.params)
    assert (spoiled.step, spoiled.skipped) == (1, 1)


def test_epochs_that_are_no_more_than_the_warm_up_are_refused():
    settings = TrainSettings(epochs=2, batch_size=4, schedule="cosine", warmup_steps=10)
    assert settings.for_images(24).steps == 12
    with pytest.raises(SettingError, match="warmup_steps: 10 leaves none of the 10 steps"):
        settings.for_images(20)


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


def test_a_batch_in_parts_gives_what_the_whole_gives():
    inputs, targets = np.random.default_rng(0).normal(size=(2, 5, 12, 3)).astype(np.float32)

    def loss(params, frozen, batch, key):
        error = (jnp.tanh(batch["x"] @ params) - batch["y"]) ** 2
        kinds = jax.nn.one_hot(jnp.int32(batch["x"][:, 0] > 0), 2)
        average = Average(error.mean(1) @ kinds, kinds.sum(0))
        return error.mean(), {"largest": error.max(), "mean": error.mean(), "kinds": average}

    def trained(**changes):
        settings = TrainSettings(steps=5, batch_size=12, learning_rate=0.1, **changes)
        state = initial_state(jnp.eye(3), settings)
        step = jax.jit(make_step(loss, settings))
        for x, y in zip(inputs, targets, strict=True):
            batch = {"x": jnp.asarray(x), "y": jnp.asarray(y)}
            state, metrics = step(state, {}, batch, jnp.int32(0), settings.steps)
        return state.params, metrics

    whole, whole_metrics = trained()
    parts, metrics = trained(accumulate=4)
    np.testing.assert_allclose(parts, whole, rtol=1e-5)
    for name in ("mean", "loss", "gradient_norm"):
        assert metrics[name] == pytest.approx(float(whole_metrics[name]), rel=1e-5)
    assert metrics["largest"] < whole_metrics["largest"]
    kinds, whole_kinds = metrics["kinds"].compute(), whole_metrics["kinds"].compute()
    np.testing.assert_allclose(kinds, whole_kinds, rtol=1e-5)
    assert (metrics["kinds"].count > 0).all()


def test_each_part_of_a_batch_draws_for_itself():
    def loss(params, frozen, batch, key):
        return (params * jax.random.normal(key, batch.shape)).sum(), {}

    settings = TrainSettings(steps=1, batch_size=4, accumulate=2, clip_norm=1e9)
    step = jax.jit(make_step(loss, settings))
    state = initial_state(jnp.zeros(()), settings)
    _, metrics = step(state, {}, jnp.zeros(4), jnp.int32(0), 1)
    keys = jax.random.split(jax.random.fold_in(jax.random.key(0), 0), 2)
    expected = sum(jax.random.normal(key, (2,)).sum() for key in keys) / 2
    assert metrics["gradient_norm"] == pytest.approx(abs(float(expected)), rel=1e-5)


def test_after_its_last_step_nothing_changes():
    settings = TrainSettings(steps=2, batch_size=1, learning_rate=0.1)
    _, last, after = take(settings, [[1.0, 1.0]] * 3)
    jax.tree.map(np.testing.assert_array_equal, last[0], after[0])


def noise(params, frozen, batch, key):
    """What is drawn at a step is its loss."""
    return 0.0 * params.sum() + jax.random.normal(key), {}


def drawn(seed, steps, start=0):
    settings = TrainSettings(steps=10, batch_size=1)
    state = initial_state(jnp.zeros(2), settings).replace(step=jnp.int32(start))
    step, losses = jax.jit(make_step(noise, settings)), []
    for _ in range(steps):
        state, metrics = step(state, {}, {}, jnp.int32(seed), settings.steps)
        losses.append(float(metrics["loss"]))
    return losses


def test_each_step_draws_anew_and_a_step_that_is_taken_again_draws_the_same():
    losses = drawn(seed=0, steps=6)
    assert len({*losses}) == 6
    assert drawn(seed=0, steps=3, start=3) == losses[3:]
    assert not {*losses} & {*drawn(seed=1, steps=6)}


@pytest.mark.parametrize("decay", [0.0, 0.9])
def test_the_best_parameters_are_those_that_training_is_for(decay):
    """With an average it is the average that was measured, and the average that is kept."""
    settings = TrainSettings(
        steps=4, batch_size=1, learning_rate=0.1, ema_decay=decay, validate_every=1
    )
    (_, _), (state, _) = take(settings, [[1.0, 1.0]] * 2)
    expected = state.ema if decay else state.params
    assert np.array_equal(state.ema, state.params) == (decay == 0.0)
    better = measured(state, settings, jnp.float32(0.5), jnp.bool_(True)).best
    np.testing.assert_array_equal(better.params, expected)
    assert (better.loss, better.misses) == (0.5, 0)


def test_measurements_without_a_new_best_are_counted():
    settings = TrainSettings(steps=9, batch_size=1, validate_every=1, patience=2)
    state = initial_state(jnp.zeros(2), settings)
    misses = []
    for value, due in ((1.0, True), (1.0, True), (2.0, False), (2.0, True), (0.5, True)):
        state = measured(state, settings, jnp.float32(value), jnp.bool_(due))
        misses.append(int(state.best.misses))
        # The parameters move on; what is kept is from the best measurement.
        state = state.replace(params=state.params + 1.0)
    assert misses == [0, 1, 1, 2, 0]
    np.testing.assert_array_equal(state.best.params, [4.0, 4.0])
