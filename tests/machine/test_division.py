from collections import Counter

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AbstractMesh, PartitionSpec

from ddad_jax.machine.division import gather
from ddad_jax.training.mesh import AXES, over_group
from tests.jaxprs import equations, gathered

WEIGHTS = {"first": jnp.ones((64, 64)), "second": jnp.ones((64, 64)), "bias": jnp.ones(64)}


def loss(weights):
    weights = gather(weights, jnp.bfloat16)
    hidden = jnp.tanh(jnp.ones((8, 64), jnp.bfloat16) @ weights["first"])
    return (hidden @ weights["second"] + weights["bias"]).astype(jnp.float32).mean()


def program_of(function, devices):
    mesh = AbstractMesh((1, 1, devices), AXES)
    group = jax.tree.map(lambda leaf: leaf[None], WEIGHTS)
    return jax.make_jaxpr(over_group(function, mesh))(group).jaxpr


def test_what_is_divided_is_gathered_in_the_type_of_the_computation():
    found = [aval for aval, _ in gathered(program_of(loss, 8))]
    assert [(aval.shape, aval.dtype.name) for aval in found] == [((64, 64), "bfloat16")] * 2


def test_a_gradient_is_divided_as_soon_as_it_is_made():
    specs = [
        equation.params["sharding"].spec
        for equation, _ in equations(program_of(jax.grad(loss), 8))
        if equation.primitive.name == "sharding_constraint"
    ]
    whole, divided = PartitionSpec(), PartitionSpec("model")
    # Each weight is divided before it is gathered, too.
    assert Counter(specs) == {whole: 2, divided: 4}


@pytest.mark.parametrize("function", [loss, jax.grad(loss)])
def test_one_device_gathers_nothing(function):
    assert not gathered(program_of(function, 1))
