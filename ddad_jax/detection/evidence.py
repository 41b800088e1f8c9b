"""From pixels to evidence: noise level, reconstruction and maps, before calibration."""

from collections.abc import Callable, Sequence

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, PyTree, UInt8

from ddad_jax.detection import anomaly_map, noise_level, patches
from ddad_jax.detection.detector import (
    Calibration,
    Detector,
    Leaf,
    Settings,
    Variables,
    over_devices,
)
from ddad_jax.diffusion import sampler, schedule


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


def to_network_range(
    images: UInt8[Array, "b h w 3"] | Float[Array, "b h w 3"], size: int
) -> Float[Array, "b size size 3"]:
    """Images in [-1, 1] at the detector's size, from uint8 or from floats in [-1, 1]."""
    if images.dtype == jnp.uint8:
        images = images.astype(jnp.float32) / 127.5 - 1.0
    if images.shape[1:3] != (size, size):
        shape = (images.shape[0], size, size, images.shape[3])
        images = jax.image.resize(images, shape, "linear", antialias=True)
    return images


def extract(
    extractor: nn.Module, variables: Variables, images: Float[Array, "b h w 3"]
) -> tuple[Float[Array, "b _h _w _c"], ...]:
    """The feature stages, in float32, of images in [-1, 1]."""
    # An accelerator's default for float32 has the few bits of bfloat16.
    with jax.default_matmul_precision("high"):
        stages = _by_image(lambda x: extractor.apply(variables, extractor.normalise(x)), images)
    return tuple(stage.astype(jnp.float32) for stage in stages)


def _by_image(
    function: Callable[[Float[Array, "b _h _w _c"]], PyTree], batch: Float[Array, "b _h _w _c"]
) -> PyTree:
    """The function of a batch: on a CPU, whose caches hold the layers of one image, one by one."""

    def one_by_one(batch):
        return jax.lax.map(lambda one: jax.tree.map(lambda x: x[0], function(one[None])), batch)

    return jax.lax.platform_dependent(batch, cpu=one_by_one, default=function)


def encode(
    autoencoder: nn.Module,
    variables: Variables,
    shift: Float[Array, " c"],
    scale: Float[Array, " c"],
    images: Float[Array, "b size size 3"],
) -> Float[Array, "b h w c"]:
    """The scaled latent z, in float32."""
    latent = _by_image(lambda x: autoencoder.apply(variables, x, method="encode"), images)
    return (latent.astype(jnp.float32) - shift) * scale


def decode(
    autoencoder: nn.Module,
    variables: Variables,
    shift: Float[Array, " c"],
    scale: Float[Array, " c"],
    latent: Float[Array, "b h w c"],
) -> Float[Array, "b size size 3"]:
    """The image of a scaled latent, in float32 and clipped to [-1, 1]."""
    unscaled = latent / scale + shift
    images = _by_image(lambda x: autoencoder.apply(variables, x, method="decode"), unscaled)
    return jnp.clip(images.astype(jnp.float32), -1.0, 1.0)


def reconstruct_latent(
    denoiser: nn.Module,
    variables: Variables,
    alpha_bar: Float[Array, " table"],
    settings: Settings,
    latent: Float[Array, "b h w c"],
    level: Int[Array, " b"],
    key: Key[Array, ""],
) -> Float[Array, "b h w c"]:
    """ẑ: the latent taken to its noise level and denoised under its own condition."""
    start_key, sampler_key = jax.random.split(key)
    a = schedule.at(alpha_bar, level)
    if settings.start == "scaled":
        start = schedule.scale_latent(latent, a)
    else:
        # One draw for the whole batch: an image's answer must not depend on its place in it.
        noise = jnp.broadcast_to(jax.random.normal(start_key, latent.shape[1:]), latent.shape)
        start = schedule.add_noise(latent, noise, a)

    def predict_noise(noisy, timestep):
        output = denoiser.apply(variables, noisy, timestep).astype(jnp.float32)
        a_t = schedule.at(alpha_bar, timestep)
        return schedule.predicted_noise(output, noisy, a_t, settings.prediction)

    return sampler.reconstruct(
        predict_noise,
        alpha_bar,
        latent,
        start,
        level,
        num_steps=settings.num_steps,
        conditioning_weight=settings.conditioning_weight,
        stochasticity=settings.stochasticity,
        key=sampler_key,
    )


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
    """`gather_evidence` as one device does it.

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
