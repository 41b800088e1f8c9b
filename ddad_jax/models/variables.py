"""A network's variables: making them, applying them, counting them."""

from collections.abc import Mapping
from functools import cache
from typing import Any

import flax.linen as nn
import jax
from clu.parameter_overview import count_parameters
from jaxtyping import Array, Key

from ddad_jax.machine.division import gather


def initialise(network: nn.Module, key: Key[Array, ""]) -> Mapping[str, Any]:
    """Freshly drawn variables {"params": …, …}, made in one compiled program.

    Args:
      network: any network of `ddad_jax.models`.
      key: source of the random weights.
    """
    inputs = network.example_inputs()

    def init(key: Key[Array, ""]) -> Mapping[str, Any]:
        return network.init(key, *(jax.numpy.zeros(x.shape, x.dtype) for x in inputs))

    return jax.jit(init)(key)


def apply(
    network: nn.Module, variables: Mapping[str, Any], *inputs: Any, method: str | None = None
) -> Any:
    """What a network makes of inputs, its variables staying as they are.

    Args:
      network: any network of `ddad_jax.models`.
      variables: as `initialise` makes them; those that devices share are gathered here.
      *inputs: as the method takes them.
      method: its name; None: that of a call.
    """
    return network.apply(gather(variables, network.dtype), *inputs, method=method)


@cache
def abstract_variables(network: nn.Module) -> Mapping[str, Any]:
    """Shapes and types of the variables, without making them."""
    return jax.eval_shape(network.init, jax.random.key(0), *network.example_inputs())


def parameter_count(network: nn.Module) -> int:
    """How many numbers are trained: the size of "params"."""
    return int(count_parameters(abstract_variables(network).get("params", {})))
