"""The detector: everything that inference needs, and `detect`, the one compiled program."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, UInt8

from ddad_jax.detection import anomaly_map, noise_level, patches
from ddad_jax.detection.nearest import Metric
from ddad_jax.detection.noise_level import BinSpacing
from ddad_jax.diffusion import sampler, schedule

Variables = Mapping[str, Any]
# A field of a pytree: an array, whose shape its docstring gives, or whatever a transformation of
# JAX puts in its place.
Leaf = Any


@dataclasses.dataclass(frozen=True)
class Networks:
    """The three networks, without parameters.

    `autoencoder` maps images in [-1, 1] to latents and back (`encode`, `decode`), `denoiser` is
    ε_θ(z_t, t), `extractor` gives the feature stages of normalised images.
    """

    autoencoder: nn.Module
    denoiser: nn.Module
    extractor: nn.Module


@dataclasses.dataclass(frozen=True)
class Settings:
    """Every choice of the method that the compiled program depends on (method, section 1).

    Attributes:
      image_size: height and width the images are resized to, in pixels.
      prediction: what the denoiser was trained to output.
      noise_level: "dynamic", one per image from its k-NN distance, or "static".
      max_noise_level: T_max, and the level of every image where it is static.
      num_bins: bins of the distance range.
      min_bin: the smallest bin that is used.
      bin_spacing: "equidistant" (paper) or "quantile" bins.
      num_neighbours: K of the k-NN.
      metric: "l1" (paper) or "l2".
      leave_one_out: whether a training image's distance leaves itself out; the official code
        counts it.
      knn_stage: stage of the extractor, from 1, whose pooled features the k-NN compares.
      start: "scaled" (D3AD) or "noised" (DDAD) start of the reconstruction.
      num_steps: denoising steps.
      conditioning_weight: η.
      stochasticity: DDIM's η.
      feature_stages: stages of the extractor, from 1, that the feature map compares.
      feature_pooling: side of the square that features are averaged over first; DDAD takes 3.
      latent_weight: λ of the paper's map, in [0, 1].
      blur: σ of the Gaussian blur in pixels.
      scoring: "paper", the latent and the feature map, or "fused", which adds the distance of
        each patch to the nearest normal patch.
      patch_stages: stages of the extractor, from 1, whose features describe a patch.
      patch_weight: weight in [0, 1] of the patch map where scoring is "fused".
    """

    image_size: int = 256
    prediction: schedule.Prediction = "noise"
    noise_level: Literal["dynamic", "static"] = "dynamic"
    max_noise_level: int = 80
    num_bins: int = 10
    min_bin: int = 2
    bin_spacing: BinSpacing = "equidistant"
    num_neighbours: int = 20
    metric: Metric = "l1"
    leave_one_out: bool = True
    knn_stage: int = 2
    start: Literal["scaled", "noised"] = "scaled"
    num_steps: int = 10
    conditioning_weight: float = 4.0
    stochasticity: float = 0.0
    feature_stages: tuple[int, ...] = (2, 3)
    feature_pooling: int = 1
    latent_weight: float = 0.85
    blur: float = 4.0
    scoring: Literal["fused", "paper"] = "fused"
    patch_stages: tuple[int, ...] = (2, 3)
    patch_weight: float = 0.75


@flax.struct.dataclass
class Calibration:
    """What normal images that no network was trained on look like to the detector.

    Attributes:
      location: of each kind of evidence, the value that maps to 0; scalars.
      scale: of each kind of evidence, the distance from `location` that maps to 1; scalars.
      threshold: scalar; the score above which an image is called anomalous.
      spread: scalar; the scale of normal images' scores about their median, in units of the score.
    """

    location: dict[str, Leaf]
    scale: dict[str, Leaf]
    threshold: Leaf
    spread: Leaf


@flax.struct.dataclass
class Detector:
    """A fitted detector: a pytree of arrays, with its networks and settings as static data.

    Attributes:
      autoencoder, denoiser, extractor: variables of the networks.
      latent_shift, latent_scale: z = (E(x) - shift) · scale, float [c].
      alpha_bar: the noise schedule's table, float [timesteps + 1].
      bank: pooled features of the training images, float [n, d].
      bin_edges: edges of the distance bins, float [bins + 1].
      patch_bank: scaled features of normal patches, float [m, p]; empty where scoring is "paper".
      patch_scale: what each feature of a patch is multiplied by, so that every stage counts alike,
        float [p].
      calibration: see `Calibration`.
    """

    autoencoder: Variables
    denoiser: Variables
    extractor: Variables
    latent_shift: Leaf
    latent_scale: Leaf
    alpha_bar: Leaf
    bank: Leaf
    bin_edges: Leaf
    patch_bank: Leaf
    patch_scale: Leaf
    calibration: Calibration
    networks: Networks = flax.struct.field(pytree_node=False)
    settings: Settings = flax.struct.field(pytree_node=False)


@flax.struct.dataclass
class Evidence:
    """What is known of each image before calibration.

    Attributes:
      maps: by kind ("latent", "feature", "patch"), how unlike normal each pixel is, [b, h, w].
      noise_level: T̂ used, int [b].
      knn_distance: d(x), the distance that chose it, float [b].
      reconstructed_knn_distance: d(x̂), the same distance of the reconstruction, float [b].
      reconstruction: the image as it would look without defect, in [-1, 1], [b, h, w, 3].
    """

    maps: dict[str, Leaf]
    noise_level: Leaf
    knn_distance: Leaf
    reconstructed_knn_distance: Leaf
    reconstruction: Leaf


@flax.struct.dataclass
class Detections:
    """What `detect` says of each image.

    Attributes:
      score: the maximum of the anomaly map, unbounded, [b].
      calibrated_score: in [0, 1]; 0.5 at the threshold, [b].
      decision: whether the image is called anomalous, bool [b].
      anomaly_map: per pixel, on the scale of the score, [b, h, w].
      evidence: what the map was made from.
    """

    score: Leaf
    calibrated_score: Leaf
    decision: Leaf
    anomaly_map: Leaf
    evidence: Evidence


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
    stages = extractor.apply(variables, extractor.normalise(images))
    return tuple(stage.astype(jnp.float32) for stage in stages)


def encode(
    autoencoder: nn.Module,
    variables: Variables,
    shift: Float[Array, " c"],
    scale: Float[Array, " c"],
    images: Float[Array, "b size size 3"],
) -> Float[Array, "b h w c"]:
    """The scaled latent z, in float32."""
    latent = autoencoder.apply(variables, images, method="encode").astype(jnp.float32)
    return (latent - shift) * scale


def decode(
    autoencoder: nn.Module,
    variables: Variables,
    shift: Float[Array, " c"],
    scale: Float[Array, " c"],
    latent: Float[Array, "b h w c"],
) -> Float[Array, "b size size 3"]:
    """The image of a scaled latent, in float32 and clipped to [-1, 1]."""
    images = autoencoder.apply(variables, latent / scale + shift, method="decode")
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
    """All that the networks and the banks say of a batch, before calibration.

    Each network sees each image once: the features of the input choose the noise level, make the
    patch map and are compared with the reconstruction's.
    """
    d, s, n = detector, detector.settings, detector.networks
    pixels = to_network_range(images, s.image_size)
    features = extract(n.extractor, d.extractor, pixels)
    distance = _knn_distance(d, features)
    level = choose_noise_level(d, distance)

    scaling = (d.latent_shift, d.latent_scale)
    latent = encode(n.autoencoder, d.autoencoder, *scaling, pixels)
    reconstructed = reconstruct_latent(
        n.denoiser, d.denoiser, d.alpha_bar, s, latent, level, jax.random.key(0)
    )
    reconstruction = decode(n.autoencoder, d.autoencoder, *scaling, reconstructed)
    reconstructed_features = extract(n.extractor, d.extractor, reconstruction)

    maps = {
        "latent": anomaly_map.latent_map(latent, reconstructed, s.image_size),
        "feature": anomaly_map.feature_map(
            _compared(features, s), _compared(reconstructed_features, s), s.image_size
        ),
    }
    if s.scoring == "fused":
        chosen = [features[stage - 1] for stage in s.patch_stages]
        described = patches.describe(chosen) * d.patch_scale
        maps["patch"] = anomaly_map.resize(
            patches.distance_map(described, d.patch_bank), s.image_size
        )
    maps = {kind: anomaly_map.gaussian_blur(m, s.blur) for kind, m in maps.items()}
    return Evidence(maps, level, distance, _knn_distance(d, reconstructed_features), reconstruction)


def _knn_distance(
    detector: Detector, features: Sequence[Float[Array, "b _h _w _c"]]
) -> Float[Array, " b"]:
    s = detector.settings
    pooled = noise_level.pool_features(features[s.knn_stage - 1])
    return noise_level.mean_distance(pooled, detector.bank, s.num_neighbours, s.metric)


def _compared(
    features: Sequence[Float[Array, "b _h _w _c"]], settings: Settings
) -> list[Float[Array, "b _h _w _c"]]:
    chosen = [features[stage - 1] for stage in settings.feature_stages]
    return [patches.neighbourhood_mean(stage, settings.feature_pooling) for stage in chosen]


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
    heat = sum(
        weight
        * anomaly_map.normalise(
            evidence.maps[kind], calibration.location[kind], calibration.scale[kind]
        )
        for kind, weight in evidence_weights(settings).items()
    )
    return heat, heat.max(axis=(1, 2))


@jax.jit
def detect(
    detector: Detector, images: UInt8[Array, "b h w 3"] | Float[Array, "b h w 3"]
) -> Detections:
    """From pixels to decisions, one compiled program per batch size.

    Args:
      detector: as `build_detector` makes it.
      images: uint8, or floats in [-1, 1]; any size, resized inside.

    Returns:
      What the detector says of each image; an image's answer never depends on its batch.
    """
    evidence = gather_evidence(detector, images)
    calibration = detector.calibration
    heat, score = score_evidence(evidence, calibration, detector.settings)
    calibrated = jax.nn.sigmoid((score - calibration.threshold) / calibration.spread)
    return Detections(score, calibrated, score > calibration.threshold, heat, evidence)
