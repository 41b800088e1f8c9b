"""Building a detector from trained networks and normal images: banks, bins, calibration."""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from ddad_jax.detection import noise_level, patches
from ddad_jax.detection.batching import batched, concatenate, fitted_batch_size
from ddad_jax.detection.calibration import calibrate
from ddad_jax.detection.detector import (
    Calibration,
    Detector,
    Networks,
    Settings,
    Variables,
)
from ddad_jax.detection.evidence import extract, gather_evidence, to_network_range


@dataclass(frozen=True)
class BuildSettings:
    """How banks and calibration are made.

    Attributes:
      patch_bank_size: normal patches kept, chosen to cover all of them.
      patch_candidates: patches it is chosen from, drawn evenly from all training images.
      false_alarm_rate: share of normal images that may be called anomalous.
      batch_size: images at a time.
    """

    patch_bank_size: int = 8192
    patch_candidates: int = 65536
    false_alarm_rate: float = 0.01
    batch_size: int = 16


def build_detector(
    networks: Networks,
    settings: Settings,
    build: BuildSettings,
    *,
    autoencoder: Variables,
    denoiser: Variables,
    extractor: Variables,
    latent_shift: Float[Array, " c"],
    latent_scale: Float[Array, " c"],
    alpha_bar: Float[Array, " table"],
    train_images: UInt8[np.ndarray, "n h w 3"],
    heldout_images: UInt8[np.ndarray, "m h w 3"],
    seed: int,
) -> Detector:
    """Fills the banks from the training images and calibrates on the held-out ones.

    Args:
      networks: the modules; their variables follow.
      settings: of the detector.
      build: see `BuildSettings`.
      autoencoder: variables of the autoencoder.
      denoiser: variables of the denoiser.
      extractor: variables of the extractor, adapted or not.
      latent_shift: per channel, subtracted from the autoencoder's latent.
      latent_scale: per channel, what the shifted latent is multiplied by.
      alpha_bar: the schedule's table.
      train_images: normal images that the networks were trained on.
      heldout_images: normal images that they were not trained on.
      seed: of the choice of patches.
    """
    pooled, candidates, norm = _features(networks, settings, build, extractor, train_images, seed)
    patch_scale = 1.0 / jnp.maximum(norm, 1e-6)
    distances = _training_distances(pooled, settings)
    unit = jnp.float32(1.0)
    detector = Detector(
        autoencoder=autoencoder,
        denoiser=denoiser,
        extractor=extractor,
        latent_shift=latent_shift,
        latent_scale=latent_scale,
        alpha_bar=alpha_bar,
        bank=pooled,
        bin_edges=noise_level.bin_edges(distances, settings.num_bins, settings.bin_spacing),
        patch_bank=_patch_bank(candidates * patch_scale, build.patch_bank_size, seed),
        patch_scale=patch_scale,
        calibration=Calibration({}, {}, unit, unit),
        networks=networks,
        settings=settings,
    )
    evidence = concatenate(
        batched(
            partial(gather_evidence, detector),
            heldout_images,
            fitted_batch_size(build.batch_size, len(heldout_images)),
            "calibrate",
        )
    )
    evidence = jax.tree.map(jnp.asarray, evidence)
    return detector.replace(calibration=calibrate(evidence, settings, build.false_alarm_rate))


def _features(
    networks: Networks,
    settings: Settings,
    build: BuildSettings,
    extractor: Variables,
    images: UInt8[np.ndarray, "n h w 3"],
    seed: int,
) -> tuple[Float[Array, "n d"], Float[Array, "m p"], Float[Array, " p"]]:
    """Pooled features of every image, patches that may enter the bank, and their usual norm."""
    fused = settings.scoring == "fused"

    @jax.jit
    def describe(variables, batch):
        features = extract(
            networks.extractor, variables, to_network_range(batch, settings.image_size)
        )
        pooled = noise_level.pool_features(features[settings.knn_stage - 1])
        if not fused:
            return pooled, jnp.zeros((batch.shape[0], 0, 0)), jnp.zeros((batch.shape[0], 0))
        chosen = [features[stage - 1] for stage in settings.patch_stages]
        described = patches.describe(chosen)
        flat = described.reshape(batch.shape[0], -1, described.shape[-1])
        return pooled, flat, patches.stage_norms(chosen)

    rng = np.random.default_rng(seed)
    per_image = -(-build.patch_candidates // len(images))
    all_pooled, candidates, norms = [], [], []
    for pooled, described, norm in batched(
        partial(describe, extractor), images, build.batch_size, "feature bank"
    ):
        all_pooled.append(pooled)
        norms.append(norm)
        for image in described:
            count = min(per_image, len(image))
            candidates.append(image[rng.choice(len(image), count, replace=False)])
    return (
        jnp.asarray(np.concatenate(all_pooled)),
        jnp.asarray(np.concatenate(candidates)),
        jnp.asarray(np.concatenate(norms).mean(0)),
    )


def _training_distances(pooled: Float[Array, "n d"], settings: Settings) -> Float[Array, " n"]:
    own = jnp.arange(pooled.shape[0]) if settings.leave_one_out else None
    return jax.jit(noise_level.mean_distance, static_argnums=(2, 3))(
        pooled, pooled, settings.num_neighbours, settings.metric, own
    )


def _patch_bank(candidates: Float[Array, "m p"], size: int, seed: int) -> Float[Array, "k p"]:
    if len(candidates) <= size:
        return candidates
    chosen = jax.jit(patches.coreset, static_argnums=1)(candidates, size, jax.random.key(seed))
    return candidates[chosen]
