"""Validation: the objective on held-out data, always with the same draws."""

from collections.abc import Callable, Mapping

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import PyTree

from ddad_jax.training import mesh as meshes
from ddad_jax.training.state import Loss


def make_validation(
    loss: Loss,
    frozen: PyTree,
    arrays: Mapping[str, np.ndarray],
    batch_size: int,
    *,
    seed: int,
    mesh: Mesh,
) -> Callable[[PyTree], float]:
    """From parameters to their mean loss over the held-out samples.

    Args:
      loss: the objective.
      frozen: variables that it reads, on the mesh already.
      arrays: the samples, along the first axis of each array.
      batch_size: samples at a time; the last batch is filled up with the first samples.
      seed: of the objective's draws, which are the same each time.
      mesh: devices that share a batch.
    """
    count = len(next(iter(arrays.values())))
    rows = np.resize(np.arange(count), (-(-count // batch_size), batch_size))
    keys = jax.random.split(jax.random.key(seed), len(rows))
    value = jax.jit(lambda params, frozen, batch, key: loss(params, frozen, batch, key)[0])

    def validate(params: PyTree) -> float:
        values = [
            value(
                params,
                frozen,
                meshes.shard_batch(mesh, {name: array[chosen] for name, array in arrays.items()}),
                key,
            )
            for chosen, key in zip(rows, keys, strict=True)
        ]
        return float(np.mean(values))

    return validate
