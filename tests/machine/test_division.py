import jax
import jax.numpy as jnp
import pytest
from jax.extend.core import jaxprs_in_params
from jax.sharding import AbstractMesh

from ddad_jax.machine.division import gather, keep_divided
from ddad_jax.training.mesh import AXES, over_group

WEIGHTS = {"first": jnp.ones((64, 64)), "second": jnp.ones((64, 64)), "bias": jnp.ones(64)}


def loss(weights):
    weights = gather(weights, jnp.bfloat16)
    hidden = jnp.tanh(jnp.ones((8, 64), jnp.bfloat16) @ weights["first"])
    return (hidden @ weights["second"] + weights["bias"]).astype(jnp.float32).mean()


def gathered(program, inside=()):
    """Of each array that is gathered: its type, and the primitives that it is gathered within."""
    for equation in program.eqns:
        if equation.primitive.name == "custom_vjp_call":
            yield equation.outvars[0].aval, inside
        for inner in jaxprs_in_params(equation.params):
            yield from gathered(inner, (*inside, equation.primitive.name))


def program_of(function, devices):
    mesh = AbstractMesh((1, 1, devices), AXES)
    group = jax.tree.map(lambda leaf: leaf[None], WEIGHTS)
    return jax.make_jaxpr(over_group(function, mesh))(group).jaxpr


def test_what_is_divided_is_gathered_in_the_type_of_the_computation():
    found = [aval for aval, _ in gathered(program_of(loss, 8))]
    assert [(aval.shape, aval.dtype.name) for aval in found] == [((64, 64), "bfloat16")] * 2


def test_what_the_gradient_needs_is_gathered_again():
    """The first layer's weights are needed no more: nothing before them asks for a gradient."""
    step = jax.grad(jax.checkpoint(loss, policy=keep_divided))
    places = [inside for _, inside in gathered(program_of(step, 8))]
    assert sum("remat2" in inside for inside in places) == 1
    assert sum("remat2" not in inside for inside in places) == 2


@pytest.mark.parametrize("function", [loss, jax.grad(loss)])
def test_one_device_gathers_nothing(function):
    assert not list(gathered(program_of(function, 1)))
