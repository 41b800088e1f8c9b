"""The device mesh, and how arrays are laid over it."""

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

AXES = ("category", "data", "model")


def make_mesh(data: int = -1) -> Mesh:
    """A mesh over all devices with the axes `category`, `data` and `model`.

    Args:
      data: devices that share a batch; -1 takes all there are.
    """
    devices = jax.devices()
    data = len(devices) if data == -1 else data
    return Mesh(np.array(devices[:data]).reshape(1, data, 1), AXES)


def replicate(mesh: Mesh, tree: PyTree) -> PyTree:
    """Copies a pytree onto every device of the mesh."""
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))


def shard_batch(mesh: Mesh, batch: PyTree) -> PyTree:
    """Splits the leading axis of every array over `data`; its length must be a multiple of it."""
    return jax.device_put(batch, NamedSharding(mesh, PartitionSpec("data")))
