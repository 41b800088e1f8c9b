import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddad_jax import models
from ddad_jax.errors import UserError
from ddad_jax.models import AutoencoderKL

SMALL = AutoencoderKL(channels=(32, 64, 64), layers_per_block=1)
STABLE_DIFFUSION = AutoencoderKL()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "network"),
    [
        ("vae_small", SMALL),
        pytest.param("vae_sd", STABLE_DIFFUSION, marks=pytest.mark.slow),
    ],
)
def test_agrees_with_diffusers(
    name, network, golden, golden_variables, nhwc, apply, relative_error
):
    tensors = np.load(golden / f"{name}.npz")
    variables = golden_variables(network, name)
    mean, logvar = apply(network, variables, nhwc(tensors["x"]), method="posterior")
    assert relative_error(mean, nhwc(tensors["mean"])) < 1e-4
    assert relative_error(logvar, nhwc(tensors["logvar"])) < 1e-4
    decoded = apply(network, variables, nhwc(tensors["mean"]), method="decode")
    assert relative_error(decoded, nhwc(tensors["decoded"])) < 1e-4


def test_has_the_published_number_of_parameters():
    assert models.parameter_count(STABLE_DIFFUSION) == 83_653_863


@pytest.mark.slow
def test_encoding_is_the_posterior_mean(golden_variables, apply):
    variables = golden_variables(SMALL, "vae_small")
    images = jax.random.uniform(jax.random.key(0), (1, 16, 16, 3), minval=-1)
    mean, logvar = apply(SMALL, variables, images, method="posterior")
    np.testing.assert_array_equal(apply(SMALL, variables, images, method="encode"), mean)
    assert mean.shape == logvar.shape == (1, 16 // SMALL.downsampling, 4, 4)


@pytest.mark.slow
def test_rematerialisation_changes_no_gradient(golden_variables):
    variables = golden_variables(SMALL, "vae_small")
    images = jax.random.uniform(jax.random.key(0), (1, 8, 8, 3), minval=-1)

    def gradient(network):
        return jax.jit(jax.grad(lambda v: (network.apply(v, images) ** 2).mean()))(variables)

    pairs = gradient(SMALL), gradient(SMALL.clone(remat=True))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), *pairs)


def test_images_that_cannot_be_halved_are_refused():
    with pytest.raises(UserError, match="34x32.*divisible by 4"):
        SMALL.init(jax.random.key(0), jnp.zeros((1, 34, 32, 3)))
