"""Detectors with random weights and banks, as fast as fitted ones of the same settings."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8

from ddad_jax.detection import noise_level, patches
from ddad_jax.detection.build import BuildSettings
from ddad_jax.detection.detector import Calibration, Detector, Networks, Settings
from ddad_jax.detection.evidence import evidence_kinds
from ddad_jax.detection.reconstruction import extract
from ddad_jax.models import Extractor, initialise


def seeded_detector(
    networks: Networks,
    settings: Settings,
    alpha_bar: Float[Array, " table"],
    *,
    bank_rows: int,
    patch_rows: int,
    seed: int,
) -> Detector:
    """Draws every array of a fitted detector, and returns the detector.

    Args:
      networks: the modules.
      settings: of the detector.
      alpha_bar: the schedule's table.
      bank_rows: training images that the k-NN compares with.
      patch_rows: patches that the patch map compares with.
      seed: of everything that is drawn.
    """
    keys = jax.random.split(jax.random.key(seed), 6)
    drawn = {
        name: initialise(getattr(networks, name), key)
        for name, key in zip(("autoencoder", "denoiser", "extractor"), keys, strict=False)
    }
    pooled, described, compared = _feature_sizes(networks.extractor, drawn["extractor"], settings)
    fused = settings.scoring == "fused"
    channels = networks.autoencoder.latent_channels
    kinds, one = evidence_kinds(settings), jnp.float32(1.0)
    side = networks.denoiser.sample_size
    latents = min(bank_rows, BuildSettings.latent_bank_size), side, side, channels
    if not settings.restores:
        latents = (0, 0, 0, 0)
    return Detector(
        autoencoder=drawn["autoencoder"],
        denoiser=drawn["denoiser"],
        extractor=drawn["extractor"],
        latent_shift=jnp.zeros(channels),
        latent_scale=jnp.ones(channels),
        alpha_bar=alpha_bar,
        bank=jax.random.normal(keys[3], (bank_rows, pooled)),
        bank_kind=jnp.zeros(bank_rows, jnp.int32),
        bin_edges=jnp.linspace(0.0, 2.0 * pooled, settings.num_bins + 1),
        patch_bank=jax.random.normal(keys[4], (patch_rows if fused else 0, compared)),
        patch_scale=jnp.ones(described),
        foreground=jnp.ones(described + 1 if settings.leaves_background_out else 0),
        latent_bank=jax.random.normal(keys[5], latents),
        calibration=Calibration(
            location=dict.fromkeys(kinds, jnp.array([0.1, 0.001])[:, None, None]),
            scale=dict.fromkeys(kinds, jnp.array([1.0, 0.01])),
            threshold=one,
            pixel_threshold=one,
            sigma_threshold=one,
            spread=one,
            scores=jnp.zeros(0),
            peaks=jnp.zeros(0),
            patch_limit=one,
        ),
        kinds=(),
        networks=networks,
        settings=settings,
    )


def seeded_images(batch_size: int, size: int, seed: int) -> UInt8[Array, "b size size 3"]:
    """Draws images of soft blobs, all different."""
    coarse = jax.random.uniform(jax.random.key(seed), (batch_size, 8, 8, 3))
    smooth = jax.image.resize(coarse, (batch_size, size, size, 3), "cubic")
    return (smooth * 255.0).clip(0.0, 255.0).astype(jnp.uint8)


def _feature_sizes(
    extractor: Extractor, variables: Any, settings: Settings
) -> tuple[int, int, int]:
    """Returns the widths of k-NN features, of a patch's features, and of those compared."""

    def widths(variables: Any) -> tuple[Array, Array, Array]:
        size = settings.image_size
        features = extract(extractor, variables, jnp.zeros((1, size, size, 3)))
        pooled = noise_level.pool_features(features[settings.knn_stage - 1])
        described = patches.describe([features[stage - 1] for stage in settings.patch_stages])
        scale = jnp.ones(described.shape[-1])
        return pooled, described, patches.compared(described, scale, settings)

    pooled, *of_patches = (each.shape[-1] for each in jax.eval_shape(widths, variables))
    described, compared = of_patches if settings.scoring == "fused" else (0, 0)
    return pooled, described, compared
