"""Fills the banks and bins of a detector, from trained networks and normal images."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt8

from ddad_jax.detection import noise_level, patches
from ddad_jax.detection.batching import batched, concatenate, fitted_batch_size
from ddad_jax.detection.detector import (
    Calibration,
    Detector,
    Networks,
    Settings,
    Variables,
)
from ddad_jax.detection.foreground import find_foreground, is_in_foreground
from ddad_jax.detection.reconstruction import extract, to_network_range
from ddad_jax.settings import Checked, setting

# Number of folds that training images are divided into if the detector is calibrated on them.
FOLDS = 5
# Images used to find the foreground; the patches of all of them are in memory at once.
MOST_FOR_FOREGROUND = 32


@dataclass(frozen=True)
class BuildSettings(Checked):
    """How banks and calibration are made.

    Attributes:
      patch_bank_size: normal patches kept, chosen to cover all candidates; 0: all candidates.
      patch_candidates: patches to choose them from, drawn evenly from all training images.
      quarter_turns: whether patches are also taken from training images turned by 90, 180 and 270
        degrees, for parts that lie any way round.
      calibration_size: normal images to calibrate on. If fewer are held out, training images join
        them; each is measured against banks without the fifth of the parts that it belongs to.
      false_alarm_rate: share of normal images that may be called anomalous.
      pixel_alarm_rate: share of normal images that may have any defective pixel; 0: as many as may
        be called anomalous. Then, if the score is the highest pixel of the anomaly map, an image
        has a defective region exactly if it is anomalous.
      latent_bank_size: most training latents that are kept to restore images from.
      planted: defects planted in held-out images. They decide whether an adapted extractor counts
        (if it separates them from good images clearly better than the one before), whether the
        reconstruction's maps count (unless the patch map alone is clearly better), and how the
        score compares patches if detection.score_metric is "planted". 0, or paper scoring: the
        settings alone decide. With tiled photographs, fewer than five held out, or data.unified,
        they cannot decide: the maps count, the score is from the anomaly map, and the extractor is
        not adapted.
      batch_size: images at a time.
      share_networks: whether the detectors of several categories share files, in the folder
        `networks`, for networks that were not trained with them; else each detector is one file.
    """

    patch_bank_size: int = setting(8192, changes="detector", low=0)
    patch_candidates: int = setting(65536, changes="detector", low=1)
    quarter_turns: bool = setting(False, changes="detector")
    calibration_size: int = setting(100, changes="detector", low=0)
    false_alarm_rate: float = setting(0.01, changes="detector", above=0, below=1)
    pixel_alarm_rate: float = setting(0.0, changes="detector", low=0, below=1)
    latent_bank_size: int = setting(256, changes="detector", low=1)
    planted: int = setting(128, changes="detector", low=0)
    batch_size: int = setting(16, changes="nothing", low=1)
    share_networks: bool = setting(True, changes="nothing")

    @property
    def most_patches(self) -> int:
        """Returns about how many rows the patch bank has, given enough images."""
        return self.patch_bank_size or self.patch_candidates * (4 if self.quarter_turns else 1)


@dataclass(frozen=True, eq=False)
class Candidates:
    """Patches that may enter the bank.

    Attributes:
      described: the patches, as `patches.describe` makes them.
      origins: the image that each patch is from.
    """

    described: Float[Array, "k p"]
    origins: Int[np.ndarray, " k"]


@dataclass(frozen=True, eq=False)
class Banks:
    """A detector whose banks are filled, but which is not calibrated yet.

    Attributes:
      detector: the detector.
      origins: for each row of its patch bank, the number of the image that it is from; -1: another.
      before: index in `detector.bank` of the first row of these images; rows before it, and those
        after the images' own, belong to others.
    """

    detector: Detector
    origins: Int[np.ndarray, " m"]
    before: int = 0

    def of_images(self, start: int, count: int) -> "Banks":
        """Returns the same banks, with only some of the images numbered as theirs.

        Args:
          start: the first of these images.
          count: how many they are.
        """
        origins = self.origins - start
        theirs = (origins >= 0) & (origins < count)
        return Banks(self.detector, np.where(theirs, origins, -1), self.before + start)

    def cross_fitted(
        self,
        parts: Int[np.ndarray, " n"],
        wanted: int,
        seed: int,
        *,
        calibration: Calibration,
        counts: Int[np.ndarray, " n"] | int = 1,
    ) -> Iterator[tuple[Detector, Int[np.ndarray, "_"]]]:
        """Yields detectors whose banks lack some images, to measure these as if held out.

        Args:
          parts: for each image, the number of its part; images of one part share it.
          wanted: how many images, at most; none if all are of one part, since without it nothing
            would be left to compare with.
          seed: of the choice of images.
          calibration: of the detectors.
          counts: how many squares of each image the banks hold.

        Yields:
          A detector whose banks hold no image of a fifth of the parts (of one part, if there are
          fewer than five), and the numbers of the wanted images among those left out.
        """
        squares = np.broadcast_to(counts, len(parts))
        for fold, chosen in _folds(parts, wanted, seed):
            unknown = np.repeat(fold, squares)
            rows = np.zeros(len(self.detector.bank), bool)
            rows[self.before : self.before + len(unknown)] = unknown
            of_patches = np.append(unknown, False)[self.origins]
            yield self.hiding(rows, of_patches).replace(calibration=calibration), chosen

    def hiding(self, rows: Bool[np.ndarray, " n"], of_patches: Bool[np.ndarray, " m"]) -> Detector:
        """Returns the detector with some rows of both banks set to NaN, so that shapes stay."""
        d = self.detector
        return d.replace(
            bank=jnp.where(rows[:, None], jnp.nan, d.bank),
            patch_bank=jnp.where(of_patches[:, None], jnp.nan, d.patch_bank),
        )


def fill_banks(
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
    train_kinds: Int[np.ndarray, " n"] | None = None,
    train_latents: Float[np.ndarray, "n _h _w c"] | None,
    seed: int,
) -> Banks:
    """Fills the banks from the training images.

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
      train_kinds: the kind of good part of each image, from 0; None: all are of one kind.
      train_latents: the images' latents; None if images are not restored.
      seed: of the choice of patches and latents.
    """
    views = [np.rot90(train_images, turn, axes=(1, 2)) for turn in range(4)]
    if not build.quarter_turns:
        views = views[:1]
    foreground = _foreground(networks, settings, build, extractor, train_images)
    pooled, candidates, norm = features_of_views(
        networks, settings, build, extractor, foreground, views, seed
    )
    patch_scale = _scale(norm)
    distances = _training_distances(pooled, settings)
    patch_bank, origins = _patch_bank(
        patches.compared(candidates.described, patch_scale, settings),
        candidates.origins,
        build.patch_bank_size,
        seed,
    )
    unit = jnp.float32(1.0)
    latents = np.zeros((0, 0, 0, 0)) if train_latents is None else train_latents
    detector = Detector(
        autoencoder=autoencoder,
        denoiser=denoiser,
        extractor=extractor,
        latent_shift=latent_shift,
        latent_scale=latent_scale,
        alpha_bar=alpha_bar,
        bank=pooled,
        bank_kind=jnp.zeros(len(pooled), jnp.int32)
        if train_kinds is None
        else jnp.asarray(train_kinds, jnp.int32),
        bin_edges=noise_level.bin_edges(distances, settings.num_bins, settings.bin_spacing),
        patch_bank=patch_bank,
        patch_scale=patch_scale,
        foreground=foreground,
        latent_bank=drawn_latents(latents, build.latent_bank_size, seed),
        calibration=Calibration({}, {}, unit, unit, unit, unit, jnp.zeros(0), jnp.zeros(0), unit),
        kinds=(),
        networks=networks,
        settings=settings,
    )
    return Banks(detector, origins % len(train_images))


def drawn_latents(
    latents: Float[np.ndarray, "n h w c"], most: int, seed: int
) -> Float[Array, "m h w c"]:
    """Draws at most `most` of the latents at random and returns them in their order."""
    drawn = np.random.default_rng(seed).permutation(len(latents))[:most]
    return jnp.asarray(latents[np.sort(drawn)], jnp.float32)


def _folds(
    parts: Int[np.ndarray, " n"], wanted: int, seed: int
) -> list[tuple[Bool[np.ndarray, " n"], Int[np.ndarray, "_"]]]:
    """Returns for each fold which images it holds, and which of them are chosen."""
    names = np.unique(parts)
    if wanted <= 0 or len(names) < 2:
        return []
    rng = np.random.default_rng(seed)
    fold_of = dict(zip(rng.permutation(names), np.arange(len(names)) % FOLDS, strict=True))
    folds = np.array([fold_of[part] for part in parts])
    chosen = np.zeros(len(parts), bool)
    chosen[rng.permutation(len(parts))[:wanted]] = True
    return [
        (folds == fold, np.flatnonzero((folds == fold) & chosen))
        for fold in np.unique(folds[chosen])
    ]


def features_of_views(
    networks: Networks,
    settings: Settings,
    build: BuildSettings,
    extractor: Variables,
    foreground: Float[Array, "_"],
    views: Sequence[UInt8[np.ndarray, "n h w 3"]],
    seed: int,
) -> tuple[Float[Array, "n d"], Candidates, Float[Array, " p"]]:
    """Returns features of images that are seen in several views.

    Args:
      networks: the modules.
      settings: of the detector.
      build: see `BuildSettings`; `patch_candidates` patches are drawn from each view.
      extractor: variables of the extractor.
      foreground: see `Detector`.
      views: the images, followed by the same images moved or turned.
      seed: of the choice of patches.

    Returns:
      Pooled features of each image's first view; patches of all views, counted as further images,
      that may enter the bank; for each value of a patch, the mean norm of its stage.
    """
    pooled, candidates, norm = _features(
        networks,
        settings,
        replace(build, patch_candidates=len(views) * build.patch_candidates),
        extractor,
        foreground,
        np.concatenate(views),
        seed,
    )
    return pooled[: len(views[0])], candidates, norm


def _features(
    networks: Networks,
    settings: Settings,
    build: BuildSettings,
    extractor: Variables,
    foreground: Float[Array, "_"],
    images: UInt8[np.ndarray, "n h w 3"],
    seed: int,
) -> tuple[Float[Array, "n d"], Candidates, Float[Array, " p"]]:
    """Returns every image's pooled features, patches that may enter the bank, and mean norms."""

    @jax.jit
    def describe(variables, foreground, batch):
        pooled, described, norms = _described(networks, settings, variables, batch)
        counts = jnp.ones(described.shape[:3], bool)
        if settings.leaves_background_out:
            counts = is_in_foreground(described, foreground)
        b, rows, columns, p = described.shape
        flat = described.reshape(b, rows * columns, p)
        return pooled, flat, counts.reshape(b, rows * columns), norms

    rng = np.random.default_rng(seed)
    per_image = -(-build.patch_candidates // len(images))
    all_pooled, points, numbers, norms = [], [], [], []
    size = fitted_batch_size(build.batch_size, len(images))
    for pooled, described, counts, norm in batched(
        partial(describe, extractor, foreground), images, size, "feature bank"
    ):
        all_pooled.append(pooled)
        norms.append(norm)
        for image, counting in zip(described, counts, strict=True):
            there = np.flatnonzero(counting)
            chosen = rng.choice(there, min(per_image, len(there)), replace=False)
            points.append(image[chosen])
            numbers.append(len(chosen))
    return (
        jnp.asarray(np.concatenate(all_pooled)),
        Candidates(jnp.asarray(np.concatenate(points)), np.repeat(np.arange(len(images)), numbers)),
        jnp.asarray(np.concatenate(norms).mean(0)),
    )


def _foreground(
    networks: Networks,
    settings: Settings,
    build: BuildSettings,
    extractor: Variables,
    images: UInt8[np.ndarray, "n h w 3"],
) -> Float[Array, "_"]:
    """Returns `Detector.foreground`, found from some of the training images."""
    if not settings.leaves_background_out:
        return jnp.zeros(0)

    @jax.jit
    def describe(variables, batch):
        return _described(networks, settings, variables, batch)[1:]

    count = min(len(images), MOST_FOR_FOREGROUND)
    some = images[np.linspace(0, len(images) - 1, count).astype(int)]
    size = fitted_batch_size(build.batch_size, count)
    described, norms = concatenate(batched(partial(describe, extractor), some, size, "foreground"))
    return jnp.asarray(find_foreground(described, np.asarray(_scale(norms.mean(0)))))


def _described(
    networks: Networks,
    settings: Settings,
    extractor: Variables,
    images: UInt8[Array, "b h w 3"],
) -> tuple[Float[Array, "b d"], Float[Array, "b _rows _columns p"], Float[Array, "b p"]]:
    """Returns pooled features, patches and stage norms; the last two only with a patch map."""
    features = extract(networks.extractor, extractor, to_network_range(images, settings.image_size))
    pooled = noise_level.pool_features(features[settings.knn_stage - 1])
    if settings.scoring != "fused":
        return pooled, jnp.zeros((len(images), 0, 0, 0)), jnp.zeros((len(images), 0))
    chosen = [features[stage - 1] for stage in settings.patch_stages]
    return pooled, patches.describe(chosen), patches.stage_norms(chosen)


def _scale(norms: Float[Array, " p"] | Float[np.ndarray, " p"]) -> Float[Array, " p"]:
    """Returns `Detector.patch_scale`, from the mean norms of the stages."""
    return 1.0 / jnp.maximum(norms, 1e-6)


def _training_distances(pooled: Float[Array, "n d"], settings: Settings) -> Float[Array, " n"]:
    own = jnp.arange(pooled.shape[0]) if settings.leave_one_out else None
    return jax.jit(noise_level.mean_distance, static_argnums=(2, 3))(
        pooled, pooled, settings.num_neighbours, settings.metric, own
    )


def _patch_bank(
    points: Float[Array, "n p"], origins: Int[np.ndarray, " n"], size: int, seed: int
) -> tuple[Float[Array, "k p"], Int[np.ndarray, " k"]]:
    """Returns the bank of normal patches, and the image that each is from."""
    if not 0 < size < len(points):
        return points, origins
    chosen = jax.jit(patches.coreset, static_argnums=1)(points, size, jax.random.key(seed))
    return points[chosen], origins[np.asarray(chosen)]
