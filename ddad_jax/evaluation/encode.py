"""Encodes pictures as data URIs, small enough for hundreds of images on one page."""

import base64

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image
from scipy import ndimage

from ddad_jax.data.sample import ANOMALOUS
from ddad_jax.evaluation.drawing import COLOURS, MASK_COLOUR, encoded, heat_share
from ddad_jax.evaluation.predictions import Predictions

# Longest side in pixels; 500 images of this size fit into 60 MB.
MAX_SIDE = 384
QUALITY = 80
# Shares of twice the threshold at which the heat map begins to show, and hides the image.
CLEAR, OPAQUE, OPACITIES = 0.15, 0.7, 30
# Palette of the ground truth: nothing, the defect, its outline.
MASK_OPACITY = bytes((0, 90, 255))


def encode_row(predictions: Predictions, row: int) -> dict[str, str | None]:
    """Encodes an image's pictures: image, reconstruction, and heat map and truth to lay over it.

    The heat map is clear well below the threshold and opaque well above it. Ground truth and
    reconstruction are None if there is none.
    """
    p = predictions
    known = p.labels[row] == ANOMALOUS and p.has_mask[row]
    return {
        "image": _photograph(p.images[row]),
        "reconstruction": None
        if p.reconstructions is None
        else _photograph(p.reconstructions[row]),
        "heat": _heat(p.shown_map(row), p.threshold),
        "truth": _truth(p.shown_mask(row)) if known else None,
    }


def _photograph(pixels: UInt8[np.ndarray, "h w 3"]) -> str:
    return _uri(_shrunk(Image.fromarray(pixels)), "webp", quality=QUALITY)


def _heat(heat: Float[np.ndarray, "h w"], threshold: float) -> str:
    share = heat_share(heat, threshold)
    opacity = np.clip((share - CLEAR) / (OPAQUE - CLEAR), 0.0, 1.0)
    # Opacity has few levels, since it is stored without loss.
    opacity = (np.round(opacity * OPACITIES) * (255 / OPACITIES)).astype(np.uint8)
    colour = COLOURS[(share * 255).astype(np.uint8)]
    image = Image.fromarray(np.dstack([colour, opacity]))
    return _uri(_shrunk(image), "webp", quality=QUALITY)


def _truth(mask: Bool[np.ndarray, "h w"]) -> str:
    small = np.asarray(_shrunk(Image.fromarray(mask.astype(np.uint8) * 255))) >= 128
    levels = small.astype(np.uint8) + (small & ~ndimage.binary_erosion(small))
    image = Image.fromarray(levels).convert("P")
    image.putpalette(MASK_COLOUR * 3)
    return _uri(image, "png", transparency=MASK_OPACITY, optimize=True)


def _shrunk(image: Image.Image) -> Image.Image:
    image.thumbnail((MAX_SIDE, MAX_SIDE), Image.Resampling.BILINEAR)
    return image


def _uri(image: Image.Image, kind: str, **options: object) -> str:
    content = base64.b64encode(encoded(image, kind, **options)).decode("ascii")
    return f"data:image/{kind};base64,{content}"
