import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddad_jax.diffusion import sampler, schedule
from ddad_jax.models import UNet
from ddad_jax.pretrained import from_state_dict


@pytest.fixture(scope="module")
def alpha_bar():
    return jnp.asarray(schedule.linear_alpha_bar(0.0015, 0.0195, 1000))


@pytest.fixture(scope="module")
def predict_noise(golden_weights):
    network = UNet(
        sample_size=16,
        base_channels=32,
        channel_multipliers=(1, 2, 2),
        attention_resolutions=(8, 4),
        num_heads=2,
    )
    variables = from_state_dict(golden_weights("unet_small"), network, "golden weights")
    return lambda noisy, timestep: network.apply(variables, noisy, timestep)


@pytest.mark.parametrize("conditioning_weight", [0, 4, 8])
def test_reconstruction_agrees_with_the_official_code(
    golden, alpha_bar, predict_noise, conditioning_weight
):
    """Seven images at seven noise levels in one call; the official code takes them one by one."""
    reference = np.load(golden / "sampler.npz")
    latent, start = (jnp.moveaxis(jnp.asarray(reference[name]), 1, -1) for name in ("y", "x_T"))
    static = ("num_steps", "conditioning_weight")
    found = jax.jit(sampler.reconstruct, static_argnums=0, static_argnames=static)(
        predict_noise,
        alpha_bar,
        latent,
        start,
        jnp.asarray(reference["T"], jnp.int32),
        num_steps=10,
        conditioning_weight=float(conditioning_weight),
    )
    expected = np.moveaxis(reference[f"dynamic_eta{conditioning_weight}"], 1, -1)
    np.testing.assert_allclose(found, expected, atol=1e-3)


def test_timesteps_end_at_the_clean_latent():
    steps = sampler.step_timesteps(jnp.array([20, 80, 250]), 10)
    np.testing.assert_array_equal(steps[:, 0], [18, 16, 14, 12, 10, 8, 6, 4, 2, 0, -1])
    np.testing.assert_array_equal(steps[[0, 8, 9, 10], 2], [225, 25, 0, -1])
    np.testing.assert_array_equal(steps[0], [18, 72, 225])


def test_a_perfect_denoiser_gives_back_the_clean_latent(alpha_bar):
    latent = jax.random.normal(jax.random.key(0), (2, 4, 4, 3))
    noise = jax.random.normal(jax.random.key(1), latent.shape)
    level = jnp.array([20, 80])
    # z_T̂ meets the network at the first visited timestep; start there for an exact answer.
    start = schedule.add_noise(latent, noise, schedule.at(alpha_bar, level - level // 10))
    found = sampler.reconstruct(
        lambda noisy, timestep: noise,
        alpha_bar,
        latent,
        start,
        level,
        num_steps=10,
        conditioning_weight=4.0,
    )
    np.testing.assert_allclose(found, latent, atol=1e-4)


def test_a_stochastic_image_does_not_depend_on_its_place_in_the_batch(alpha_bar):
    latent = jax.random.normal(jax.random.key(0), (3, 4, 4, 3))

    def reconstruct(latent):
        return sampler.reconstruct(
            lambda noisy, timestep: 0.1 * noisy,
            alpha_bar,
            latent,
            latent,
            jnp.full(latent.shape[0], 50),
            num_steps=10,
            conditioning_weight=2.0,
            stochasticity=1.0,
            key=jax.random.key(7),
        )

    together = reconstruct(latent)
    np.testing.assert_allclose(reconstruct(latent[::-1])[::-1], together, atol=1e-6)
    np.testing.assert_allclose(reconstruct(latent[2:]), together[2:], atol=1e-6)
    assert np.abs(together - reconstruct(latent * 1.01)).max() > 1e-3
