"""Makes images of any size square, and scales maps of the square back onto the image.

- "stretch": both sides are scaled to the square, as published;
- "pad": the longer side is scaled to the square, the rest repeats the edge on both sides;
- "crop": the shorter side is scaled to the square, the ends of the longer side are cut off.

Masks are scaled the same way, padded with background, and binarised at 0.5 afterwards.
"""

from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image


def fit_image(
    image: UInt8[np.ndarray, "h w 3"], size: int, mode: str
) -> UInt8[np.ndarray, "size size 3"]:
    """Scales an image to `size` pixels square, bilinearly and without aliasing."""
    left, top, width, height = _placement(image.shape[1], image.shape[0], size, mode)
    # Width first: Pillow rounds after each axis, and its versions differ in which comes first.
    narrow = Image.fromarray(image).resize((width, image.shape[0]), Image.Resampling.BILINEAR)
    scaled = np.asarray(narrow.resize((width, height), Image.Resampling.BILINEAR))
    return _place(scaled, left, top, size, mode="edge")


def fit_mask(mask: Bool[np.ndarray, "h w"], size: int, mode: str) -> Bool[np.ndarray, "size size"]:
    """Scales a mask as `fit_image` scales its image; True where at least half is defective."""
    return mask_share(mask, size, mode) >= 0.5


def mask_share(
    mask: Bool[np.ndarray, "h w"], size: int, mode: str
) -> Float[np.ndarray, "size size"]:
    """Returns the share of each pixel, in [0, 1], that is defective once the mask is scaled."""
    left, top, width, height = _placement(mask.shape[1], mask.shape[0], size, mode)
    share = Image.fromarray(mask.astype(np.float32))
    scaled = np.asarray(share.resize((width, height), Image.Resampling.BILINEAR))
    return _place(scaled, left, top, size, mode="constant")


def restore_map(
    anomaly_map: Float[np.ndarray, "size size"], height: int, width: int, mode: str
) -> Float[np.ndarray, "height width"]:
    """Scales a map of the square back onto its original image.

    What "crop" cut off was never seen and gets the map's smallest value.
    """
    size = anomaly_map.shape[0]
    left, top, scaled_width, scaled_height = _placement(width, height, size, mode)
    onto = np.full((scaled_height, scaled_width), anomaly_map.min(), np.float32)
    rows, columns = _overlap(top, scaled_height, size), _overlap(left, scaled_width, size)
    onto[rows[1], columns[1]] = anomaly_map[rows[0], columns[0]]
    return scale_map(onto, height, width)


def scale_map(
    values: Float[np.ndarray, "h w"], height: int, width: int
) -> Float[np.ndarray, "{height} {width}"]:
    """Scales a map bilinearly, without aliasing where it shrinks."""
    if values.shape == (height, width):
        return values
    scaled = Image.fromarray(values.astype(np.float32, copy=False))
    return np.asarray(scaled.resize((width, height), Image.Resampling.BILINEAR))


def _placement(width: int, height: int, size: int, mode: str) -> tuple[int, int, int, int]:
    """Returns the scaled image's place in the square: left, top (below 0 if cut), width, height."""
    if mode == "stretch":
        return 0, 0, size, size
    scale = size / (max(width, height) if mode == "pad" else min(width, height))
    scaled_width, scaled_height = (max(1, round(side * scale)) for side in (width, height))
    return (size - scaled_width) // 2, (size - scaled_height) // 2, scaled_width, scaled_height


def _overlap(start: int, length: int, size: int) -> tuple[slice, slice]:
    """Returns what square and scaled image share along an axis, as a slice of each."""
    low, high = max(start, 0), min(start + length, size)
    return slice(low, high), slice(low - start, high - start)


def _place(
    scaled: np.ndarray, left: int, top: int, size: int, mode: Literal["constant", "edge"]
) -> np.ndarray:
    height, width = scaled.shape[:2]
    rows, columns = _overlap(top, height, size), _overlap(left, width, size)
    margins = [
        (rows[0].start, size - rows[0].stop),
        (columns[0].start, size - columns[0].stop),
    ] + [(0, 0)] * (scaled.ndim - 2)
    return np.pad(scaled[rows[1], columns[1]], margins, mode=mode)
