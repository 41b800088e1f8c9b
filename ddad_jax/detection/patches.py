"""Patch evidence: how far each patch's features are from the nearest normal patch.

The nearest-patch idea is PatchCore's (Roth et al., CVPR 2022, arXiv 2106.08265).
"""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from ddad_jax.detection.detector import Settings
from ddad_jax.detection.nearest import (
    MOST_QUERIES,
    in_parts,
    nearest_distances,
    nearest_distances_over_devices,
)
from ddad_jax.machine.platforms import is_for_any


def neighbourhood_mean(feature: Float[Array, "b h w c"], side: int) -> Float[Array, "b h w c"]:
    """Averages each position over the `side`×`side` square around it, as far as it is inside."""
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
    """Returns rows of averaging weights, each over a window around its position."""
    place = np.arange(length)
    offset = place - place[:, None]
    inside = ((-((side - 1) // 2) <= offset) & (offset <= side // 2)).astype(np.float32)
    return inside / inside.sum(1, keepdims=True)


def describe(stages: Sequence[Float[Array, "b _h _w _c"]]) -> Float[Array, "b h w p"]:
    """Returns a vector per patch: stages averaged over 3×3, resized to the first one, joined."""
    height, width = stages[0].shape[1:3]
    pooled = [neighbourhood_mean(stage, 3) for stage in stages]
    resized = [
        jax.image.resize(stage, (stage.shape[0], height, width, stage.shape[3]), "linear")
        for stage in pooled
    ]
    return jnp.concatenate(resized, axis=-1)


def stage_norms(stages: Sequence[Float[Array, "b _h _w _c"]]) -> Float[Array, "b p"]:
    """Returns, for each value of `describe`, its stage's root mean square norm over the image."""
    norms = [jnp.sqrt((stage**2).sum(-1).mean((1, 2))) for stage in stages]
    wide = [
        jnp.broadcast_to(norm[:, None], (norm.shape[0], stage.shape[-1]))
        for norm, stage in zip(norms, stages, strict=True)
    ]
    return jnp.concatenate(wide, axis=-1)


def compared(
    described: Float[Array, "*shape p"], scale: Float[Array, " p"], settings: Settings
) -> Float[Array, "*shape _q"]:
    """Turns what `describe` returns into the vectors that are compared and stored in the bank.

    Args:
      described: any patches, as `describe` makes them.
      scale: factor for each value, so that every stage has the same weight. For a single stage all
        factors are equal, and the cosine does not depend on them.
      settings: whether the stages stay joined or are averaged, and the metric. For the cosine the
        vectors are brought to length 1.
    """
    found = described * scale
    if settings.patch_layers == "averaged":
        count = len(settings.patch_stages)
        found = found.reshape(*found.shape[:-1], count, found.shape[-1] // count).mean(-2)
    if settings.patch_metric == "cosine":
        found = directions(found)
    return found


def directions(vectors: Float[Array, "*shape q"]) -> Float[Array, "*shape q"]:
    """Brings vectors to length 1; a vector of zeros stays."""
    return vectors / jnp.maximum(jnp.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)


def distance_map(
    patches: Float[Array, "b h w p"],
    bank: Float[Array, "m p"],
    settings: Settings,
    axes: tuple[str, ...] | None = None,
) -> Float[Array, "b h w"]:
    """Returns how far each patch is from the nearest row of the bank.

    Args:
      patches: as `compared` makes them.
      bank: normal patches, made in the same way.
      settings: whether the distance is Euclidean, or 1 - the cosine of the angle; for vectors of
        length 1 the latter is half the square of the former.
      axes: the mesh axes that patches and bank are divided over, if they are.
    """
    b, h, w, p = patches.shape
    nearest = nearest_distances
    if axes is not None:
        nearest = partial(nearest_distances_over_devices, axes=axes)
    distances = nearest(patches.reshape(b * h * w, p), bank, 1, "l2").reshape(b, h, w)
    return distances**2 / 2.0 if settings.patch_metric == "cosine" else distances


def coreset(points: Float[Array, "n p"], size: int, key: Key[Array, ""]) -> Int[Array, " size"]:
    """Returns the indices of `size` points that cover all of them, by farthest-first traversal.

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
    """Returns the indices of the `size` points that a bank lacks most, continuing `coreset`.

    Args:
      bank: the points that are there, at least one.
      points: the candidates, n ≥ size.
      size: how many to take.
      key: decides the projection.
    """
    own, projected = (_project(each, key) for each in (bank, points))

    def nearest_of(some: Float[Array, "_ q"]) -> Float[Array, "_ 1"]:
        return nearest_distances(some, own, 1, "l2")

    nearest = in_parts(nearest_of, projected, MOST_QUERIES)[:, 0]
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
    """Returns the indices of `size` points: `first`, then always the one farthest from all before.

    `nearest` holds each point's squared distance to what was there before the first is taken.
    """
    squares = (points**2).sum(-1)

    def take(carry, _):
        nearest, index = carry
        chosen = points[index]
        nearest = jnp.minimum(nearest, squares - 2.0 * points @ chosen + squares[index])
        return (nearest, nearest.argmax()), index

    return jax.lax.scan(take, (nearest, first), length=size)[1]
