"""From pixels to evidence: noise level, reconstruction and maps, before calibration."""

from collections.abc import Sequence
from functools import partial

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt8

from ddad_jax.detection import anomaly_map, noise_level, patches
from ddad_jax.detection.detector import (
    Calibration,
    Detector,
    Leaf,
    Settings,
    over_devices,
)
from ddad_jax.detection.reconstruction import (
    by_image,
    decode,
    encode,
    extract,
    reconstruct_latent,
    to_network_range,
)


@flax.struct.dataclass
class Evidence:
    """What is known of each image before calibration.

    Attributes:
      maps: by kind ("latent", "feature", "patch"), how unlike normal each pixel is, [b, h, w].
      extremes: by kind, the smallest and the largest value before the maps were blurred, [b, 2].
      noise_level: T̂ used, int [b].
      knn_distance: d(x), the distance that chose it, float [b].
      reconstructed_knn_distance: d(x̂), the same distance of the reconstruction, float [b].
      reconstruction: the image as it would look without defect, uint8 [b, h, w, 3].
    """

    maps: dict[str, Leaf]
    extremes: dict[str, Leaf]
    noise_level: Leaf
    knn_distance: Leaf
    reconstructed_knn_distance: Leaf
    reconstruction: Leaf


def choose_noise_level(detector: Detector, distance: Float[Array, " b"]) -> Int[Array, " b"]:
    """T̂ of each image from its k-NN distance, or the static level."""
    s = detector.settings
    if s.noise_level == "static":
        return jnp.full(distance.shape, s.max_noise_level)
    return noise_level.dynamic_noise_level(
        distance,
        detector.bin_edges,
        max_noise_level=s.max_noise_level,
        min_bin=s.min_bin,
        num_steps=s.num_steps,
    )


@jax.jit
def gather_evidence(
    detector: Detector, images: UInt8[Array, "b h w 3"] | Float[Array, "b h w 3"]
) -> Evidence:
    """All that the networks and the banks say of a batch, before calibration."""
    return over_devices(evidence_of)(detector, images)


def evidence_of(
    detector: Detector, images: UInt8[Array, "b h w 3"] | Float[Array, "b h w 3"]
) -> Evidence:
    """`gather_evidence` as one device does it."""
    return by_image(partial(_evidence_of, detector), images)


def _evidence_of(
    detector: Detector, images: UInt8[Array, "b h w 3"] | Float[Array, "b h w 3"]
) -> Evidence:
    """All that is said of a batch.

    Each network sees each image once: the features of the input choose the noise level, make the
    patch map and are compared with the reconstruction's.
    """
    d, s, n = detector, detector.settings, detector.networks
    pixels = to_network_range(images, s.image_size)
    features = extract(n.extractor, d.extractor, pixels)
    distance = knn_distance(d, features)
    level = choose_noise_level(d, distance)

    scaling = (d.latent_shift, d.latent_scale)
    latent = encode(n.autoencoder, d.autoencoder, *scaling, pixels)
    reconstructed = reconstruct_latent(
        n.denoiser, d.denoiser, d.alpha_bar, s, latent, level, jax.random.key(0)
    )
    reconstruction = decode(n.autoencoder, d.autoencoder, *scaling, reconstructed)
    reconstructed_features = extract(n.extractor, d.extractor, reconstruction)

    maps = reconstruction_maps(s, latent, reconstructed, features, reconstructed_features)
    if s.scoring == "fused":
        maps["patch"] = patch_map(d, features)
    return Evidence(
        maps={kind: anomaly_map.gaussian_blur(m, s.blur) for kind, m in maps.items()},
        extremes={
            kind: jnp.stack([m.min((1, 2)), m.max((1, 2))], axis=1) for kind, m in maps.items()
        },
        noise_level=level,
        knn_distance=distance,
        reconstructed_knn_distance=knn_distance(d, reconstructed_features),
        reconstruction=((reconstruction + 1.0) * 127.5).round().astype(jnp.uint8),
    )


def knn_distance(
    detector: Detector, features: Sequence[Float[Array, "b _h _w _c"]]
) -> Float[Array, " b"]:
    """d(x) of the feature stages of each image."""
    s = detector.settings
    pooled = noise_level.pool_features(features[s.knn_stage - 1])
    return noise_level.mean_distance(
        pooled, detector.bank, s.num_neighbours, s.metric, axes=detector.axes
    )


def reconstruction_maps(
    settings: Settings,
    latent: Float[Array, "b h w c"],
    reconstructed: Float[Array, "b h w c"],
    features: Sequence[Float[Array, "b _h _w _c"]],
    reconstructed_features: Sequence[Float[Array, "b _h _w _c"]],
) -> dict[str, Float[Array, "b size size"]]:
    """By kind, how unlike its reconstruction each pixel of an image is, not blurred yet."""
    compared = (_compared(each, settings) for each in (features, reconstructed_features))
    return {
        "latent": anomaly_map.latent_map(latent, reconstructed, settings.image_size),
        "feature": anomaly_map.feature_map(*compared, settings.image_size),
    }


def _compared(
    features: Sequence[Float[Array, "b _h _w _c"]], settings: Settings
) -> list[Float[Array, "b _h _w _c"]]:
    chosen = [features[stage - 1] for stage in settings.feature_stages]
    return [patches.neighbourhood_mean(stage, settings.feature_pooling) for stage in chosen]


def patch_map(
    detector: Detector, features: Sequence[Float[Array, "b _h _w _c"]]
) -> Float[Array, "b size size"]:
    """How far each pixel's patch is from the nearest normal one, not blurred yet."""
    chosen = [features[stage - 1] for stage in detector.settings.patch_stages]
    described = patches.describe(chosen) * detector.patch_scale
    distances = patches.distance_map(described, detector.patch_bank)
    return anomaly_map.resize(distances, detector.settings.image_size)


def evidence_weights(settings: Settings) -> dict[str, float]:
    """How much each kind of evidence counts in the anomaly map; they sum to 1."""
    patch = settings.patch_weight if settings.scoring == "fused" else 0.0
    weights = {
        "latent": (1.0 - patch) * settings.latent_weight,
        "feature": (1.0 - patch) * (1.0 - settings.latent_weight),
    }
    return weights | ({"patch": patch} if settings.scoring == "fused" else {})


def score_evidence(
    evidence: Evidence, calibration: Calibration, settings: Settings
) -> tuple[Float[Array, "b size size"], Float[Array, " b"]]:
    """The anomaly map, a weighted sum of the calibrated evidence, and its maximum, the score."""
    # Evidence of no weight is left out, so that the compiler can drop what only it needs.
    heat = sum(
        weight
        * anomaly_map.normalise(
            evidence.maps[kind],
            evidence.noise_level,
            calibration.location[kind],
            calibration.scale[kind],
        )
        for kind, weight in evidence_weights(settings).items()
        if weight
    )
    return heat, heat.max(axis=(1, 2))
