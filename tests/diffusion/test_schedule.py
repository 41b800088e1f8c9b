import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddad_jax.diffusion import schedule
from ddad_jax.settings import SettingError


def test_table_agrees_with_the_official_code(golden):
    expected = np.load(golden / "schedule.npz")["alpha_bar"]
    np.testing.assert_allclose(schedule.linear_alpha_bar(0.0015, 0.0195, 1000), expected, atol=1e-6)


def test_before_the_first_timestep_there_is_no_noise():
    table = jnp.asarray(schedule.linear_alpha_bar(0.0015, 0.0195, 1000))
    latent = jax.random.normal(jax.random.key(0), (2, 4, 4, 3))
    noise = jax.random.normal(jax.random.key(1), (2, 4, 4, 3))
    clean = schedule.add_noise(latent, noise, schedule.at(table, jnp.array([-1, -1])))
    np.testing.assert_array_equal(clean, latent)


@pytest.mark.parametrize("prediction", ["noise", "velocity", "latent"])
def test_a_perfect_denoiser_gives_back_the_noise_whatever_it_predicts(prediction):
    table = jnp.asarray(schedule.linear_alpha_bar(0.0015, 0.0195, 1000))
    a = schedule.at(table, jnp.array([20, 700]))
    latent = jax.random.normal(jax.random.key(0), (2, 4, 4, 3))
    noise = jax.random.normal(jax.random.key(1), (2, 4, 4, 3))
    noisy = schedule.add_noise(latent, noise, a)
    output = schedule.training_target(latent, noise, a, prediction)
    recovered = schedule.predicted_noise(output, noisy, a, prediction)
    np.testing.assert_allclose(recovered, noise, atol=1e-4)


def test_every_factor_of_the_table_is_one_minus_a_beta_of_a_straight_line():
    for first, last, steps in ((0.0015, 0.0195, 1000), (1e-4, 0.02, 50)):
        table = np.float64(schedule.linear_alpha_bar(first, last, steps))
        assert len(table) == steps + 1 and table[0] == 1.0
        betas = 1.0 - table[1:] / table[:-1]
        step = (last - first) / (steps - 1)
        np.testing.assert_allclose(betas, first + step * np.arange(steps), atol=2e-6)


def test_scaling_is_noising_without_the_noise():
    table = jnp.asarray(schedule.linear_alpha_bar(0.0015, 0.0195, 1000))
    a = schedule.at(table, jnp.array([20, 80]))
    latent = jax.random.normal(jax.random.key(0), (2, 4, 4, 3))
    found = schedule.scale_latent(latent, a)
    np.testing.assert_allclose(found, schedule.add_noise(latent, 0.0 * latent, a), rtol=1e-6)
    assert (jnp.abs(found) < jnp.abs(latent)).all()


def test_the_forward_process_keeps_the_variance_and_velocity_turns_with_it():
    """(z_t, v_t) is (z, ε) turned by an angle: lengths and right angles stay."""
    a = schedule.at(jnp.array([1.0, 0.7]), jnp.array([0]))
    latent, noise = jnp.full((1, 1, 1, 1), 3.0), jnp.full((1, 1, 1, 1), -4.0)
    noisy = schedule.add_noise(latent, noise, a)
    velocity = schedule.training_target(latent, noise, a, "velocity")
    assert noisy.item() ** 2 + velocity.item() ** 2 == pytest.approx(25.0)
    # Without noise the velocity is ε; where all is noise, it is -z.
    for level, expected in ((1.0, -4.0), (0.0, -3.0)):
        found = schedule.training_target(latent, noise, jnp.full((1, 1, 1, 1), level), "velocity")
        assert found.item() == pytest.approx(expected)
    assert schedule.training_target(latent, noise, a, "latent").item() == 3.0


def test_less_noise_at_the_end_is_refused():
    schedule.ScheduleSettings(beta_start=0.01, beta_end=0.01)
    with pytest.raises(SettingError, match="beta_end: 0.009 is below beta_start, 0.01"):
        schedule.ScheduleSettings(beta_start=0.01, beta_end=0.009)
