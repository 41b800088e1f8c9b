"""Measures how well reconstructions restore the known original of a planted defect."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, UInt8
from scipy import ndimage

from ddad_jax.data.planted import Planted
from ddad_jax.detection import patches
from ddad_jax.detection.batching import batched, concatenate, fitted_batch_size
from ddad_jax.detection.detector import Detector
from ddad_jax.detection.reconstruction import as_bytes, decode, encode, extract, to_network_range

# Pixels around a defect that count as neither inside nor outside.
MARGIN = 8

Image = UInt8[np.ndarray, "h w 3"]


def restoration_figures(
    detector: Detector,
    defects: Sequence[Planted],
    reconstructions: UInt8[np.ndarray, "n h w 3"],
    batch_size: int,
) -> dict[str, Any]:
    """Returns medians over images with defects whose originals are known.

    Args:
      detector: its networks compute features and reproduce the originals; on one device.
      defects: the images.
      reconstructions: of the images.
      batch_size: images at a time.

    Returns:
      "inside": the mean absolute distance of the reconstruction to the original inside the mask,
      divided by that of the image: 0 is restored, 1 is as bad as the defect. "features": the same
      for the features that describe patches, by Euclidean distance. "outside": PSNR in dB of the
      reconstruction against the image, away from the defect. "features_autoencoder" and
      "outside_autoencoder": the same for the original itself, encoded and decoded, which is the
      best possible. "per_kind": "inside" for each kind of defect.
    """
    size = fitted_batch_size(batch_size, len(defects))

    def of_all(function: Any, images: UInt8[np.ndarray, "n h w 3"]) -> np.ndarray:
        return concatenate(batched(partial(function, detector), images, size, "restoration"))

    images, originals = (
        np.stack([getattr(each, name) for each in defects]) for name in ("image", "original")
    )
    masks = [each.mask for each in defects]
    copies = of_all(_copied, originals)
    defective, sound, left, copied = (
        of_all(_described, each) for each in (images, originals, reconstructions, copies)
    )

    def features(found: np.ndarray) -> float:
        return float(np.median(list(map(_features_left, defective, sound, found, masks))))

    def outside(seen: np.ndarray, found: np.ndarray) -> float:
        return float(np.nanmedian(list(map(noise_outside, seen, found, masks))))

    inside = list(map(left_inside, images, originals, reconstructions, masks))
    names = np.array([each.kind for each in defects])
    return {
        "inside": float(np.median(inside)),
        "features": features(left),
        "features_autoencoder": features(copied),
        "outside": outside(images, reconstructions),
        "outside_autoencoder": outside(originals, copies),
        "per_kind": {
            str(name): float(np.median(np.array(inside)[names == name]))
            for name in np.unique(names)
        },
    }


def left_inside(
    image: Image, original: Image, reconstruction: Image, mask: Bool[np.ndarray, "h w"]
) -> float:
    """Returns the reconstruction's mean distance to the original in the mask, over the image's."""
    defect, left = (
        np.abs(each.astype(np.float32) - original)[mask].mean() for each in (image, reconstruction)
    )
    return float(left / defect)


def noise_outside(image: Image, reconstruction: Image, mask: Bool[np.ndarray, "h w"]) -> float:
    """Returns the PSNR in dB of the reconstruction away from the mask; NaN if no pixel is away."""
    away = ~ndimage.binary_dilation(mask, iterations=MARGIN)
    if not away.any():
        return float("nan")
    error = np.square(reconstruction.astype(np.float32) - image)[away].mean()
    return float(10 * np.log10(255**2 / max(error, 1e-6)))


def _features_left(
    image: Float[np.ndarray, "r c p"],
    original: Float[np.ndarray, "r c p"],
    reconstruction: Float[np.ndarray, "r c p"],
    mask: Bool[np.ndarray, "h w"],
) -> float:
    """Like `left_inside`, for features, at the patches that the mask touches."""
    height, width = original.shape[:2]
    touched = np.zeros((height, width), bool)
    rows, columns = np.nonzero(mask)
    touched[rows * height // mask.shape[0], columns * width // mask.shape[1]] = True
    defect, left = (
        np.linalg.norm(each - original, axis=-1)[touched].mean() for each in (image, reconstruction)
    )
    return float(left / defect)


@jax.jit
def _described(detector: Detector, images: UInt8[Array, "b h w 3"]) -> Float[Array, "b r c p"]:
    """Computes the features that describe each patch of the images."""
    d, s = detector, detector.settings
    features = extract(d.networks.extractor, d.extractor, to_network_range(images, s.image_size))
    return patches.describe([features[stage - 1] for stage in s.patch_stages])


@jax.jit
def _copied(detector: Detector, images: UInt8[Array, "b h w 3"]) -> UInt8[Array, "b h w 3"]:
    """Encodes and decodes the images with the autoencoder only."""
    d = detector
    autoencoder = d.networks.autoencoder, d.autoencoder, d.latent_shift, d.latent_scale
    latent = encode(*autoencoder, to_network_range(images, d.settings.image_size))
    return as_bytes(decode(*autoencoder, latent), d.settings.image_size)
