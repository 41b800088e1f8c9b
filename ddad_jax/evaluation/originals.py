"""Brings predictions to the resolution of the original images, whatever their sizes."""

import tempfile
from dataclasses import replace

import numpy as np
from jaxtyping import Float, Shaped, UInt8
from PIL import Image

from ddad_jax.data.resize import restore_map, scale_map
from ddad_jax.data.sample import Source
from ddad_jax.evaluation.predictions import Predictions
from ddad_jax.evaluation.saturation import regions_of

# Longest side in pixels at which an image is shown.
SHOWN_SIDE = 1024


def at_original_size(predictions: Predictions, source: Source, resize: str) -> Predictions:
    """Returns predictions with maps, masks and pictures scaled back onto the original images.

    Scores and decisions stay those of the maps at the networks' resolution.

    Args:
      predictions: of whole images, with maps and pictures at the networks' resolution.
      source: of the same images.
      resize: how the images were made square.
    """
    p = predictions
    maps, masks, images, reconstructions = [], [], [], []
    for row, sample in enumerate(p.samples):
        image = source.read_image(sample)
        mask = source.read_mask(sample)
        shown = for_showing(image)
        if p.reconstructions is not None:
            colours = np.moveaxis(p.reconstructions[row].astype(np.float32), -1, 0)
            height, width = shown.shape[:2]
            restored = np.dstack([restore_map(each, height, width, resize) for each in colours])
            reconstructions.append(as_picture(restored, height, width))
        height, width = image.shape[:2]
        maps.append(on_disk(restore_map(p.maps[row], height, width, resize)))
        masks.append(np.broadcast_to(np.False_, image.shape[:2]) if mask is None else mask)
        images.append(shown)
    return replace(
        p,
        maps=maps,
        masks=masks,
        regions=regions_of(source, p.samples),
        images=images,
        reconstructions=reconstructions or None,
    )


def for_showing(image: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "_ _ 3"]:
    """Scales an image down, if it is larger, to `SHOWN_SIDE`."""
    small = Image.fromarray(image)
    small.thumbnail((SHOWN_SIDE, SHOWN_SIDE), Image.Resampling.BILINEAR)
    return np.asarray(small)


def as_picture(
    values: Float[np.ndarray, "h w 3"], height: int, width: int
) -> UInt8[np.ndarray, "{height} {width} 3"]:
    """Scales RGB values of 0 to 255 to a size, and rounds them."""
    colours = [scale_map(values[..., c], height, width) for c in range(3)]
    return np.rint(np.dstack(colours)).clip(0, 255).astype(np.uint8)


def on_disk(values: Shaped[np.ndarray, "*shape"]) -> Shaped[np.ndarray, "*shape"]:
    """Maps the values from an unnamed temporary file, so that they take no memory."""
    with tempfile.TemporaryFile() as file:
        file.write(np.ascontiguousarray(values).data)
        return np.memmap(file, values.dtype, "r", shape=values.shape)
