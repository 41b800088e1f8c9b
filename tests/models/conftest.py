"""What tests of networks share."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddad_jax import models, pretrained


@pytest.fixture(scope="session")
def nhwc():
    """Function: PyTorch's NCHW to our layout, in float32."""
    return lambda x: jnp.moveaxis(jnp.asarray(x, jnp.float32), 1, -1)


@pytest.fixture(scope="session")
def relative_error():
    """Function: the largest deviation in units of the reference's largest value."""
    return lambda ours, reference: np.abs(ours - reference).max() / np.abs(reference).max()


@pytest.fixture(scope="session")
def golden_variables(golden_weights):
    """Function: a network and its name -> the variables that its golden tensors were made with."""
    return lambda network, name: pretrained.from_state_dict(golden_weights(name), network, name)


@pytest.fixture(scope="session")
def random_variables():
    """Function: network -> variables without the zeros that fresh ones hold."""

    def draw(network):
        random = np.random.default_rng(0)
        return jax.tree.map(
            lambda x: jnp.asarray(random.normal(scale=0.1, size=x.shape), x.dtype),
            models.abstract_variables(network),
        )

    return draw


@pytest.fixture(scope="session")
def apply():
    """Function: a method of a network, compiled, on given variables and inputs."""

    def run(network, variables, *inputs, method="__call__"):
        return jax.jit(lambda v, *x: network.apply(v, *x, method=method))(variables, *inputs)

    return run
