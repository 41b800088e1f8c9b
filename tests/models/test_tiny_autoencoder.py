import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from ddad_jax import models, pretrained
from ddad_jax.errors import UserError
from ddad_jax.models import TinyAutoencoder


@pytest.mark.slow
def test_taef2_agrees_with_the_published_code_and_weights(golden, shared, nhwc, apply):
    network = models.build_autoencoder("taef2")
    variables = pretrained.load(str(shared / "weights" / "taef2"), network)
    tensors = np.load(golden / "taef2.npz")
    picture = Image.open(shared / str(tensors["image_path"])).convert("RGB")
    images = jnp.asarray(picture, jnp.float32)[None] / 127.5 - 1
    latent = apply(network, variables, images, method="encode")
    np.testing.assert_allclose(latent, nhwc(tensors["latent"]), atol=2e-3)
    decoded = apply(network, variables, nhwc(tensors["latent"]), method="decode")
    np.testing.assert_allclose((decoded + 1) / 2, nhwc(tensors["decoded"]), atol=2e-3)


def test_decoding_clamps_the_latent_to_three(random_variables, apply):
    network = TinyAutoencoder(width=8, blocks=(1, 1))
    variables = random_variables(network)
    far = apply(network, variables, jnp.full((1, 2, 2, 4), 1e3), method="decode")
    farther = apply(network, variables, jnp.full((1, 2, 2, 4), 1e6), method="decode")
    np.testing.assert_allclose(far, farther, rtol=1e-5)


@pytest.mark.parametrize(("blocks", "downsampling"), [((1, 1), 2), ((1, 3, 3, 3), 8)])
def test_downsampling_is_what_encoding_does(blocks, downsampling):
    network = TinyAutoencoder(latent_channels=5, width=4, blocks=blocks)
    assert network.downsampling == downsampling
    images = jax.ShapeDtypeStruct((2, 32, 48, 3), np.float32)
    variables = models.abstract_variables(network)
    latent = jax.eval_shape(lambda v, x: network.apply(v, x, method="encode"), variables, images)
    assert latent.shape == (2, 32 // downsampling, 48 // downsampling, 5)
    decoded = jax.eval_shape(lambda v, z: network.apply(v, z, method="decode"), variables, latent)
    assert decoded.shape == images.shape


def test_images_that_cannot_be_halved_are_refused():
    network = TinyAutoencoder(width=4)
    with pytest.raises(UserError, match="30x32.*divisible by 8"):
        network.init(jax.random.key(0), jnp.zeros((1, 30, 32, 3)))
