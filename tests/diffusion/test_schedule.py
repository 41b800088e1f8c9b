import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddad_jax.diffusion import schedule


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
