"""Draws what a detector says about one photograph."""

import io

import matplotlib
import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from ddad_jax.data.resize import scale_map

# Perceptually uniform, and readable without red-green vision.
COLOURS = (matplotlib.colormaps["inferno"](np.linspace(0, 1, 256))[:, :3] * 255).astype(np.uint8)
MASK_COLOUR = (0, 200, 255)
REGION_COLOUR = (60, 255, 60)
GAP, CAPTION = 8, 34


def decision_name(decision: bool) -> str:
    """Returns the word for a decision."""
    return "anomalous" if decision else "normal"


def panels(
    image: UInt8[np.ndarray, "h w 3"],
    reconstruction: UInt8[np.ndarray, "h w 3"] | None,
    heat: Float[np.ndarray, "h w"],
    threshold: float,
    *,
    defective: Bool[np.ndarray, "h w"],
    truth: Bool[np.ndarray, "h w"] | None = None,
    decision: bool,
    said: str,
) -> Image.Image:
    """Draws what is known about a photograph, side by side.

    Args:
      image: as it is shown.
      reconstruction: how it would look without its defect, if that is known.
      heat: the anomaly map.
      threshold: of the score.
      defective: the pixels of its regions, outlined in the heat map.
      truth: the pixels of the true defect, if they are known.
      decision: whether it is called anomalous; the word is written above.
      said: the text after that word.
    """
    shown = [("image", image)]
    if truth is not None:
        shown.append(("ground truth", _tinted(image, truth)))
    if reconstruction is not None:
        shown.append(("reconstruction", reconstruction))
    heated = heat_overlay(image, heat, threshold)
    heated[defective & ~ndimage.binary_erosion(defective, border_value=0)] = REGION_COLOUR
    shown.append(("heat map", heated))

    height, width = image.shape[:2]
    canvas = Image.new(
        "RGB", (len(shown) * (width + GAP) + GAP, height + CAPTION + 2 * GAP), "white"
    )
    draw = ImageDraw.Draw(canvas)
    font = ImageFont.load_default(13)
    colour = "#b00020" if decision else "#1b5e20"
    draw.text((GAP, 2), f"{decision_name(decision)}: {said}", colour, font)
    for column, (name, pixels) in enumerate(shown):
        left = GAP + column * (width + GAP)
        draw.text((left, 20), name, "#555555", font)
        canvas.paste(Image.fromarray(pixels), (left, CAPTION + GAP))
    return canvas


def shrunk_map(
    heat: Float[np.ndarray, "h w"], height: int, width: int
) -> Float[np.ndarray, "{height} {width}"]:
    """Scales a map to the size at which its photograph is shown; narrow peaks keep their height."""
    step = -(-max(heat.shape) // max(height, width))
    return scale_map(ndimage.maximum_filter(heat, step) if step > 1 else heat, height, width)


def shrunk_mask(
    mask: Bool[np.ndarray, "h w"], height: int, width: int
) -> Bool[np.ndarray, "{height} {width}"]:
    """Scales a mask likewise: True for every pixel that holds some of the defect."""
    return scale_map(mask.astype(np.float32), height, width) > 0


def heat_overlay(
    image: UInt8[np.ndarray, "h w 3"], heat: Float[np.ndarray, "h w"], threshold: float
) -> UInt8[np.ndarray, "h w 3"]:
    """Draws the map over the greyed image: darkest at 0, brightest at twice the threshold."""
    share = heat_share(heat, threshold)
    colour = COLOURS[(share * 255).astype(np.uint8)].astype(np.float32)
    grey = image.mean(-1, keepdims=True).astype(np.float32)
    opacity = 0.25 + 0.6 * share[..., None]
    return (opacity * colour + (1.0 - opacity) * grey).astype(np.uint8)


def heat_share(heat: Float[np.ndarray, "h w"], threshold: float) -> Float[np.ndarray, "h w"]:
    """Scales the map to [0, 1]: 0 stays 0, the threshold becomes 0.5, twice the threshold 1."""
    least = np.finfo(np.float32).tiny
    return np.clip(heat / (2.0 * (least if threshold < least else threshold)), 0.0, 1.0)


def _tinted(image: UInt8[np.ndarray, "h w 3"], mask: np.ndarray) -> UInt8[np.ndarray, "h w 3"]:
    """Returns the image with its defect tinted and everything else darkened."""
    tinted = image.astype(np.float32)
    tinted[~mask] *= 0.45
    tinted[mask] = 0.65 * tinted[mask] + 0.35 * np.array(MASK_COLOUR)
    return tinted.astype(np.uint8)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    """Encodes a picture as the content of a file.

    Args:
      image: the picture.
      kind: the format, such as "png".
      options: as for `PIL.Image.Image.save`.
    """
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()
