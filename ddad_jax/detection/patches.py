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


def compared(
    described: Float[Array, "*shape p"], scale: Float[Array, " p"], settings: Settings
) -> Float[Array, "*shape _q"]:
    """What `describe` gives, as patches are compared and as the bank holds them.

    Args:
      described: of any patches.
      scale: what each value is multiplied by, so that every stage counts alike. Of a single stage
        it is one number, of which the cosine knows nothing.
      settings: say whether the stages stay joined or are averaged, and what is compared; for the
        cosine the vectors have length 1.
    """
    found = described * scale
    if settings.patch_layers == "averaged":
        count = len(settings.patch_stages)
        found = found.reshape(*found.shape[:-1], count, found.shape[-1] // count).mean(-2)
    if settings.patch_metric == "cosine":
        found = found / jnp.maximum(jnp.linalg.norm(found, axis=-1, keepdims=True), 1e-12)
    return found


def distance_map(
    patches: Float[Array, "b h w p"],
    bank: Float[Array, "m p"],
    settings: Settings,
    axes: tuple[str, ...] | None = None,
) -> Float[Array, "b h w"]:
    """How far each patch is from the nearest row of the bank.

    Args:
      patches: as `compared` makes them.
      bank: the same of normal patches.
      settings: whether it is the Euclidean distance, or 1 - the cosine of the angle. Of vectors of
        length 1 that is half the square of the former.
      axes: the mesh axes that patches and bank are divided over, if they are.
    """
    b, h, w, p = patches.shape
    nearest = nearest_distances
    if axes is not None:
        nearest = partial(nearest_distances_over_devices, axes=axes)
    distances = nearest(patches.reshape(b * h * w, p), bank, 1, "l2").reshape(b, h, w)
    return distances**2 / 2.0 if settings.patch_metric == "cosine" else distances


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
