import dataclasses
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractMesh, AxisType

from ddad_jax.detection.detector import Settings
from ddad_jax.detection.reconstruction import (
    decode,
    encode,
    extract,
    reconstruct_latent,
    to_network_range,
)
from ddad_jax.models.extractor import Extractor
from ddad_jax.models.pixel_space import PixelSpace

# What images are on average, by channel, and how far they are from it.
MEAN, DEVIATION = np.array([-0.5, 0.0, 0.25]), np.array([0.1, 0.3, 0.2])
SCALING = jnp.float32(MEAN), jnp.float32(1.0 / DEVIATION)
TABLE = jnp.asarray(0.9 ** np.arange(31.0), jnp.float32)
SETTINGS = Settings(image_size=8, max_noise_level=20, conditioning_weight=0.0)


class Says(nn.Module):
    """Stands for a denoiser that puts out a multiple of what it is given."""

    factor: float = 0.0
    dtype: type = jnp.float32

    def __call__(self, noisy, timestep):
        return self.factor * noisy


@pytest.fixture(scope="module")
def images():
    drawn = np.random.default_rng(0).normal(MEAN, DEVIATION, (4, 32, 32, 3))
    return jnp.asarray(drawn.clip(-1.0, 1.0), jnp.float32)


def test_latents_have_mean_zero_and_deviation_one(images):
    latent = np.asarray(encode(PixelSpace(), {}, *SCALING, images))
    np.testing.assert_allclose(latent.mean((0, 1, 2)), 0.0, atol=0.05)
    np.testing.assert_allclose(latent.std((0, 1, 2)), 1.0, atol=0.05)


def test_decoding_undoes_encoding_and_stays_an_image(images):
    latent = encode(PixelSpace(), {}, *SCALING, images)
    found = decode(PixelSpace(), {}, *SCALING, latent)
    np.testing.assert_allclose(found, images, atol=1e-5)
    far = decode(PixelSpace(), {}, *SCALING, 100.0 * latent)
    assert (far.min(), far.max()) == (-1.0, 1.0)


def loops(images, network=PixelSpace):
    """How many loops encoding is traced with."""
    program = jax.make_jaxpr(lambda images: encode(network(), {}, *SCALING, images))(images)
    return sum(equation.primitive.name == "scan" for equation in program.eqns)


def test_where_devices_share_a_batch_its_images_stay_together(images):
    """One after the other, each device would compute all of them."""
    assert loops(images) == 1
    mesh = AbstractMesh((2, 2), ("data", "model"), axis_types=(AxisType.Auto,) * 2)
    with jax.sharding.use_abstract_mesh(mesh):
        assert loops(images) == 0


@pytest.mark.parametrize(("side", "count"), [(256, 1), (264, 0)])
def test_a_tpu_takes_small_images_one_by_one(side, count, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    assert loops(jax.ShapeDtypeStruct((2, side, side, 3), jnp.float32)) == count
    # What counts is the side at which the network looks at them.
    resized = partial(PixelSpace, size=side)
    assert loops(jax.ShapeDtypeStruct((3, 260, 260, 3), jnp.float32), resized) == count
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert loops(jax.ShapeDtypeStruct((3, side, side, 3), jnp.float32)) == 0


def test_bytes_cover_the_networks_range():
    steps = np.array([0, 51, 255], np.uint8)
    pixels = to_network_range(jnp.broadcast_to(steps[:, None, None, None], (3, 4, 4, 3)), 4)
    np.testing.assert_allclose(pixels[:, 0, 0, 0], [-1.0, -0.6, 1.0], atol=1e-6)
    with pytest.raises(ValueError, match="expected 5×5 pixels"):
        to_network_range(pixels, 5)


SILENT = Says()


def reconstructed(latent, denoiser=SILENT, key=0, **changes):
    settings = dataclasses.replace(SETTINGS, **changes)
    level = jnp.full(len(latent), 20)
    return np.asarray(
        reconstruct_latent(denoiser, {}, TABLE, settings, latent, level, jax.random.key(key))
    )


def test_a_scaled_start_is_the_latent_at_its_noise_level(images):
    """Said to hold no noise, it is scaled back from where it is first looked at, at T̂ - T̂/n."""
    for steps in (10, 2):
        found = reconstructed(images, num_steps=steps)
        left = np.sqrt(0.9 ** (20 // steps))
        np.testing.assert_allclose(found, left * np.asarray(images), rtol=1e-4, atol=1e-6)


def test_a_noised_start_has_the_noise_of_its_level_and_every_image_the_same():
    """Of latents of zeros noise alone is left, scaled back as above; the key decides it."""
    latent = jnp.zeros((2, 64, 64, 3))
    found = reconstructed(latent, start="noised")
    np.testing.assert_allclose(found[0], found[1], atol=1e-6)
    last = 0.9**19
    assert found.std() == pytest.approx(np.sqrt((1.0 - 0.9**21) / last), rel=0.03)
    assert np.abs(found - reconstructed(latent, key=1, start="noised")).max() > 0.1


@pytest.mark.parametrize("prediction", ["velocity", "latent"])
def test_what_the_denoiser_puts_out_is_read_as_it_was_trained(images, prediction):
    """A denoiser that says "clean" of everything, in whichever terms, leaves its own start."""
    as_noise = reconstructed(images)

    class Clean(nn.Module):
        dtype: type = jnp.float32

        def __call__(self, noisy, timestep):
            a = TABLE[timestep + 1][:, None, None, None]
            latent = noisy / jnp.sqrt(a)
            return latent if prediction == "latent" else -jnp.sqrt(1.0 - a) * latent

    found = reconstructed(images, Clean(), prediction=prediction)
    np.testing.assert_allclose(found, as_noise, atol=1e-4)


def test_conditioning_pulls_towards_the_image(images):
    """A denoiser that takes half of everything for noise is held back by the condition."""
    away = [
        np.abs(reconstructed(images, Says(0.5), conditioning_weight=weight) - images).mean()
        for weight in (0.0, 1.0, 3.0)
    ]
    assert away[0] > away[1] > away[2]


class Normalising(Extractor):
    """Stands for an extractor that is shown images by its own rule."""

    dtype: type = jnp.float32
    strides = (1, 1, 1)

    def example_inputs(self):
        return (jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.float32),)

    def normalise(self, images):
        return 10.0 * images

    def __call__(self, images):
        return (images.astype(jnp.bfloat16), 2.0 * images)


def test_features_are_of_normalised_images_and_in_float32(images):
    first, second = extract(Normalising(), {}, images)
    assert first.dtype == second.dtype == jnp.float32
    np.testing.assert_allclose(second, 20.0 * np.asarray(images), rtol=1e-6)
