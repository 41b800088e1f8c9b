import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddad_jax.models import winograd
from ddad_jax.models.convolution import WINOGRAD_CHANNELS, Conv


def directly(x, kernel):
    """The sum that defines a convolution, in float64."""
    _, height, width, _ = x.shape
    x = np.pad(np.float64(x), [(0, 0), (1, 1), (1, 1), (0, 0)])
    return sum(
        x[:, row : row + height, column : column + width] @ np.float64(kernel[row, column])
        for row in range(3)
        for column in range(3)
    )


@pytest.mark.parametrize("shape", [(1, 2, 2, 1), (2, 6, 10, 3), (1, 16, 8, 40)])
def test_it_is_a_convolution(shape):
    x = jax.random.normal(jax.random.key(0), shape)
    kernel = jax.random.normal(jax.random.key(1), (3, 3, shape[-1], 5))
    found = jax.jit(winograd.convolve)(x, kernel)
    np.testing.assert_allclose(found, directly(x, kernel), atol=2e-5 * shape[-1] ** 0.5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shape", "size", "stride", "dtype", "taken"),
    [
        ((8, 8, WINOGRAD_CHANNELS), 3, 1, jnp.float32, True),
        ((8, 6, WINOGRAD_CHANNELS), 3, 1, jnp.float32, True),
        ((8, 7, WINOGRAD_CHANNELS), 3, 1, jnp.float32, False),
        ((4, 4, WINOGRAD_CHANNELS), 3, 1, jnp.float32, False),
        ((66, 64, WINOGRAD_CHANNELS), 3, 1, jnp.float32, False),
        ((8, 8, WINOGRAD_CHANNELS - 1), 3, 1, jnp.float32, False),
        ((8, 8, WINOGRAD_CHANNELS), 5, 1, jnp.float32, False),
        ((8, 8, WINOGRAD_CHANNELS), 3, 2, jnp.float32, False),
        ((8, 8, WINOGRAD_CHANNELS), 3, 1, jnp.bfloat16, False),
    ],
)
def test_a_cpu_takes_it_where_it_can_and_it_pays(shape, size, stride, dtype, taken):
    x = jax.random.normal(jax.random.key(0), (2, *shape))
    network = Conv(WINOGRAD_CHANNELS, size, stride, dtype=dtype)
    variables = network.init(jax.random.key(1), x)
    program = jax.jit(network.apply).lower(variables, x)
    assert (program.as_text().count("stablehlo.dot_general") == 16) == taken
    if taken:
        expected = directly(x, np.asarray(variables["params"]["kernel"]))
        np.testing.assert_allclose(program.compile()(variables, x), expected, atol=1e-4)


def test_gradients_are_the_usual_ones():
    x = jax.random.normal(jax.random.key(0), (2, 8, 8, WINOGRAD_CHANNELS))
    network = Conv(WINOGRAD_CHANNELS)
    variables = network.init(jax.random.key(1), x)

    def loss(variables, x):
        return (network.apply(variables, x) ** 2).sum()

    def expected(variables, x):
        y = jax.lax.conv_general_dilated(
            x, variables["params"]["kernel"], (1, 1), [(1, 1), (1, 1)],
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )  # fmt: skip
        return ((y + variables["params"]["bias"]) ** 2).sum()

    found = jax.jit(jax.grad(loss, (0, 1)))(variables, x)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4),
        found,
        jax.grad(expected, (0, 1))(variables, x),
    )
