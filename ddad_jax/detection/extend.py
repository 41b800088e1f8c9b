"""Adds another kind of normal image to the banks of a fitted detector."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, UInt8

from ddad_jax.detection import patches
from ddad_jax.detection.batching import batched, fitted_batch_size
from ddad_jax.detection.build import (
    Banks,
    BuildSettings,
    drawn_latents,
    features_of_views,
)
from ddad_jax.detection.detector import Detector
from ddad_jax.detection.reconstruction import encode, extract, to_network_range


def extend_banks(
    detector: Detector, build: BuildSettings, images: UInt8[np.ndarray, "n h w 3"], seed: int
) -> Banks:
    """Adds normal images of a new kind to a detector's banks, behind all that these hold.

    A few images show each patch of their kind in few positions. So each image is seen in four
    views: as it is, and moved by half a patch to the right, down, and both.

    Args:
      detector: a fitted detector.
      build: see `BuildSettings`; up to `patch_bank_size` patches are added.
      images: normal images of the detector's size.
      seed: of the choice of patches and latents.
    """
    half = _patch_side(detector) // 2
    views = [_moved(images, *by) for by in ((0, 0), (0, half), (half, 0), (half, half))]
    d = detector
    pooled, candidates, _ = features_of_views(
        d.networks, d.settings, build, d.extractor, d.foreground, views, seed
    )
    points = patches.compared(candidates.described, d.patch_scale, d.settings)
    origins = candidates.origins % len(images)
    latents = detector.latent_bank
    if detector.settings.restores:
        own = _latents(detector, images, build.batch_size)
        latents = jnp.concatenate([latents, drawn_latents(own, build.latent_bank_size, seed)])
    kept, size = len(detector.patch_bank), min(build.patch_bank_size, len(points))
    if size:
        choose = jax.jit(patches.extend_coreset, static_argnums=2)
        chosen = choose(detector.patch_bank, points, size, jax.random.key(seed))
        points, origins = points[chosen], origins[np.asarray(chosen)]
    return Banks(
        detector.replace(
            bank=jnp.concatenate([detector.bank, pooled]),
            bank_kind=jnp.concatenate(
                [detector.bank_kind, jnp.full(len(pooled), len(detector.kinds) + 1, jnp.int32)]
            ),
            patch_bank=jnp.concatenate([detector.patch_bank, points]),
            latent_bank=latents,
        ),
        np.append(np.full(kept, -1), origins),
        before=len(detector.bank),
    )


def _latents(
    detector: Detector, images: UInt8[np.ndarray, "n size size 3"], batch_size: int
) -> Float[np.ndarray, "n h w c"]:
    d = detector

    @jax.jit
    def encoded(variables, batch):
        pixels = to_network_range(batch, d.settings.image_size)
        return encode(d.networks.autoencoder, variables, d.latent_shift, d.latent_scale, pixels)

    size = fitted_batch_size(batch_size, len(images))
    return np.concatenate(list(batched(partial(encoded, d.autoencoder), images, size, "encode")))


def _patch_side(detector: Detector) -> int:
    """Returns the distance between neighbouring patches, in pixels."""
    size, stage = detector.settings.image_size, detector.settings.patch_stages[0]
    shape = jax.eval_shape(
        lambda variables: extract(
            detector.networks.extractor, variables, jnp.zeros((1, size, size, 3))
        )[stage - 1],
        detector.extractor,
    ).shape
    return size // shape[1]


def _moved(images: UInt8[np.ndarray, "n h w 3"], down: int, right: int) -> np.ndarray:
    """Moves images by some pixels, with their edges repeated."""
    height, width = images.shape[1:3]
    padded = np.pad(images, [(0, 0), (down, 0), (right, 0), (0, 0)], mode="edge")
    return padded[:, :height, :width]
