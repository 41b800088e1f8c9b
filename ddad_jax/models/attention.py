"""Attention, in the form that the platform computes fastest."""

import math
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ddad_jax.machine.division import dividing_devices
from ddad_jax.machine.platforms import by_platform

# How many attention weights, one per pair of positions, are computed at a time: as many as fit into
# a CPU's caches, or into a TPU's on-chip memory.
CACHED_WEIGHTS = {"cpu": 1 << 20, "tpu": 1 << 21}


def attend(
    query: Float[Array, "b n heads d"],
    key: Float[Array, "b n heads d"],
    value: Float[Array, "b n heads d"],
) -> Float[Array, "b n heads d"]:
    """Computes softmax(QKᵀ / √d) V for each head (arXiv 1706.03762, equation 1)."""
    in_parts = {name: partial(attend_in_parts, most=most) for name, most in CACHED_WEIGHTS.items()}
    return by_platform(query, key, value, default=jax.nn.dot_product_attention, **in_parts)


def attend_in_parts(
    query: Float[Array, "b n heads d"],
    key: Float[Array, "b n heads d"],
    value: Float[Array, "b n heads d"],
    *,
    most: int = CACHED_WEIGHTS["cpu"],
) -> Float[Array, "b n heads d"]:
    """Computes `jax.nn.dot_product_attention` for one head and one block of queries at a time.

    All images are computed together, since they may be divided over devices. For the gradient the
    weights are computed again, which takes less time than to store and read them.

    Args:
      query: the queries Q.
      key: the keys K.
      value: the values V.
      most: attention weights that a device computes at a time, about.
    """

    @partial(jax.checkpoint, prevent_cse=False)
    def attend(queries, key, value):
        similarity = jnp.einsum("bqd,bkd->bqk", queries, key, preferred_element_type=jnp.float32)
        weights = jax.nn.softmax(similarity / math.sqrt(key.shape[-1])).astype(value.dtype)
        return jnp.einsum("bqk,bkd->bqd", weights, value)

    def one_head(head):
        blocks, key, value = head
        return jax.lax.map(lambda queries: attend(queries, key, value), blocks)

    b, n, heads, d = query.shape
    # In an exported program the number of images is open: a CPU takes images one at a time, and a
    # TPU takes them all.
    images = 1 if jax.export.is_symbolic_dim(b) else -(-b // dividing_devices())
    size = max(min(most // (images * n), n), 1)
    count = -(-n // size)
    size = -(-n // count)
    # The last block may be padded; results for the padding are dropped.
    padded = jnp.pad(query, [(0, 0), (0, count * size - n), (0, 0), (0, 0)])
    blocks = jnp.moveaxis(padded.reshape(b, count, size, heads, d), (3, 1), (0, 1))
    attended = jax.lax.map(one_head, (blocks, *(jnp.moveaxis(x, 2, 0) for x in (key, value))))
    return jnp.moveaxis(attended, (0, 1), (3, 1)).reshape(b, count * size, heads, d)[:, :n]
