"""Anomaly maps: where an image differs from its reconstruction, in latent and feature space."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int


def latent_map(
    latent: Float[Array, "b h w c"], reconstruction: Float[Array, "b h w c"], size: int
) -> Float[Array, "b size size"]:
    """Returns |z - ẑ|, averaged over channels and resized to the image (D3AD, section 3.3)."""
    return resize(jnp.abs(latent - reconstruction).mean(-1), size)


def feature_map(
    features: Sequence[Float[Array, "b _h _w _c"]],
    reconstructed: Sequence[Float[Array, "b _h _w _c"]],
    size: int,
) -> Float[Array, "b size size"]:
    """Returns the sum over stages of 1 - cos(φ_j(x), φ_j(x̂)), each stage resized to the image.

    Args:
      features: the image's stages to compare; the paper leaves out the first stage.
      reconstructed: the same stages of the reconstruction.
      size: height and width of the image, in pixels.
    """
    pairs = zip(features, reconstructed, strict=True)
    total = sum(resize(1.0 - cosine_similarity(a, b), size) for a, b in pairs)
    assert isinstance(total, Array)  # There is at least one stage.
    return total


def cosine_similarity(
    a: Float[Array, "*shape c"], b: Float[Array, "*shape c"]
) -> Float[Array, "*shape"]:
    """Returns the cosine of the angle between vectors on the last axis; 0 where one is zero."""
    norms = jnp.linalg.norm(a, axis=-1) * jnp.linalg.norm(b, axis=-1)
    return (a * b).sum(-1) / jnp.maximum(norms, 1e-8)


def resize(maps: Float[Array, "b h w"], size: int) -> Float[Array, "b size size"]:
    """Resizes maps to `size` × `size`, bilinearly and with aligned corners."""
    rows, columns = _interpolation(maps.shape[1], size), _interpolation(maps.shape[2], size)
    return jnp.einsum("ih,bhw,jw->bij", rows, maps, columns)


def _interpolation(source: int, target: int) -> Float[np.ndarray, "target source"]:
    position = np.linspace(0.0, source - 1.0, target)
    left = np.minimum(np.floor(position).astype(int), max(source - 2, 0))
    fraction = position - left
    weights = np.zeros((target, source), np.float32)
    weights[np.arange(target), left] = 1.0 - fraction
    if source > 1:
        weights[np.arange(target), left + 1] = fraction
    return weights


def gaussian_blur(maps: Float[Array, "b h w"], sigma: float) -> Float[Array, "b h w"]:
    """Blurs with a Gaussian of 2·round(4σ) + 1 taps; reflects the map about its outermost pixels.

    Args:
      maps: the maps.
      sigma: standard deviation in pixels; 4 in the paper (33 taps); 0 changes nothing.
    """
    if sigma == 0:
        return maps
    rows, columns = _blurring(maps.shape[1], sigma), _blurring(maps.shape[2], sigma)
    return jnp.einsum("ih,bhw,jw->bij", rows, maps, columns)


def _blurring(size: int, sigma: float) -> Float[np.ndarray, "size size"]:
    radius = round(4 * sigma)
    taps = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    taps /= taps.sum()
    # np.pad repeats the reflection where the image is smaller than the radius.
    source = np.pad(np.arange(size), radius, mode="reflect")
    weights = np.zeros((size, size), np.float32)
    for row in range(size):
        np.add.at(weights[row], source[row : row + 2 * radius + 1], taps)
    return weights


def largest_around(maps: Float[Array, "b h w"]) -> Float[Array, "b h w"]:
    """Returns, for each position, the maximum over it and its eight neighbours."""
    return jax.lax.reduce_window(maps, -jnp.inf, jax.lax.max, (1, 3, 3), (1, 1, 1), "SAME")


def pixels_of_share(pixels: int, share: float) -> int:
    """Returns how many pixels the share amounts to, at least 1."""
    return max(round(share * pixels), 1)


def image_scores(maps: Float[Array, "b h w"], share: float) -> Float[Array, " b"]:
    """Returns the mean of the highest `share` of each map's pixels; with share 0, the maximum."""
    if share == 0:
        return maps.max(axis=(1, 2))
    b, h, w = maps.shape
    return jax.lax.top_k(maps.reshape(b, h * w), pixels_of_share(h * w, share))[0].mean(axis=1)


def normalise(
    maps: Float[Array, "b h w"],
    noise_level: Int[Array, " b"],
    location: Float[Array, "2 _h _w"],
    scale: Float[Array, "2"],
) -> Float[Array, "b h w"]:
    """Returns (m - location) / scale; the paper uses minimum and range over the test set.

    Args:
      maps: the maps.
      noise_level: T̂ of each image.
      location: the value that becomes 0, for each pixel or for all: at T̂ = 0, and its change per
        timestep of T̂.
      scale: the distance from the location that becomes 1, in the same two parts.
    """
    level = noise_level[:, None, None]
    return (maps - location[0] - level * location[1]) / (scale[0] + level * scale[1])
