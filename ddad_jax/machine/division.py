"""Arrays that several devices share: how each is divided, and how it is gathered when used."""

import math
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array, PyTree, Shaped

# The mesh's axis over which variables are divided.
AXIS = "model"
# Arrays of fewer elements are whole on each device: gathering them costs more than keeping them.
SMALLEST_DIVIDED = 1024


def divided_spec(shape: tuple[int, ...], devices: int) -> PartitionSpec:
    """Returns how a variable of this shape is divided: along its longest axis that can be."""
    divisible = [axis for axis, length in enumerate(shape) if length % devices == 0]
    if devices == 1 or math.prod(shape) < SMALLEST_DIVIDED or not divisible:
        return PartitionSpec()
    longest = max(divisible, key=lambda axis: shape[axis])
    return PartitionSpec(*[None] * longest, AXIS)


def lay_out(array: Shaped[ArrayLike, "..."], sharding: NamedSharding) -> Array:
    """Places an array on devices; if some belong to other processes, these must do the same.

    Args:
      array: the whole array, the same in all processes.
      sharding: how to divide it.
    """
    if sharding.is_fully_addressable:
        return jax.device_put(array, sharding)
    whole = np.asarray(array)
    return jax.make_array_from_callback(whole.shape, sharding, lambda index: whole[index])


def dividing_devices() -> int:
    """Returns the number of devices over which XLA divides what is being traced."""
    return math.prod(_dividing_axes().values())


def sharing_devices() -> int:
    """Returns the number of devices that share variables in what is being traced."""
    return _dividing_axes().get(AXIS, 1)


def waits_for_gathers() -> bool:
    """Whether the devices of what is being traced do nothing else while they gather.

    This holds for TPUs other than v5e: only there all-gathers run in parallel with computation.
    """
    device = jax.sharding.get_abstract_mesh().abstract_device
    return device is not None and device.platform == "tpu" and device.device_kind != "TPU v5 lite"


def _dividing_axes() -> dict[str, int]:
    """Returns the axes of the mesh over which XLA divides what is being traced, and their sizes."""
    mesh = jax.sharding.get_abstract_mesh()
    types = zip(mesh.axis_names, mesh.axis_types, strict=True)
    return {name: mesh.shape[name] for name, kind in types if kind == AxisType.Auto}


def gather(variables: PyTree, dtype: DTypeLike) -> PyTree:
    """Gathers variables, so that each device that shares them has them whole.

    Their gradients are divided again as soon as they are computed.

    Args:
      variables: of a network.
      dtype: of its computation; arrays of two or more axes are converted to it before.
    """
    devices = sharing_devices()

    def one(leaf: Any) -> Any:
        spec = divided_spec(leaf.shape, devices)
        if spec == PartitionSpec():
            return leaf
        if leaf.ndim > 1:
            leaf = leaf.astype(dtype)
        return _whole(leaf, spec)

    return jax.tree.map(one, variables)


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def _whole(leaf: Shaped[Array, "*shape"], spec: PartitionSpec) -> Shaped[Array, "*shape"]:
    # Without the first constraint, XLA would gather before it converts the type.
    divided = jax.lax.with_sharding_constraint(leaf, spec)
    return jax.lax.with_sharding_constraint(divided, PartitionSpec())


def _forward(leaf: Array, spec: PartitionSpec) -> tuple[Array, None]:
    return _whole(leaf, spec), None


def _backward(spec: PartitionSpec, _: None, gradient: Array) -> tuple[Array]:
    return (jax.lax.with_sharding_constraint(gradient, spec),)


_whole.defvjp(_forward, _backward)
