"""Exact k-nearest-neighbour distances in blocks of bounded memory."""

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

Metric = Literal["l1", "l2"]


def nearest_distances(
    queries: Float[Array, "q d"],
    bank: Float[Array, "n d"],
    num_neighbours: int,
    metric: Metric = "l1",
    own_index: Int[Array, " q"] | None = None,
    block_size: int = 1024,
) -> Float[Array, "q k"]:
    """Distances from each query to its k nearest rows of the bank, nearest first.

    The bank is read in blocks of `block_size` rows, each merged into the nearest so far, so that
    beyond the bank only one block and q × block_size distances are held.

    Args:
      queries: feature vectors.
      bank: the stored feature vectors, n ≥ k.
      num_neighbours: k.
      metric: "l1", the sum of absolute differences, or "l2", the Euclidean distance.
      own_index: the row of the bank that each query is itself, left out of its neighbours
        (leave-one-out); none when the queries are not in the bank.
      block_size: rows of the bank compared at a time.
    """
    rows = bank.shape[0]
    block_size = min(block_size, rows)
    blocks = -(-rows // block_size)

    def merge(nearest, block):
        # The last block is moved back to end with the bank; rows seen before are ignored.
        start = jnp.minimum(block * block_size, rows - block_size)
        index = start + jnp.arange(block_size)
        distance = _pairwise(queries, jax.lax.dynamic_slice_in_dim(bank, start, block_size), metric)
        ignored = jnp.broadcast_to(index < block * block_size, distance.shape)
        if own_index is not None:
            ignored = ignored | (index[None, :] == own_index[:, None])
        distance = jnp.where(ignored, jnp.inf, distance)
        candidates = jnp.concatenate([nearest, distance], axis=1)
        return -jax.lax.top_k(-candidates, num_neighbours)[0], None

    start = jnp.full((queries.shape[0], num_neighbours), jnp.inf, queries.dtype)
    nearest, _ = jax.lax.scan(merge, start, jnp.arange(blocks))
    return nearest


def _pairwise(
    queries: Float[Array, "q d"], rows: Float[Array, "m d"], metric: Metric
) -> Float[Array, "q m"]:
    if metric == "l1":
        # One query at a time: the differences to a whole block never exist at once.
        return jax.lax.map(lambda query: jnp.abs(rows - query).sum(-1), queries)
    products = jnp.matmul(queries, rows.T, precision=jax.lax.Precision.HIGHEST)
    squares = (queries**2).sum(-1)[:, None] + (rows**2).sum(-1)[None, :] - 2.0 * products
    return jnp.sqrt(jnp.maximum(squares, 0.0))
