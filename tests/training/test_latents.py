import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddad_jax.models.tiny_autoencoder import TinyAutoencoder
from ddad_jax.training.latents import channel_scaling, encode_images

SMALL = {"latent_channels": 2, "width": 4, "blocks": (1, 1)}


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), np.uint8)


@pytest.fixture
def encode(tmp_path, images):
    def encode(images=images, **settings):
        network = TinyAutoencoder(**SMALL, **settings)
        start = network.init(jax.random.key(0), jnp.zeros((1, 16, 16, 3)))
        return encode_images(network, start, images, 2, tmp_path)

    return encode


def test_latents_are_kept_and_found_again(encode, tmp_path):
    latents = np.array(encode())
    (kept,) = tmp_path.iterdir()
    np.save(kept, latents + 1.0)
    np.testing.assert_array_equal(encode(), latents + 1.0)


def test_latents_of_other_images_or_types_are_others(encode, images, tmp_path):
    """Those of a published autoencoder in bfloat16 are not taken for those in float32."""
    latents = encode()
    rounded = encode(dtype=jnp.bfloat16)
    assert not np.array_equal(rounded, latents)
    assert not np.array_equal(encode(255 - images), latents)
    assert len([*tmp_path.iterdir()]) == 3


def test_scaling_brings_every_channel_to_mean_0_and_deviation_1(encode):
    latents = encode() * np.array([5.0, 0.1], np.float32) + 2.0
    shift, scale = channel_scaling(latents)
    scaled = (latents - np.asarray(shift)) * np.asarray(scale)
    np.testing.assert_allclose(scaled.mean((0, 1, 2)), 0.0, atol=1e-4)
    np.testing.assert_allclose(scaled.std((0, 1, 2)), 1.0, rtol=1e-4)
