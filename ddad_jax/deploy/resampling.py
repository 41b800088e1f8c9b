"""Resizes photographs to squares, and maps back to photographs, as part of a program.

This does with arrays what `data.resize` does with Pillow, so that an exported program needs
neither. Images are equal to the bit, maps up to rounding. Pillow weighs source pixels around an
output pixel by a triangle as wide as the scale, but at least one pixel, and rounds the weights of
images to fractions of `ONE`. Each step is a matrix product along one side.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt8

# The value of 1 among Pillow's weights of 8-bit images, and its root: with weights up to the root,
# float32 holds weighted sums of pixels without rounding.
ONE = 1 << 22
ROOT = 1 << 11
# Their product is `ONE`. They keep dividends within 32 bits, for sides up to 4096 √size.
DIGITS = (64, 64, 32, 32)
# Keeps products of whole numbers exact, also on accelerators, whose default for float32 is less.
EXACT = jax.lax.Precision.HIGHEST


# Pixels: a whole number, or a size that an exported program leaves open.
Size = Any


@dataclass(frozen=True)
class Placement:
    """Where a scaled image lies in the square, along one side.

    Attributes:
      start: its first pixel in the square; negative if the image is cut off.
      length: its length in pixels.
    """

    start: Int[Array, ""]
    length: Int[Array, ""]


def fit_images(images: UInt8[Array, "b h w 3"], size: int, mode: str) -> UInt8[Array, "b s s 3"]:
    """Does what `data.resize.fit_image` does, for each image of a batch."""
    vertical, horizontal = _placements(images, size, mode)
    columns = _image_weights(images.shape[2], horizontal, size)
    rows = _image_weights(images.shape[1], vertical, size)
    across = _weigh(jnp.swapaxes(images, 2, 3), columns)
    down = _weigh(jnp.transpose(across, (0, 2, 3, 1)), rows)
    return jnp.transpose(down, (0, 3, 2, 1))


def restore_maps(
    maps: Float[Array, "b size size *channels"], like: UInt8[Array, "b h w 3"], mode: str
) -> Float[Array, "b h w *channels"]:
    """Does what `data.resize.restore_map` does, for each map of a batch, to the images' size."""
    vertical, horizontal = _placements(like, maps.shape[1], mode)
    rows = _map_weights(maps.shape[1], vertical, like.shape[1])
    columns = _map_weights(maps.shape[2], horizontal, like.shape[2])
    lowest = maps.min((1, 2), keepdims=True)
    product = "ih,bhw,jw->bij" if maps.ndim == 3 else "ih,bhwc,jw->bijc"
    return lowest + jnp.einsum(product, rows, maps - lowest, columns, precision=EXACT)


def _placements(
    images: UInt8[Array, "b h w 3"], size: int, mode: str
) -> tuple[Placement, Placement]:
    """Returns the placements along the rows and along the columns."""
    height, width = (jnp.asarray(side, jnp.int32) for side in images.shape[1:3])
    if mode == "stretch":
        whole = Placement(jnp.int32(0), jnp.int32(size))
        return whole, whole
    fitted = jnp.maximum(height, width) if mode == "pad" else jnp.minimum(height, width)
    return _placement(height, fitted, size), _placement(width, fitted, size)


def _placement(side: Int[Array, ""], fitted: Int[Array, ""], size: int) -> Placement:
    """Returns the placement of a side, at the scale at which the side `fitted` fills the square."""
    doubled = 2 * side * size + fitted
    rounded, rest = _divide(doubled, 2 * fitted)
    # Halves are rounded to even numbers, as in Python.
    to_even = (rest == 0) & (_divide(rounded, jnp.int32(2))[1] == 1)
    length = jnp.maximum(rounded - to_even, 1)
    return Placement(_divide(size + length, jnp.int32(2))[0] - length, length)


def _triangle(
    source: Int[Array, " s"],
    target: Int[Array, " t"],
    source_length: Int[Array, ""],
    target_length: Int[Array, ""],
) -> Int[Array, "t s"]:
    """Returns source pixels' weights for each target pixel, up to a factor, as whole numbers."""
    apart = (2 * source + 1) * target_length - (2 * target[:, None] + 1) * source_length
    return jnp.maximum(2 * jnp.maximum(source_length, target_length) - jnp.abs(apart), 0)


def _image_weights(side: Size, to: Placement, size: int) -> Int[Array, "size side"]:
    """Returns the weights of an image's pixels for each pixel of the square, times `ONE`."""
    pixels = jax.lax.iota(jnp.int32, side)
    # Beside the scaled image, its edge is repeated.
    places = jnp.clip(jnp.arange(size, dtype=jnp.int32) - to.start, 0, to.length - 1)
    counts = _triangle(pixels, places, jnp.asarray(side, jnp.int32), to.length)
    total = counts.sum(1, keepdims=True)
    # counts / total in fixed point, by long division, since ONE · counts exceeds 32 bits.
    fraction, rest = jnp.zeros_like(counts), counts
    for digit in DIGITS:
        quotient, rest = _divide(digit * rest, total)
        fraction = digit * fraction + quotient
    return fraction + (2 * rest >= total)


def _divide(
    a: Int[Array, "*shape"], b: Int[Array, "*_shape"]
) -> tuple[Int[Array, "*shape"], Int[Array, "*shape"]]:
    """Returns quotient and remainder of whole numbers, none of them negative."""
    b = jnp.broadcast_to(b, a.shape)
    quotient = jax.lax.div(a, b)
    # Some runtimes, such as OpenVINO, divide whole numbers in float32 and may be off by one.
    rest = a - quotient * b
    off = (rest >= b).astype(jnp.int32) - (rest < 0)
    return quotient + off, rest - off * b


def _weigh(pixels: UInt8[Array, "b i j s"], weights: Int[Array, "t s"]) -> UInt8[Array, "b i j t"]:
    """Returns weighted sums of pixels along the last axis, rounded as in Pillow."""
    high = _divide(weights + ROOT // 2, jnp.int32(ROOT))[0]
    low = weights - ROOT * high
    values = pixels.astype(jnp.float32)
    coarse, fine = (
        jnp.matmul(values, part.astype(jnp.float32).T, precision=EXACT).astype(jnp.int32)
        for part in (high, low)
    )
    total = ROOT * coarse + fine
    return _divide(total + ONE // 2, jnp.int32(ONE))[0].astype(jnp.uint8)


def _map_weights(size: int, of: Placement, side: Size) -> Float[Array, "side size"]:
    """Returns the weights of the square's pixels for each pixel of the photograph."""
    # Pixels that were cut off count in the total; no weight reaches farther than the square's size.
    # For a pixel that sees nothing of the square, all weights are 0.
    places = jnp.arange(-size, 2 * size, dtype=jnp.int32) - of.start
    pixels = jax.lax.iota(jnp.int32, side)
    counts = _triangle(places, pixels, of.length, jnp.asarray(side, jnp.int32))
    counts = jnp.where((places >= 0) & (places < of.length), counts, 0).astype(jnp.float32)
    return counts[:, size : 2 * size] / jnp.maximum(counts.sum(1, keepdims=True), 1.0)
