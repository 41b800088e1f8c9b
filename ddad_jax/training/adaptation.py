"""Domain adaptation: teaches the extractor to see reconstructions of normal images as unchanged."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, PyTree

from ddad_jax.detection import anomaly_map, noise_level
from ddad_jax.detection.detector import Networks, Settings
from ddad_jax.detection.reconstruction import decode, encode, extract, reconstruct_latent
from ddad_jax.training.state import Loss, Metrics


def adaptation_loss(
    networks: Networks, settings: Settings, *, distillation_weight: float = 0.0
) -> Loss:
    """Makes the loss Σ_j 1 - cos(φ_j(x), φ_j(x̂)) on normal images, with x̂ from a random T̂.

    See docs/method.md, "Adaptation of the extractor". Autoencoder, denoiser and the extractor's
    statistics are frozen. The reconstruction is the denoised one that detection uses.

    Args:
      networks: the three networks. The batch holds uint8 "image"; the frozen input, the variables
        "autoencoder", "denoiser", "extractor", and "latent_shift", "latent_scale", "alpha_bar".
      settings: of the reconstruction.
      distillation_weight: λ_DL of DDAD: how strongly the features of x and x̂ are held to those of
        the frozen extractor.
    """

    def loss(
        params: PyTree, frozen: PyTree, batch: PyTree, key: Key[Array, ""]
    ) -> tuple[Float[Array, ""], Metrics]:
        level_key, sampler_key = jax.random.split(key)
        images = batch["image"].astype(jnp.float32) / 127.5 - 1.0
        level = noise_level.random_noise_level(
            level_key,
            images.shape[0],
            max_noise_level=settings.max_noise_level,
            num_bins=settings.num_bins,
            num_steps=settings.num_steps,
        )
        scaling = (frozen["latent_shift"], frozen["latent_scale"])
        latent = encode(networks.autoencoder, frozen["autoencoder"], *scaling, images)
        reconstructed = reconstruct_latent(
            networks.denoiser,
            frozen["denoiser"],
            frozen["alpha_bar"],
            settings,
            latent,
            level,
            sampler_key,
        )
        decoded = decode(networks.autoencoder, frozen["autoencoder"], *scaling, reconstructed)

        variables = frozen["extractor"] | {"params": params}
        features = extract(networks.extractor, variables, images)
        decoded_features = extract(networks.extractor, variables, decoded)
        distance = _distance(features, decoded_features)
        metrics = {"distance": distance}
        if distillation_weight == 0.0:
            return distance, metrics
        teacher = extract(networks.extractor, frozen["extractor"], images)
        decoded_teacher = extract(networks.extractor, frozen["extractor"], decoded)
        drift = _distance(features, teacher) + _distance(decoded_features, decoded_teacher)
        return distance + distillation_weight * drift, metrics | {"drift": drift}

    return loss


def _distance(
    a: tuple[Float[Array, "b _h _w _c"], ...], b: tuple[Float[Array, "b _h _w _c"], ...]
) -> Float[Array, ""]:
    pairs = zip(a, b, strict=True)
    total = sum((1.0 - anomaly_map.cosine_similarity(x, y)).mean() for x, y in pairs)
    assert isinstance(total, Array)  # There is at least one stage.
    return total
