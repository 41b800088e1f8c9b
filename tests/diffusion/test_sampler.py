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


# A point mass: every image is `CLEAN`, and the exact noise of z is (z - √ᾱ CLEAN) / √(1-ᾱ).
CLEAN, VALUES = 1.5, (1, 64, 64, 16)


def exact_noise(table):
    def predict(noisy, timestep):
        a = schedule.at(table, timestep)
        return (noisy - jnp.sqrt(a) * CLEAN) / jnp.sqrt(1.0 - a)

    return predict


def noised(a, number):
    noise = jax.random.normal(jax.random.key(number), VALUES)
    return np.sqrt(a) * CLEAN + np.sqrt(1.0 - a) * noise


def stochastic(table, start, num_steps, stochasticity):
    table = jnp.asarray(table, jnp.float32)
    return np.asarray(
        sampler.reconstruct(
            exact_noise(table),
            table,
            jnp.zeros(VALUES),
            start,
            jnp.array([num_steps]),
            num_steps=num_steps,
            conditioning_weight=0.0,
            stochasticity=stochasticity,
            key=jax.random.key(5),
        )
    )


def test_a_step_of_full_stochasticity_is_drawn_from_ddpms_posterior():
    """Ho et al. (arXiv 2006.11239), equations 6 and 7: q(z_{t-1} | z_t, z_0)."""
    a, a_next = 0.3, 0.8
    start = noised(a, 0)
    beta = 1.0 - a / a_next
    mean = (
        np.sqrt(a_next) * beta / (1.0 - a) * CLEAN
        + np.sqrt(1.0 - beta) * (1.0 - a_next) / (1.0 - a) * start
    )
    found = (stochastic([a_next, a], start, 1, 1.0) - mean) / np.sqrt(
        (1.0 - a_next) / (1.0 - a) * beta
    )
    # Of 65536 standard normal numbers; none of it is of the noise that was there.
    assert found.mean() == pytest.approx(0.0, abs=0.02)
    assert found.std() == pytest.approx(1.0, abs=0.02)
    assert np.corrcoef(found.ravel(), np.ravel(start))[0, 1] == pytest.approx(0.0, abs=0.02)


@pytest.mark.parametrize("stochasticity", [0.0, 0.5, 1.0])
def test_every_stochasticity_keeps_the_distribution_at_each_noise_level(stochasticity):
    """Song et al. (arXiv 2010.02502), lemma 1: z_t of every t is N(√ᾱ_t z_0, 1 - ᾱ_t)."""
    # The last level has noise left: the table does not end at 1.
    table = [0.75, 0.6, 0.45, 0.3, 0.2]
    found = stochastic(table, noised(table[-1], 1), 4, stochasticity)
    assert found.mean() == pytest.approx(np.sqrt(0.75) * CLEAN, abs=0.01)
    assert found.std() == pytest.approx(np.sqrt(1.0 - 0.75), abs=0.01)


def test_half_the_stochasticity_draws_half_as_much():
    """What two starts that differ in nothing but their noise share of the result, and what not."""
    a, a_next = 0.3, 0.8
    start = noised(a, 0)
    full = np.sqrt((1.0 - a_next) / (1.0 - a) * (1.0 - a / a_next))
    for share in (0.25, 0.5):
        kept = np.sqrt(1.0 - a_next - (share * full) ** 2) * noised(0.0, 0)
        drawn = stochastic([a_next, a], start, 1, share) - np.sqrt(a_next) * CLEAN - kept
        assert drawn.std() == pytest.approx(share * full, rel=0.02)
