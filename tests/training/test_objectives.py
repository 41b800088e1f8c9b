from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddad_jax.diffusion.schedule import linear_alpha_bar
from ddad_jax.training.adaptation import adaptation_loss
from ddad_jax.training.autoencoder import autoencoder_loss
from ddad_jax.training.denoiser import denoiser_loss

ALPHA_BAR = jnp.asarray(linear_alpha_bar(0.0015, 0.0195, 1000))


class Oracle(nn.Module):
    """Stands for a denoiser; outputs what it is made with."""

    output: Callable

    def __call__(self, noisy, timestep):
        return self.output(noisy, timestep)


def test_saying_nothing_costs_the_variance_of_the_noise():
    loss = denoiser_loss(Oracle(lambda noisy, t: 0.0 * noisy), max_timestep=100)
    latent = jax.random.normal(jax.random.key(0), (64, 8, 8, 4))
    value, _ = loss({}, {"alpha_bar": ALPHA_BAR}, {"latent": latent}, jax.random.key(1))
    assert value == pytest.approx(1.0, abs=0.05)


def test_timesteps_stay_below_their_limit():
    seen = []
    oracle = Oracle(lambda noisy, t: seen.append(np.asarray(t)) or noisy)
    latent = jnp.zeros((200, 2, 2, 1))
    denoiser_loss(oracle, max_timestep=30)(
        {}, {"alpha_bar": ALPHA_BAR}, {"latent": latent}, jax.random.key(0)
    )
    assert seen[0].min() >= 0
    assert 25 <= seen[0].max() < 30


def test_the_loss_is_told_by_quarter_of_the_timesteps():
    """An error that grows with the timestep costs each quarter its own mean."""
    latent = jnp.zeros((400, 2, 2, 1))
    key = jax.random.key(1)
    timestep = jax.random.randint(jax.random.split(key)[0], (400,), 0, 90)
    noise = jax.random.normal(jax.random.split(key)[1], latent.shape)
    oracle = Oracle(lambda noisy, t: noise + t[:, None, None, None])
    loss = denoiser_loss(oracle, max_timestep=90)
    value, metrics = loss({}, {"alpha_bar": ALPHA_BAR}, {"latent": latent}, key)
    quarters = metrics["loss_quarter"]
    timestep = np.asarray(timestep)
    # 90 is not a multiple of 4: quarters begin at 0, 22.5, 45 and 67.5.
    parts = [timestep[(timestep >= 22.5 * i) & (timestep < 22.5 * (i + 1))] for i in range(4)]
    np.testing.assert_array_equal(quarters.count, [len(part) for part in parts])
    expected = [(part.astype(float) ** 2).sum() for part in parts]
    np.testing.assert_allclose(quarters.total, expected, rtol=1e-4)
    assert value == pytest.approx(float(quarters.total.sum() / 400), rel=1e-5)


@pytest.mark.parametrize("prediction", ["noise", "velocity", "latent"])
def test_min_snr_weighs_every_prediction_alike(prediction):
    """One and the same error of the latent costs the same, whatever the network outputs."""
    latent = jax.random.normal(jax.random.key(0), (32, 4, 4, 2))

    def wrong_by_a_tenth(noisy, t):
        a = ALPHA_BAR[t + 1][:, None, None, None]
        wrong = latent + 0.1
        noise = (noisy - jnp.sqrt(a) * wrong) / jnp.sqrt(1 - a)
        return {
            "noise": noise,
            "velocity": jnp.sqrt(a) * noise - jnp.sqrt(1 - a) * wrong,
            "latent": wrong,
        }[prediction]

    loss = denoiser_loss(
        Oracle(wrong_by_a_tenth), max_timestep=1000, prediction=prediction, weighting="min_snr"
    )
    value, _ = loss({}, {"alpha_bar": ALPHA_BAR}, {"latent": latent}, jax.random.key(1))
    timestep = jax.random.randint(jax.random.split(jax.random.key(1))[0], (32,), 0, 1000)
    a = ALPHA_BAR[timestep + 1]
    expected = (jnp.minimum(a / (1 - a), 5.0) * 0.01).mean()
    assert value == pytest.approx(float(expected), rel=1e-3)


def test_autoencoder_gradient_reaches_encoder_and_decoder(detector, part_images):
    loss = autoencoder_loss(
        detector.networks.autoencoder,
        detector.networks.extractor,
        feature_weight=0.5,
        latent_weight=0.1,
        crop_size=32,
    )
    frozen = {"extractor": detector.extractor}
    batch = {"image": jnp.asarray(part_images[:2])}
    gradient, metrics = jax.jit(jax.grad(loss, has_aux=True))(
        detector.autoencoder["params"], frozen, batch, jax.random.key(0)
    )
    for half in ("encoder", "decoder"):
        assert max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(gradient[half])) > 0
    assert set(metrics) == {"pixel", "feature", "latent"}


@pytest.mark.slow
def test_adaptation_moves_the_extractor_towards_the_reconstruction(detector, part_images):
    frozen = {
        "autoencoder": detector.autoencoder,
        "denoiser": detector.denoiser,
        "extractor": detector.extractor,
        "latent_shift": detector.latent_shift,
        "latent_scale": detector.latent_scale,
        "alpha_bar": detector.alpha_bar,
    }
    batch = {"image": jnp.asarray(part_images[:2])}
    loss = adaptation_loss(detector.networks, detector.settings, distillation_weight=1.0)
    step = jax.jit(jax.value_and_grad(loss, has_aux=True))
    params = detector.extractor["params"]
    (before, metrics), gradient = step(params, frozen, batch, jax.random.key(0))
    assert metrics["drift"] == pytest.approx(0.0, abs=1e-5)
    assert metrics["distance"] > 0.0
    moved = jax.tree.map(lambda p, g: p - 1e-4 * jnp.sign(g), params, gradient)
    (after, metrics), _ = step(moved, frozen, batch, jax.random.key(0))
    assert after < before
    assert metrics["drift"] > 0.0
