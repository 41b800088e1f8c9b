"""Attention in the form that the platform computes fastest."""

import math
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ddad_jax.machine.division import dividing_devices
from ddad_jax.machine.platforms import by_platform

# Weights of attention, one of each pair of positions, that are computed at a time: a CPU's caches
# hold so many, and a TPU's memory on the chip.
CACHED_WEIGHTS = {"cpu": 1 << 20, "tpu": 1 << 21}


def attend(
    query: Float[Array, "b n heads d"],
    key: Float[Array, "b n heads d"],
    value: Float[Array, "b n heads d"],
) -> Float[Array, "b n heads d"]:
    """softmax(QKᵀ / √d) V of each head (arXiv 1706.03762, equation 1)."""
    in_parts = {name: partial(attend_in_parts, most=most) for name, most in CACHED_WEIGHTS.items()}
    return by_platform(query, key, value, default=jax.nn.dot_product_attention, **in_parts)


def attend_in_parts(
    query: Float[Array, "b n heads d"],
    key: Float[Array, "b n heads d"],
    value: Float[Array, "b n heads d"],
    *,
    most: int = CACHED_WEIGHTS["cpu"],
) -> Float[Array, "b n heads d"]:
    """`jax.nn.dot_product_attention`, a head and a block of queries at a time.

    Images stay together: they may be divided over devices. The weights are computed again for the
    gradient, which takes less time than to store and to read them.

    Args:
      query: what asks.
      key: what is asked.
      value: what is mixed.
      most: weights that a device computes at a time.
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
    # Of an exported program the number of images is open; there a CPU takes them one by one, and a
    # TPU all of them.
    images = 1 if jax.export.is_symbolic_dim(b) else -(-b // dividing_devices())
    size = max(min(most // (images * n), n), 1)
    count = -(-n // size)
    size = -(-n // count)
    # The last block may hold positions that are none; what they attend to is left out.
    padded = jnp.pad(query, [(0, 0), (0, count * size - n), (0, 0), (0, 0)])
    blocks = jnp.moveaxis(padded.reshape(b, count, size, heads, d), (3, 1), (0, 1))
    attended = jax.lax.map(one_head, (blocks, *(jnp.moveaxis(x, 2, 0) for x in (key, value))))
    return jnp.moveaxis(attended, (0, 1), (3, 1)).reshape(b, count * size, heads, d)[:, :n]
