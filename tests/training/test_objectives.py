from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from jax.typing import DTypeLike

from ddad_jax.detection.detector import Networks, Settings
from ddad_jax.diffusion.schedule import linear_alpha_bar
from ddad_jax.models.extractor import Extractor, ImageNetwork
from ddad_jax.models.pixel_space import PixelSpace
from ddad_jax.training.adaptation import adaptation_loss
from ddad_jax.training.autoencoder import autoencoder_loss
from ddad_jax.training.denoiser import denoiser_loss

ALPHA_BAR = jnp.asarray(linear_alpha_bar(0.0015, 0.0195, 1000))


class Oracle(nn.Module):
    """Stands for a denoiser; outputs what it is made with."""

    output: Callable
    dtype: DTypeLike = jnp.float32

    def __call__(self, noisy, timestep):
        return self.output(noisy, timestep)


def noise_of(noisy, timestep):
    """Says that there is no noise."""
    return 0.0 * noisy


@pytest.mark.slow
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


@pytest.mark.slow
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


class Gaussian(ImageNetwork):
    """Stands for a variational autoencoder whose posterior is what it is made with."""

    mean: float = 0.0
    logvar: float = 0.0

    def posterior(self, images):
        return (jnp.full(images.shape, each) for each in (self.mean, self.logvar))

    def decode(self, latent):
        return latent


class Seeing(Extractor):
    """Stands for an extractor, but for what it sees."""

    strides = (1, 1, 1)

    def example_inputs(self):
        return (jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.float32),)

    def normalise(self, images):
        return images


class Alike(Seeing):
    """Sees the same in every image."""

    def __call__(self, images):
        return (jnp.ones_like(images),)


def variational(mean, logvar, latent_weight=0.25):
    """Loss and metrics of grey images."""
    loss = autoencoder_loss(
        Gaussian(mean=mean, logvar=logvar), Alike(), feature_weight=3.0, latent_weight=latent_weight
    )
    batch = {"image": jnp.full((2, 64, 64, 3), 128, jnp.uint8)}
    return loss({}, {"extractor": {}}, batch, jax.random.key(0))


@pytest.mark.slow
@pytest.mark.parametrize(("mean", "logvar"), [(0.0, 0.0), (2.0, 0.0), (0.0, -3.0), (-1.0, 1.5)])
def test_a_variational_latent_is_held_to_the_standard_normal_distribution(mean, logvar):
    value, metrics = variational(mean, logvar)
    normal = torch.distributions.Normal
    expected = torch.distributions.kl_divergence(
        normal(mean, np.exp(0.5 * logvar)), normal(0.0, 1.0)
    ).item()
    assert metrics["latent"] == pytest.approx(expected, abs=1e-5) and expected >= 0.0
    # It is what is to be made small, as every part of the objective is.
    parts = metrics["pixel"] + 3.0 * metrics["feature"] + 0.25 * expected
    assert value == pytest.approx(float(parts), rel=1e-5)
    without, _ = variational(mean, logvar, latent_weight=0.0)
    assert value - without == pytest.approx(0.25 * expected, abs=1e-5)


def test_a_variational_latent_is_drawn_from_its_posterior():
    """The mean distance of N(μ, σ) from where its image is, by the folded normal distribution."""
    for mean, deviation in ((0.0, 1.0), (0.5, 0.2), (-1.0, 2.0)):
        _, metrics = variational(mean, 2.0 * np.log(deviation).item())
        away = torch.tensor((mean - (128 / 127.5 - 1.0)) / deviation)
        cdf = torch.distributions.Normal(0.0, 1.0).cdf(away)
        density = torch.exp(-0.5 * away**2) * np.sqrt(2.0 / np.pi)
        expected = deviation * (density + away * (2.0 * cdf - 1.0))
        assert metrics["pixel"] == pytest.approx(expected.item(), rel=0.02)


def test_every_image_has_a_timestep_and_noise_of_its_own():
    seen, drawn = {}, []
    oracle = Oracle(lambda noisy, t: seen.update(noisy=noisy, t=t) or noisy)
    loss = denoiser_loss(oracle, max_timestep=1000)
    for _ in range(2):
        loss({}, {"alpha_bar": ALPHA_BAR}, {"latent": jnp.zeros((8, 4, 4, 1))}, jax.random.key(9))
        drawn.append(np.asarray(seen["noisy"]))
    np.testing.assert_array_equal(*drawn)
    # √(1-ᾱ_t) ε is all there is of a latent of zeros.
    a = ALPHA_BAR[seen["t"] + 1][:, None, None, None]
    noise = np.asarray(drawn[0] / np.sqrt(1.0 - a)).reshape(8, 16)
    assert len({*np.asarray(seen["t"]).tolist()}) > 4
    assert np.abs(np.corrcoef(noise) - np.eye(8)).max() < 0.9
    assert np.std(noise) == pytest.approx(1.0, abs=0.2)


class Tinted(Seeing):
    """Has one parameter, which decides whether it sees differences."""

    @nn.compact
    def __call__(self, images):
        weight = self.param("weight", nn.initializers.ones, ())
        return (jnp.concatenate([weight * images, jnp.ones_like(images)], axis=-1),)


@pytest.mark.slow
def test_adaptation_is_of_the_extractors_parameters_and_distilled_from_the_frozen_ones():
    """1 - cos of features that are (w · image, 1), by hand, for w of now and w of before."""
    networks = Networks(autoencoder=PixelSpace(), denoiser=Oracle(noise_of), extractor=Tinted())
    # It starts at T̂ = 10 and is first taken for one at 9: so much is left when all is scaled back.
    table, left = jnp.float32(0.5) ** jnp.arange(12.0), np.sqrt(0.5)
    settings = Settings(
        image_size=8, num_steps=10, max_noise_level=10, num_bins=1, min_bin=1,
        conditioning_weight=0.0,
    )  # fmt: skip
    frozen = {
        "autoencoder": {}, "denoiser": {}, "extractor": {"params": {"weight": jnp.float32(3.0)}},
        "latent_shift": jnp.zeros(3), "latent_scale": jnp.ones(3), "alpha_bar": table,
    }  # fmt: skip
    batch = {"image": jax.random.randint(jax.random.key(0), (2, 8, 8, 3), 0, 256).astype(jnp.uint8)}
    images = np.asarray(batch["image"]) / 127.5 - 1.0
    decoded = images * left

    def features(weight, of):
        return np.concatenate([weight * of, np.ones_like(of)], axis=-1)

    def distance(a, b):
        norms = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
        return (1.0 - (a * b).sum(-1) / norms).mean()

    loss = adaptation_loss(networks, settings, distillation_weight=0.5)
    value, metrics = loss({"weight": jnp.float32(2.0)}, frozen, batch, jax.random.key(0))
    apart = distance(features(2.0, images), features(2.0, decoded))
    drift = sum(distance(features(2.0, of), features(3.0, of)) for of in (images, decoded))
    assert metrics["distance"] == pytest.approx(apart, rel=1e-3)
    assert metrics["drift"] == pytest.approx(drift, rel=1e-3)
    assert value == pytest.approx(apart + 0.5 * drift, rel=1e-3)


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
