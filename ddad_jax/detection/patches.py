"""Patch evidence: how far each patch's features are from the nearest normal patch.

The nearest-patch idea is PatchCore's (Roth et al., CVPR 2022, arXiv 2106.08265).
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from ddad_jax.detection.nearest import nearest_distances


def neighbourhood_mean(feature: Float[Array, "b h w c"], side: int) -> Float[Array, "b h w c"]:
    """Each position averaged with its neighbours in a `side`×`side` square, inside the image."""
    if side == 1:
        return feature
    window = (1, side, side, 1)
    total = jax.lax.reduce_window(feature, 0.0, jax.lax.add, window, (1, 1, 1, 1), "SAME")
    ones = jnp.ones((1, *feature.shape[1:3], 1), feature.dtype)
    return total / jax.lax.reduce_window(ones, 0.0, jax.lax.add, window, (1, 1, 1, 1), "SAME")


def describe(stages: Sequence[Float[Array, "b _h _w _c"]]) -> Float[Array, "b h w p"]:
    """One vector a patch: each stage averaged over 3×3, brought to the first's grid, joined."""
    height, width = stages[0].shape[1:3]
    pooled = [neighbourhood_mean(stage, 3) for stage in stages]
    resized = [
        jax.image.resize(stage, (stage.shape[0], height, width, stage.shape[3]), "linear")
        for stage in pooled
    ]
    return jnp.concatenate(resized, axis=-1)


def stage_norms(stages: Sequence[Float[Array, "b _h _w _c"]]) -> Float[Array, "b p"]:
    """For each value of `describe`, the root mean square norm of its stage over the image."""
    norms = [jnp.sqrt((stage**2).sum(-1).mean((1, 2))) for stage in stages]
    wide = [
        jnp.broadcast_to(norm[:, None], (norm.shape[0], stage.shape[-1]))
        for norm, stage in zip(norms, stages, strict=True)
    ]
    return jnp.concatenate(wide, axis=-1)


def distance_map(
    described: Float[Array, "b h w p"], bank: Float[Array, "m p"]
) -> Float[Array, "b h w"]:
    """Euclidean distance of each patch to the nearest row of the bank."""
    b, h, w, p = described.shape
    distances = nearest_distances(described.reshape(b * h * w, p), bank, 1, "l2", block_size=4096)
    return distances.reshape(b, h, w)


def coreset(points: Float[Array, "n p"], size: int, key: Key[Array, ""]) -> Int[Array, " size"]:
    """Indices of `size` points that cover all of them: greedy farthest-first traversal.

    Each point taken is the one farthest from those taken before (Gonzalez 1985), measured
    after a Gaussian random projection to at most 64 dimensions.

    Args:
      points: the candidates, n ≥ size.
      size: how many to take.
      key: decides the projection and the first point.
    """
    projection_key, first_key = jax.random.split(key)
    width = min(64, points.shape[1])
    projected = points @ (jax.random.normal(projection_key, (points.shape[1], width)) / width**0.5)
    squares = (projected**2).sum(-1)

    def take(carry, _):
        nearest, index = carry
        chosen = projected[index]
        nearest = jnp.minimum(nearest, squares - 2.0 * projected @ chosen + squares[index])
        return (nearest, nearest.argmax()), index

    first = jax.random.randint(first_key, (), 0, points.shape[0])
    start = (jnp.full(points.shape[0], jnp.inf), first)
    _, indices = jax.lax.scan(take, start, length=size)
    return indices
