"""Arrays that several devices share: how each is divided, and gathered when it is used."""

import math
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.extend.core import Primitive
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array, PyTree, Shaped

# The mesh's axis over which variables are divided.
AXIS = "model"
# Arrays of fewer elements are whole on each device: to gather them costs more than to keep them.
SMALLEST_DIVIDED = 1024


def divided_spec(shape: tuple[int, ...], devices: int) -> PartitionSpec:
    """How a variable of this shape is divided: along its longest axis that the devices divide."""
    divisible = [axis for axis, length in enumerate(shape) if length % devices == 0]
    if devices == 1 or math.prod(shape) < SMALLEST_DIVIDED or not divisible:
        return PartitionSpec()
    longest = max(divisible, key=lambda axis: shape[axis])
    return PartitionSpec(*[None] * longest, AXIS)


def lay_out(array: Shaped[ArrayLike, "..."], sharding: NamedSharding) -> Array:
    """An array laid over devices; where some are other processes', these do the same.

    Args:
      array: whole, and the same in all processes.
      sharding: how it is divided.
    """
    if sharding.is_fully_addressable:
        return jax.device_put(array, sharding)
    whole = np.asarray(array)
    return jax.make_array_from_callback(whole.shape, sharding, lambda index: whole[index])


def keep_divided(primitive: Primitive, *_: Any, **__: Any) -> bool:
    """A policy of `jax.checkpoint`: keeps for the gradient all but what `gather` makes."""
    return primitive.name not in ("custom_vjp_call", "sharding_constraint")


def gather(variables: PyTree, dtype: DTypeLike) -> PyTree:
    """Variables whole on each device, where this is traced for devices that share them.

    Their gradients are divided again as soon as they are made. Within `jax.checkpoint` by
    `keep_divided` what is gathered is not kept for the gradient, but gathered once more.

    Args:
      variables: of a network.
      dtype: of its computation; kernels, which each layer would bring to it, are gathered in it.
    """
    mesh = jax.sharding.get_abstract_mesh()
    types = dict(zip(mesh.axis_names, mesh.axis_types, strict=True))
    if types.get(AXIS) != AxisType.Auto or mesh.shape[AXIS] == 1:
        return variables

    def one(leaf: Any) -> Any:
        spec = divided_spec(leaf.shape, mesh.shape[AXIS])
        if spec == PartitionSpec():
            return leaf
        if leaf.ndim > 1:
            leaf = leaf.astype(dtype)
        return _whole(leaf, spec)

    return jax.tree.map(one, variables)


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def _whole(leaf: Shaped[Array, "*shape"], spec: PartitionSpec) -> Shaped[Array, "*shape"]:
    # The division is said first, or the gathering would be done before the type is changed.
    divided = jax.lax.with_sharding_constraint(leaf, spec)
    return jax.lax.with_sharding_constraint(divided, PartitionSpec())


def _forward(leaf: Array, spec: PartitionSpec) -> tuple[Array, None]:
    return _whole(leaf, spec), None


def _backward(spec: PartitionSpec, _: None, gradient: Array) -> tuple[Array]:
    return (jax.lax.with_sharding_constraint(gradient, spec),)


_whole.defvjp(_forward, _backward)
