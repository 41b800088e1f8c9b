"""Patch evidence: how far each patch's features are from the nearest normal patch.

The nearest-patch idea is PatchCore's (Roth et al., CVPR 2022, arXiv 2106.08265).
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from ddad_jax.detection.nearest import nearest_distances
from ddad_jax.machine.platforms import is_for_any


def neighbourhood_mean(feature: Float[Array, "b h w c"], side: int) -> Float[Array, "b h w c"]:
    """Each position averaged with its neighbours in a `side`×`side` square, inside the image."""
    if side == 1:
        return feature
    if is_for_any():
        rows, columns = (_window_means(length, side) for length in feature.shape[1:3])
        return jnp.einsum("ih,bhwc,jw->bijc", rows, feature, columns)
    window = (1, side, side, 1)
    total = jax.lax.reduce_window(feature, 0.0, jax.lax.add, window, (1, 1, 1, 1), "SAME")
    ones = jnp.ones((1, *feature.shape[1:3], 1), feature.dtype)
    return total / jax.lax.reduce_window(ones, 0.0, jax.lax.add, window, (1, 1, 1, 1), "SAME")


def _window_means(length: int, side: int) -> Float[np.ndarray, "{length} {length}"]:
    """Rows of averaging weights, over a window about each position."""
    place = np.arange(length)
    inside = (np.abs(place - place[:, None]) <= side // 2).astype(np.float32)
    return inside / inside.sum(1, keepdims=True)


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
    distances = nearest_distances(described.reshape(b * h * w, p), bank, 1, "l2")
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
    first = jax.random.randint(first_key, (), 0, points.shape[0])
    nearest = jnp.full(points.shape[0], jnp.inf)
    return _farthest_first(_project(points, projection_key), nearest, first, size)


def extend_coreset(
    bank: Float[Array, "m p"], points: Float[Array, "n p"], size: int, key: Key[Array, ""]
) -> Int[Array, " size"]:
    """Indices of `size` points that a bank lacks most: `coreset` that goes on where it ended.

    Args:
      bank: what is there, at least one row.
      points: the candidates, n ≥ size.
      size: how many to take.
      key: decides the projection.
    """
    own, projected = (_project(each, key) for each in (bank, points))
    nearest = nearest_distances(projected, own, 1, "l2")[:, 0]
    return _farthest_first(projected, nearest**2, nearest.argmax(), size)


def _project(points: Float[Array, "n p"], key: Key[Array, ""]) -> Float[Array, "n q"]:
    width = min(64, points.shape[1])
    return points @ (jax.random.normal(key, (points.shape[1], width)) / width**0.5)


def _farthest_first(
    points: Float[Array, "n q"],
    nearest: Float[Array, " n"],
    first: Int[Array, ""],
    size: int,
) -> Int[Array, " size"]:
    """Points taken, the first given and each other farthest from all before.

    `nearest` are squares of the distance to what was there before any is taken.
    """
    squares = (points**2).sum(-1)

    def take(carry, _):
        nearest, index = carry
        chosen = points[index]
        nearest = jnp.minimum(nearest, squares - 2.0 * points @ chosen + squares[index])
        return (nearest, nearest.argmax()), index

    return jax.lax.scan(take, (nearest, first), length=size)[1]
