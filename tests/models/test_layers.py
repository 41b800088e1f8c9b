import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddad_jax.models.layers import Conv, upsample


@pytest.mark.parametrize("shape", [(2, 5, 3, 4), (1, 1, 1, 2)])
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
    for a, b in zip(jax.tree.leaves(gradient), jax.tree.leaves(expected_gradient), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)
