"""From pixels to evidence: noise level, reconstruction and maps, before calibration."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt8

from ddad_jax.detection import anomaly_map, noise_level, patches
from ddad_jax.detection.detector import (
    Calibration,
    Detector,
    Kind,
    Leaf,
    Settings,
    over_devices,
)
from ddad_jax.detection.foreground import is_in_foreground
from ddad_jax.detection.reconstruction import (
    as_bytes,
    by_image,
    decode,
    encode,
    extract,
    reconstruct_latent,
    to_network_range,
)
from ddad_jax.detection.restoration import places_to_restore, restore


class Evidence(flax.struct.PyTreeNode):
    """What is known of each image before calibration.

    Attributes:
      maps: for each kind with a weight ("latent", "feature", "patch", and "cosine", the patch map
        of the score), how far each pixel is from normal, [b, h, w].
      extremes: by kind, the smallest and the largest value before the maps were blurred, [b, 2].
      noise_level: T̂ used, int [b].
      knn_distance: d(x), the distance that T̂ was chosen by, float [b].
      reconstructed_knn_distance: d(x̂), the same distance for the reconstruction, float [b]; None
        without `Settings.reconstruct`.
      reconstruction: the image without its defect, uint8 [b, h, w, 3]; None likewise.
      kind: the kind of good part of the image, int [b]; None if the detector has only one.
    """

    maps: dict[str, Leaf]
    extremes: dict[str, Leaf]
    noise_level: Leaf
    knn_distance: Leaf
    reconstructed_knn_distance: Leaf | None
    reconstruction: Leaf | None
    kind: Leaf | None


def choose_noise_level(detector: Detector, distance: Float[Array, " b"]) -> Int[Array, " b"]:
    """Returns T̂ of each image, from its k-NN distance or static."""
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
    """Returns what the networks and the banks say of a batch, before calibration."""
    return over_devices(evidence_of)(detector, images)


def evidence_of(
    detector: Detector, images: UInt8[Array, "b h w 3"] | Float[Array, "b h w 3"]
) -> Evidence:
    """Computes `gather_evidence` on one device."""
    return by_image(partial(_evidence_of, detector), images)


def _evidence_of(
    detector: Detector, images: UInt8[Array, "b h w 3"] | Float[Array, "b h w 3"]
) -> Evidence:
    """Computes `evidence_of` for a whole batch at once.

    The image's features are computed once: they choose the noise level, make the patch map and are
    compared with the reconstruction's.
    """
    d, s, n = detector, detector.settings, detector.networks
    pixels = to_network_range(images, s.image_size)
    features = extract(n.extractor, d.extractor, pixels)
    distance = knn_distance(d, features)
    level = choose_noise_level(d, distance)

    scaling = (d.latent_shift, d.latent_scale)
    latent = encode(n.autoencoder, d.autoencoder, *scaling, pixels)
    denoised = reconstruct_latent(n.denoiser, d.denoiser, d.alpha_bar, s, latent, level)

    # If no result needs the decoder and the features of its output, the compiler drops them.
    def decoded(latent):
        pixels = decode(n.autoencoder, d.autoencoder, *scaling, latent)
        return pixels, extract(n.extractor, d.extractor, pixels)

    reconstruction, reconstructed_features = decoded(denoised)
    maps = reconstruction_maps(s, latent, denoised, features, reconstructed_features)
    kind = nearest_kind(d, features) if d.kinds else None
    if s.patches_count:
        distances = patch_distances(d, features)
        maps |= {name: anomaly_map.resize(each, s.image_size) for name, each in distances.items()}
        if s.restores:
            places = places_to_restore(distances["patch"], _patch_limit(d, kind), latent.shape[1])
            restored = restore(latent, places, d.latent_bank)
            reconstruction, reconstructed_features = decoded(restored)
    return Evidence(
        maps={kind: anomaly_map.gaussian_blur(m, s.blur) for kind, m in maps.items()},
        extremes={
            kind: jnp.stack([m.min((1, 2)), m.max((1, 2))], axis=1) for kind, m in maps.items()
        },
        noise_level=level,
        knn_distance=distance,
        reconstructed_knn_distance=knn_distance(d, reconstructed_features)
        if s.reconstruct
        else None,
        reconstruction=as_bytes(reconstruction, s.image_size) if s.reconstruct else None,
        kind=kind,
    )


def knn_distance(
    detector: Detector, features: Sequence[Float[Array, "b _h _w _c"]]
) -> Float[Array, " b"]:
    """Returns d(x) of each image, from its feature stages."""
    return _distance(detector, detector.bank, features, detector.settings.num_neighbours)


def nearest_kind(
    detector: Detector, features: Sequence[Float[Array, "b _h _w _c"]]
) -> Int[Array, " b"]:
    """Returns for each image the kind of good part of the nearest row of the bank."""
    distances = [
        _distance(
            detector,
            jnp.where((detector.bank_kind == kind)[:, None], detector.bank, jnp.nan),
            features,
            1,
        )
        for kind in range(len(detector.kinds) + 1)
    ]
    # A kind with no row left has the distance NaN.
    return jnp.argmin(jnp.nan_to_num(jnp.stack(distances), nan=jnp.inf), axis=0)


def _distance(
    detector: Detector,
    bank: Float[Array, "n d"],
    features: Sequence[Float[Array, "b _h _w _c"]],
    num_neighbours: int,
) -> Float[Array, " b"]:
    s = detector.settings
    pooled = noise_level.pool_features(features[s.knn_stage - 1])
    return noise_level.mean_distance(pooled, bank, num_neighbours, s.metric, axes=detector.axes)


def reconstruction_maps(
    settings: Settings,
    latent: Float[Array, "b h w c"],
    reconstructed: Float[Array, "b h w c"],
    features: Sequence[Float[Array, "b _h _w _c"]],
    reconstructed_features: Sequence[Float[Array, "b _h _w _c"]],
) -> dict[str, Float[Array, "b size size"]]:
    """Returns the latent and the feature map, not blurred yet, as far as they have a weight."""
    weights, size = evidence_weights(settings), settings.image_size
    maps = {}
    if "latent" in weights:
        maps["latent"] = anomaly_map.latent_map(latent, reconstructed, size)
    if "feature" in weights:
        both = _compared(features, settings), _compared(reconstructed_features, settings)
        maps["feature"] = anomaly_map.feature_map(*both, size)
    return maps


def _compared(
    features: Sequence[Float[Array, "b _h _w _c"]], settings: Settings
) -> list[Float[Array, "b _h _w _c"]]:
    chosen = [features[stage - 1] for stage in settings.feature_stages]
    return [patches.neighbourhood_mean(stage, settings.feature_pooling) for stage in chosen]


def patch_distances(
    detector: Detector, features: Sequence[Float[Array, "b _h _w _c"]]
) -> dict[str, Float[Array, "b _rows _columns"]]:
    """Returns how far each patch is from the nearest normal one; 0 for left-out background.

    Returns:
      "patch": by `Settings.patch_metric`; "cosine": by the cosine, if only the score has it.
    """
    d, s = detector, detector.settings
    described = patches.describe([features[stage - 1] for stage in s.patch_stages])
    compared = patches.compared(described, d.patch_scale, s)
    found = {"patch": patches.distance_map(compared, d.patch_bank, s, d.axes)}
    if s.scores_by_cosine:
        both = patches.directions(compared), patches.directions(d.patch_bank)
        by_cosine = replace(s, patch_metric="cosine")
        found["cosine"] = patches.distance_map(*both, by_cosine, d.axes)
    if s.leaves_background_out:
        counts = is_in_foreground(described, d.foreground)
        found = {name: jnp.where(counts, each, 0.0) for name, each in found.items()}
    return found


def _patch_limit(
    detector: Detector, kind: Int[Array, " b"] | None
) -> Float[Array, " b"] | Float[Array, ""]:
    """Returns the distance up to which patches are kept, for each image by its kind."""
    if kind is None:
        return detector.calibration.patch_limit
    limits = [detector.calibration.patch_limit, *(each.patch_limit for each in detector.kinds)]
    return jnp.stack(limits)[kind]


def evidence_weights(settings: Settings) -> dict[str, float]:
    """Returns the weights, above 0, of the kinds of evidence in the anomaly map; they sum to 1."""
    patch = settings.patch_weight if settings.scoring == "fused" else 0.0
    weights = {
        "latent": (1.0 - patch) * settings.latent_weight,
        "feature": (1.0 - patch) * (1.0 - settings.latent_weight),
        "patch": patch,
    }
    return {kind: weight for kind, weight in weights.items() if weight}


def score_weights(settings: Settings) -> dict[str, float]:
    """Returns the weights of the kinds of evidence in the score; they sum to 1."""
    weights = evidence_weights(settings)
    if settings.scores_by_cosine:
        weights["cosine"] = weights.pop("patch")
    return weights


def evidence_kinds(settings: Settings) -> list[str]:
    """Returns every kind of evidence that counts, in the map or in the score."""
    return [*evidence_weights(settings) | score_weights(settings)]


def score_evidence(
    evidence: Evidence,
    calibration: Calibration,
    settings: Settings,
    kinds: Sequence[Kind] = (),
) -> tuple[Float[Array, "b size size"], Float[Array, " b"]]:
    """Returns the anomaly map, a weighted sum of calibrated evidence, and the score.

    The score is from the same map, or from one whose patches are compared by the cosine.
    """

    def calibrated(
        by: Calibration | Kind, weights: Mapping[str, float]
    ) -> Float[Array, "b size size"]:
        total = sum(
            weight
            * anomaly_map.normalise(
                evidence.maps[name], evidence.noise_level, by.location[name], by.scale[name]
            )
            for name, weight in weights.items()
        )
        assert isinstance(total, Array)  # The weights sum to 1.
        return total

    def weighed(weights: Mapping[str, float]) -> Float[Array, "b size size"]:
        heat = calibrated(calibration, weights)
        for number, kind in enumerate(kinds, start=1):
            assert evidence.kind is not None  # There are several kinds.
            is_of_it = jnp.equal(evidence.kind, number)[:, None, None]
            heat = jnp.where(is_of_it, kind.factor * calibrated(kind, weights), heat)
        return heat

    heat = weighed(evidence_weights(settings))
    scored = weighed(score_weights(settings)) if settings.scores_by_cosine else heat
    score_of = partial(anomaly_map.image_scores, share=settings.score_share)
    # Sums over several images at once can differ in the last bit from those over one.
    return heat, by_image(score_of, scored) if settings.score_share else score_of(scored)
