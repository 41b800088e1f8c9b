from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddad_jax.models.convolution import Conv
from ddad_jax.models.layers import upsample


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(2, 13, 8, 4), (1, 9, 9, 2)])
def test_convolving_upsampled_images_in_phases_changes_nothing(shape):
    x = jax.random.normal(jax.random.key(0), shape)
    plain, phased = Conv(6), Conv(6, upsampled=True)
    variables = plain.init(jax.random.key(1), upsample(x))
    assert jax.tree.map(jnp.shape, phased.init(jax.random.key(1), x)) == jax.tree.map(
        jnp.shape, variables
    )

    def outputs(network, images):
        def apply(variables):
            y = network.apply(variables, images)
            return (y**2).sum(), y

        return jax.value_and_grad(apply, has_aux=True)(variables)

    (_, expected), expected_gradient = outputs(plain, upsample(x))
    (_, found), gradient = outputs(phased, x)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert_close(gradient, expected_gradient)


@pytest.mark.slow
@pytest.mark.parametrize("size", [1, 3, 5])
@pytest.mark.parametrize("shape", [(1, 1, 1, 3), (2, 2, 2, 3), (3, 4, 4, 3), (2, 2, 5, 3)])
def test_maps_of_few_pixels_are_convolved_as_others_are(shape, size):
    x = jax.random.normal(jax.random.key(0), shape)
    network = Conv(6, size, use_bias=False)
    variables = network.init(jax.random.key(1), x)

    @partial(jax.value_and_grad, argnums=(0, 1))
    def found(variables, x):
        return (network.apply(variables, x) ** 2).sum()

    @partial(jax.value_and_grad, argnums=(0, 1))
    def expected(variables, x):
        kernel = variables["params"]["kernel"]
        padding = [(size // 2, size // 2)] * 2
        y = jax.lax.conv_general_dilated(
            x, kernel, (1, 1), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return (y**2).sum()

    assert_close(jax.jit(found)(variables, x), expected(variables, x))
    assert_close(found(variables, x), expected(variables, x))


def assert_close(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)
