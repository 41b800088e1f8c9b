import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest

from ddad_jax.models.extractor import ImageNetwork
from ddad_jax.training.samples import autoencoder_sample, denoiser_sample


class Brighter(ImageNetwork):
    """Stands for an autoencoder whose latent is the image; what it gives back is brighter."""

    def setup(self):
        self.bias = self.param("bias", nn.initializers.zeros, ())

    def encode(self, images):
        return images

    def decode(self, latent):
        return latent + self.bias


def test_an_autoencoder_s_pictures_stand_below_the_images():
    images = np.full((3, 8, 8, 3), 100, np.uint8)
    images[1] = 250
    picture = autoencoder_sample(Brighter(), images)({"bias": 20 / 127.5})
    assert (picture.shape, picture.dtype) == ((16, 24, 3), np.uint8)
    np.testing.assert_array_equal(picture[:8], np.concatenate(images, axis=1))
    assert (picture[8:, :8] == 120).all()
    assert (picture[8:, 8:16] == 255).all()


@pytest.mark.slow
def test_a_denoiser_s_pictures_follow_its_parameters(detector, part_images):
    d = detector
    frozen = {
        "autoencoder": d.autoencoder,
        "scaling": (d.latent_shift, d.latent_scale),
        "alpha_bar": d.alpha_bar,
    }
    sample = denoiser_sample(d.networks, d.settings, frozen, part_images[:2])
    picture = sample(d.denoiser["params"])
    assert picture.shape == (3 * 64, 2 * 64, 3)
    conditioned, alone = picture[64:128].astype(float), picture[128:].astype(float)
    assert np.abs(conditioned - alone).mean() > 1.0
    silent = {**d.denoiser["params"], "out_2": {**d.denoiser["params"]["out_2"]}}
    silent["out_2"]["kernel"] = jnp.zeros_like(silent["out_2"]["kernel"])
    assert np.abs(sample(silent)[128:] - alone).mean() > 1.0
