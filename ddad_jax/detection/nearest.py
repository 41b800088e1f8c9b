"""Exact k-nearest-neighbour distances in blocks of bounded memory."""

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

Metric = Literal["l1", "l2"]
# For more queries at a time, the distances to one block of the bank would need too much memory.
MOST_QUERIES = 16384


def nearest_distances(
    queries: Float[Array, "q d"],
    bank: Float[Array, "n d"],
    num_neighbours: int,
    metric: Metric = "l1",
    own_index: Int[Array, " q"] | None = None,
    block_size: int = 2048,
) -> Float[Array, "q k"]:
    """Returns the distances from each query to its k nearest rows of the bank, nearest first.

    The bank is read in blocks of `block_size` rows. Each is merged into the nearest so far, so that
    besides the bank only one block and q × block_size distances are in memory. A row with a NaN is
    never a neighbour; if fewer than k are left, the last distances are infinite.

    Args:
      queries: feature vectors.
      bank: the stored feature vectors.
      num_neighbours: k.
      metric: "l1", the sum of absolute differences, or "l2", the Euclidean distance.
      own_index: for each query, its own row in the bank, which is left out of its neighbours
        (leave-one-out); None if the queries are not in the bank.
      block_size: rows of the bank compared at a time.
    """
    rows = bank.shape[0]
    block_size = min(block_size, rows)
    blocks = -(-rows // block_size)

    def merge(nearest, block):
        # The last block is moved back so that it ends with the bank; rows seen before are ignored.
        start = jnp.minimum(block * block_size, rows - block_size)
        index = start + jnp.arange(block_size)
        distance = _pairwise(queries, jax.lax.dynamic_slice_in_dim(bank, start, block_size), metric)
        ignored = (index < block * block_size) | jnp.isnan(distance)
        if own_index is not None:
            ignored = ignored | (index[None, :] == own_index[:, None])
        found = _smallest(jnp.where(ignored, jnp.inf, distance), num_neighbours)
        return _smallest(jnp.concatenate([nearest, found], axis=1), num_neighbours), None

    start = jnp.full((queries.shape[0], num_neighbours), jnp.inf, queries.dtype)
    nearest, _ = jax.lax.scan(merge, start, jnp.arange(blocks))
    return jnp.sqrt(jnp.maximum(nearest, 0.0)) if metric == "l2" else nearest


def nearest_distances_over_devices(
    queries: Float[Array, "q d"],
    bank: Float[Array, "n d"],
    num_neighbours: int,
    metric: Metric,
    axes: tuple[str, ...],
) -> Float[Array, "q k"]:
    """Computes `nearest_distances` inside `shard_map`, with the bank's rows divided over devices.

    Each device searches its rows for all queries; each query's results are merged on its device.

    Args:
      queries: this device's.
      bank: this device's rows.
      num_neighbours: k.
      metric: see `nearest_distances`.
      axes: the mesh axes that queries and bank are divided over.
    """

    def to_own_rows(some: Float[Array, "_ d"]) -> Float[Array, "_ k"]:
        return nearest_distances(some, bank, num_neighbours, metric)

    everyone = jax.lax.all_gather(queries, axes, tiled=True)
    nearest = in_parts(to_own_rows, everyone, MOST_QUERIES)
    by_owner = nearest.reshape(-1, queries.shape[0], num_neighbours)
    mine = jax.lax.all_to_all(by_owner, axes, split_axis=0, concat_axis=0)
    candidates = jnp.moveaxis(mine, 0, 1).reshape(queries.shape[0], -1)
    return _smallest(candidates, num_neighbours)


def in_parts(
    function: Callable[[Float[Array, "_ d"]], Float[Array, "_ k"]],
    queries: Float[Array, "q d"],
    most: int,
) -> Float[Array, "q k"]:
    """Applies a function to queries, at most `most` of them at a time."""
    count = queries.shape[0]
    parts = -(-count // most)
    if parts == 1:
        return function(queries)
    size = -(-count // parts)
    padded = jnp.pad(queries, ((0, parts * size - count), (0, 0)))
    found = jax.lax.map(function, padded.reshape(parts, size, -1))
    return found.reshape(parts * size, -1)[:count]


def _smallest(distances: Float[Array, "q m"], count: int) -> Float[Array, "q _k"]:
    """Returns the `count` smallest values of each row, or all if it has fewer."""
    if count == 1:
        # On a CPU this joins the pass that computes the distances; `top_k` would sort them.
        return distances.min(axis=1, keepdims=True)
    return -jax.lax.top_k(-distances, min(count, distances.shape[1]))[0]


def _pairwise(
    queries: Float[Array, "q d"], rows: Float[Array, "m d"], metric: Metric
) -> Float[Array, "q m"]:
    """Returns sums of absolute differences, or squared Euclidean distances."""
    if metric == "l1":
        # One query at a time: the differences of all queries are never in memory at once.
        return jax.lax.map(lambda query: jnp.abs(rows - query).sum(-1), queries)
    products = jnp.matmul(queries, rows.T, precision=jax.lax.Precision.HIGHEST)
    return (queries**2).sum(-1)[:, None] + (rows**2).sum(-1)[None, :] - 2.0 * products
