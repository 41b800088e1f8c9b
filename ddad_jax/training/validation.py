"""Validation: the objective on held-out data, always with the same random numbers."""

from collections.abc import Callable, Mapping, Sequence

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, PyTree, UInt32

from ddad_jax.machine import processes
from ddad_jax.training import mesh as meshes
from ddad_jax.training.state import Loss


def make_validation(
    loss: Loss,
    frozen: PyTree,
    heldout: Sequence[Mapping[str, np.ndarray]],
    batch_size: int,
    *,
    seeds: Sequence[int],
    mesh: Mesh,
) -> Callable[[PyTree], Float[np.ndarray, " group"]]:
    """Makes a function from a group's parameters to each training's mean loss on held-out samples.

    Args:
      loss: the objective.
      frozen: the frozen variables of the group, already on the mesh.
      heldout: for each training its samples, along the first axis of each array.
      batch_size: samples at a time; a training's last batch is filled up with its first samples.
      seeds: for each training, the seed of its random numbers, which are the same each time.
      mesh: see `mesh.make_mesh`.
    """
    rows_of = [_rows(arrays, batch_size) for arrays in heldout]
    rounds = max(len(rows) for rows in rows_of)
    keys_of = [jax.random.key_data(jax.random.split(jax.random.key(s), rounds)) for s in seeds]

    def value(
        params: PyTree, frozen: PyTree, batch: PyTree, key_data: UInt32[Array, " words"]
    ) -> Float[Array, ""]:
        return loss(params, frozen, batch, jax.random.wrap_key_data(key_data))[0]

    each = meshes.shardings(mesh, jax.ShapeDtypeStruct((1,), np.float32), meshes.whole_spec)
    values = jax.jit(meshes.over_group(value, mesh), out_shardings=each)
    compiled: jax.stages.Compiled | None = None

    def validate(params: PyTree) -> Float[np.ndarray, " group"]:
        nonlocal compiled
        found = []
        for number in range(rounds):
            # A training with fewer batches than another goes through its own again.
            batches = [
                {name: array[rows[number % len(rows)]] for name, array in arrays.items()}
                for rows, arrays in zip(rows_of, heldout, strict=True)
            ]
            batch = meshes.place(mesh, batches, meshes.batch_spec)
            keys = meshes.place(mesh, [keys[number] for keys in keys_of], meshes.whole_spec)
            if compiled is None:
                compiled = processes.compile_together(values.lower(params, frozen, batch, keys))
            found.append(compiled(params, frozen, batch, keys))
        table = np.stack(meshes.local_to_host(found))
        return np.array([table[: len(rows), i].mean() for i, rows in enumerate(rows_of)])

    return validate


def _rows(arrays: Mapping[str, np.ndarray], batch_size: int) -> np.ndarray:
    count = len(next(iter(arrays.values())))
    return np.resize(np.arange(count), (-(-count // batch_size), batch_size))
