"""The dynamic noise level: how far an image is from normal decides how much to undo.

D3AD, section 3.2; docs/method.md, "The noise level". The range of the training images' distances
between pooled features is cut into bins. The bin that an image's distance falls into sets its T̂.
"""

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ddad_jax.detection.nearest import (
    Metric,
    nearest_distances,
    nearest_distances_over_devices,
)

BinSpacing = Literal["equidistant", "quantile"]

POOLED_SIZE = 16


def pool_features(feature: Float[Array, "b h w c"]) -> Float[Array, "b d"]:
    """Average-pools one stage to at most 16×16 and flattens it: the φ(x) that the k-NN compares."""
    b, h, w, c = feature.shape
    rows, columns = min(POOLED_SIZE, h), min(POOLED_SIZE, w)
    weights_h, weights_w = _pooling(h, rows), _pooling(w, columns)
    pooled = jnp.einsum("ih,bhwc,jw->bijc", weights_h, feature, weights_w)
    return pooled.reshape(b, rows * columns * c)


def _pooling(size: int, cells: int) -> Float[np.ndarray, "cells size"]:
    """Returns averaging weights; a cell covers all pixels that it overlaps, as in PyTorch."""
    weights = np.zeros((cells, size), np.float32)
    for cell in range(cells):
        start, stop = cell * size // cells, -(-(cell + 1) * size // cells)
        weights[cell, start:stop] = 1.0 / (stop - start)
    return weights


def mean_distance(
    queries: Float[Array, "q d"],
    bank: Float[Array, "n d"],
    num_neighbours: int,
    metric: Metric = "l1",
    own_index: Int[Array, " q"] | None = None,
    axes: tuple[str, ...] | None = None,
) -> Float[Array, " q"]:
    """Returns d(x), the mean distance to the K nearest rows of the bank, or to all if it has fewer.

    Args:
      queries: pooled features.
      bank: pooled features of the training images.
      num_neighbours: K, 20 in the paper.
      metric: "l1" in the paper.
      own_index: see `nearest_distances`; for leave-one-out distances of training images.
      axes: the mesh axes that queries and bank are divided over, if they are.
    """
    if axes is None:
        nearest = nearest_distances(queries, bank, num_neighbours, metric, own_index)
    else:
        nearest = nearest_distances_over_devices(queries, bank, num_neighbours, metric, axes)
    found = jnp.isfinite(nearest)
    return jnp.where(found, nearest, 0.0).sum(axis=1) / found.sum(axis=1)


def bin_edges(
    distances: Float[Array, " n"], num_bins: int, spacing: BinSpacing
) -> Float[Array, " edges"]:
    """Returns the `num_bins` + 1 edges of the bins that divide the range of training distances."""
    if spacing == "equidistant":
        return jnp.linspace(distances.min(), distances.max(), num_bins + 1)
    return jnp.quantile(distances, jnp.linspace(0.0, 1.0, num_bins + 1))


def dynamic_noise_level(
    distance: Float[Array, " b"],
    edges: Float[Array, " edges"],
    *,
    max_noise_level: int,
    min_bin: int,
    num_steps: int,
) -> Int[Array, " b"]:
    """Returns T̂ of each image: b/B · T_max for its bin b, rounded to a multiple of `num_steps`.

    Args:
      distance: d(x).
      edges: the B + 1 bin edges.
      max_noise_level: T_max, 80 in the paper.
      min_bin: the smallest bin used, 2 in the paper; the largest is B.
      num_steps: T̂ is rounded to a multiple of it, halves up, and is at least that.
    """
    num_bins = edges.shape[0] - 1
    below = (edges <= distance[:, None]).sum(axis=1)
    index = jnp.clip(below, min_bin, num_bins)
    return rounded_noise_level(index * max_noise_level, num_bins, num_steps)


def rounded_noise_level(
    numerator: Int[Array, " b"], denominator: int, num_steps: int
) -> Int[Array, " b"]:
    """Returns the multiple of `num_steps` nearest to a fraction; halves go up, 0 to `num_steps`."""
    unit = denominator * num_steps
    return jnp.maximum((2 * numerator + unit) // (2 * unit), 1) * num_steps


def random_noise_level(
    key: jax.Array, batch_size: int, *, max_noise_level: int, num_bins: int, num_steps: int
) -> Int[Array, " b"]:
    """Draws T̂ for adaptation: every bin from 1 to B is equally likely."""
    index = jax.random.randint(key, (batch_size,), 1, num_bins + 1)
    return rounded_noise_level(index * max_noise_level, num_bins, num_steps)
