"""A network's variables: making them, applying them, counting them."""

from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import Any

import flax.linen as nn
import jax
from clu.parameter_overview import count_parameters
from jax.typing import DTypeLike
from jaxtyping import Array, Key, PyTree

from ddad_jax.machine.division import gather, sharing_devices, waits_for_gathers


def initialise(network: nn.Module, key: Key[Array, ""]) -> Mapping[str, Any]:
    """Draws new variables {"params": …, …}, in one compiled program.

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
    """Applies a network to inputs and returns its output; variables do not change.

    If devices share the variables, each layer gathers its own when it runs, frees them afterwards,
    and gathers them again for its gradient. No convolution or matrix product is computed more often
    than on one device.

    Args:
      network: any network of `ddad_jax.models`.
      variables: as `initialise` makes them.
      *inputs: arguments of the method.
      method: the method's name; None: `__call__`.
    """
    if sharing_devices() == 1:
        return network.apply(variables, *inputs, method=method)
    gathered = _gather_outside_layers(variables, network.dtype)
    with nn.intercept_methods(partial(_run_layer, network.dtype)):
        return network.apply(gathered, *inputs, method=method)


def _is_layer(variables: Mapping[str, Any]) -> bool:
    """Whether a module's own parameters are those of a convolution or matrix product."""
    return "kernel" in variables and not isinstance(variables["kernel"], Mapping)


def _gather_outside_layers(variables: PyTree, dtype: DTypeLike) -> PyTree:
    """Gathers a network's variables, except for those of its layers."""
    if not isinstance(variables, Mapping):
        return gather(variables, dtype)
    return {
        name: part
        if isinstance(part, Mapping) and _is_layer(part)
        else _gather_outside_layers(part, dtype)
        for name, part in variables.items()
    }


def _run_layer(
    dtype: DTypeLike,
    call: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    context: nn.module.InterceptorContext,
) -> Any:
    """Runs a module's method (`flax.linen.intercept_methods`); a layer gathers its variables."""
    module = context.module
    # The layer that is run below has no parent module.
    inner = isinstance(module.parent, nn.Module) and context.method_name == "__call__"
    if not inner or not _is_layer(module.variables.get("params", {})):
        return call(*args, **kwargs)
    layer = module.clone(parent=None)

    # The gradient needs the layer's input and variables, never its result: within `jax.checkpoint`
    # no convolution or product is computed again. The arguments are arrays.
    @jax.checkpoint
    def run(variables: Mapping[str, Any], *args: Any) -> Any:
        if waits_for_gathers():
            # Gathering before the input is there saves no time, but holds memory for longer.
            after = jax.lax.stop_gradient(args)
            variables, _ = jax.lax.optimization_barrier((variables, after))
        return layer.apply(gather(variables, dtype), *args, **kwargs)

    return run(module.variables, *args)


@cache
def abstract_variables(network: nn.Module) -> Mapping[str, Any]:
    """Returns shapes and types of the variables, without making them."""
    return jax.eval_shape(network.init, jax.random.key(0), *network.example_inputs())


def parameter_count(network: nn.Module) -> int:
    """Returns how many numbers are trained: the size of "params"."""
    return int(count_parameters(abstract_variables(network).get("params", {})))
