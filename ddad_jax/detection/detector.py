"""The detector: everything that inference needs, and how it is divided over several devices."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, PyTree

from ddad_jax.detection.nearest import Metric
from ddad_jax.detection.noise_level import BinSpacing
from ddad_jax.diffusion import schedule
from ddad_jax.machine.division import lay_out
from ddad_jax.models import Extractor, ImageNetwork
from ddad_jax.settings import Checked, SettingError, setting

Variables = Mapping[str, Any]
# The number of a stage of the extractor.
Stage = Literal[1, 2, 3]
# A field of a pytree: an array, whose shape the docstring gives, or what a JAX transformation puts
# in its place.
Leaf = Any


@dataclasses.dataclass(frozen=True)
class Networks:
    """The three networks, without parameters.

    `autoencoder` maps images in [-1, 1] to latents and back (`encode`, `decode`), `denoiser` is
    ε_θ(z_t, t), and `extractor` computes the feature stages of normalised images.
    """

    autoencoder: ImageNetwork
    denoiser: nn.Module
    extractor: Extractor


@dataclasses.dataclass(frozen=True)
class Settings(Checked):
    """All choices of the method that the compiled program depends on (docs/method.md).

    Attributes:
      image_size: height and width of the images and of all maps, in pixels.
      prediction: what the denoiser was trained to output.
      noise_level: "dynamic", one per image from its k-NN distance, or "static".
      max_noise_level: T_max; with a static noise level, the level of every image.
      num_bins: bins that the range of distances is cut into.
      min_bin: the smallest bin that is used.
      bin_spacing: "equidistant" (paper) or "quantile" bins.
      num_neighbours: K of the k-NN.
      metric: "l1" (paper) or "l2".
      leave_one_out: whether a training image is left out of its own neighbours; the official code
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
      patch_layers: whether these stages are "joined" into one long vector, or "averaged", which
        needs stages with the same number of channels. Each is first divided by its usual norm.
      patch_metric: how far a patch is from a normal one: "l2", the Euclidean distance, or "cosine",
        1 - the cosine of the angle between them.
      foreground: whether patches of the background are left out of the bank and of the patch map.
        They are found by the sign of the first principal component of good images' patches, which
        counts only if it clearly separates the middle of these images from their edge. Where a
        piece of the part is missing, the background shows, and the patch map does not see it.
      patch_weight: weight in [0, 1] of the patch map if scoring is "fused".
      score_metric: how the score compares patches: "map", as the anomaly map does, or "cosine", so
        that the score comes from a second map; "planted": whichever of the two separates planted
        defects better from good images (build.planted), or "map" if they cannot decide.
      score_share: the score is the mean of this share of the map's pixels, the highest ones; 0.01,
        for example. 0: the score is the highest pixel.
      smallest_region: share of a photograph; smaller defective regions are left out as specks.
      reconstruction: what the image without its defect is. "denoised": the paper's, whose latent
        the maps compare. "restored": the image's own latent, replaced by training latents where
        patches resemble no normal one; same as "denoised" if the patch map has no weight.
      reconstruct: whether the image without its defect is made for every image, or only on request.
        If the feature map has no weight (λ = 1), the decoder is needed for nothing else.
    """

    image_size: int = 256
    prediction: schedule.Prediction = "noise"
    # Settings of the reconstruction that adaptation depends on change the extractor.
    noise_level: Literal["dynamic", "static"] = setting("dynamic", changes="detector")
    max_noise_level: int = setting(80, changes="extractor", low=1)
    num_bins: int = setting(10, changes="extractor", low=1)
    min_bin: int = setting(2, changes="detector", low=1)
    bin_spacing: BinSpacing = setting("equidistant", changes="detector")
    num_neighbours: int = setting(20, changes="detector", low=1)
    metric: Metric = setting("l1", changes="detector")
    leave_one_out: bool = setting(True, changes="detector")
    knn_stage: Stage = setting(2, changes="detector")
    start: Literal["scaled", "noised"] = setting("scaled", changes="extractor")
    num_steps: int = setting(10, changes="extractor", low=1)
    conditioning_weight: float = setting(4.0, changes="extractor", low=0)
    stochasticity: float = setting(0.0, changes="extractor", low=0, high=1)
    feature_stages: tuple[Stage, ...] = setting((2, 3), changes="detector")
    feature_pooling: int = setting(1, changes="detector", low=1)
    latent_weight: float = setting(0.85, changes="detector", low=0, high=1)
    blur: float = setting(4.0, changes="detector", low=0)
    scoring: Literal["fused", "paper"] = setting("fused", changes="detector")
    patch_stages: tuple[Stage, ...] = setting((2, 3), changes="detector")
    patch_layers: Literal["joined", "averaged"] = setting("joined", changes="detector")
    patch_metric: Literal["l2", "cosine"] = setting("l2", changes="detector")
    foreground: bool = setting(False, changes="detector")
    patch_weight: float = setting(0.65, changes="detector", low=0, high=1)
    score_metric: Literal["map", "cosine", "planted"] = setting("map", changes="detector")
    score_share: float = setting(0.0, changes="detector", low=0, high=1)
    smallest_region: float = setting(0.0001, changes="detector", low=0, below=1)
    reconstruction: Literal["denoised", "restored"] = setting("denoised", changes="detector")
    reconstruct: bool = setting(True, changes="metrics")

    def check_together(self) -> None:
        """Raises SettingError if bins or steps do not fit, or if no stage is named."""
        if self.min_bin > self.num_bins:
            raise SettingError("min_bin", f"{self.min_bin} is above num_bins, {self.num_bins}")
        if self.max_noise_level % self.num_steps:
            raise SettingError(
                "max_noise_level",
                f"{self.max_noise_level} is not a multiple of num_steps, {self.num_steps}; all "
                "steps must span equally many timesteps",
            )
        for name in ("feature_stages", "patch_stages"):
            if not getattr(self, name):
                raise SettingError(name, "is empty; name at least one of the stages 1, 2, 3")

    @property
    def draws(self) -> bool:
        """Whether the reconstruction uses random numbers."""
        return self.start == "noised" or self.stochasticity > 0

    @property
    def restores(self) -> bool:
        """Whether the image without its defect is restored, where the patch map says so."""
        return self.reconstruction == "restored" and self.patches_count

    @property
    def patches_count(self) -> bool:
        """Whether the patch map has a weight."""
        return self.scoring == "fused" and self.patch_weight > 0

    @property
    def scores_by_cosine(self) -> bool:
        """Whether the score compares patches by the cosine, but the anomaly map does not."""
        by_cosine = self.score_metric == "cosine" and self.patch_metric != "cosine"
        return self.patches_count and by_cosine

    @property
    def score_is_peak(self) -> bool:
        """Whether the score is the highest pixel of the anomaly map."""
        return not self.score_share and not self.scores_by_cosine

    @property
    def leaves_background_out(self) -> bool:
        """Whether patches of the background are left out."""
        return self.scoring == "fused" and self.foreground


class Calibration(flax.struct.PyTreeNode):
    """What normal images that its banks do not hold look like to the detector.

    Attributes:
      location: by kind of evidence, the value that becomes 0, at each pixel [2, h, w] or at all
        [2, 1, 1]: its value at T̂ = 0, and its change per timestep of T̂.
      scale: by kind of evidence, the distance from `location` that becomes 1, [2], in the same way.
      threshold: scalar; the score above which an image is called anomalous.
      pixel_threshold: scalar; the value of the anomaly map above which a pixel is defective.
      sigma_threshold: scalar; mean plus three standard deviations of normal images' pixels, MVTec
        AD 2's pixel threshold; infinite if a file of an older format lacks it.
      spread: scalar; the scale of normal images' scores about their median, in units of the score.
      scores: of the normal images that the thresholds are from, [n]; empty if a file of an older
        format lacks them.
      peaks: the highest pixel of each of their anomaly maps, [n]; if a file lacks them, the scores.
      patch_limit: scalar; patches farther than this from the nearest normal one are replaced when
        an image is restored.
    """

    location: dict[str, Leaf]
    scale: dict[str, Leaf]
    threshold: Leaf
    pixel_threshold: Leaf
    sigma_threshold: Leaf
    spread: Leaf
    scores: Leaf
    peaks: Leaf
    patch_limit: Leaf


class Kind(flax.struct.PyTreeNode):
    """The calibration of a further kind of good part: another category, or one added later.

    Attributes:
      location: see `Calibration`.
      scale: see `Calibration`.
      factor: scalar; its anomaly maps are multiplied by it, so that the detector's threshold holds
        for them.
      patch_limit: see `Calibration`.
    """

    location: dict[str, Leaf]
    scale: dict[str, Leaf]
    factor: Leaf
    patch_limit: Leaf

    @classmethod
    def of(cls, calibration: Calibration) -> "Kind":
        """Makes a kind from a calibration; its factor is still 1."""
        factor = jnp.float32(1.0)
        return cls(calibration.location, calibration.scale, factor, calibration.patch_limit)


class Detector(flax.struct.PyTreeNode):
    """A fitted detector: a pytree of arrays, with its networks and settings as static data.

    Attributes:
      autoencoder, denoiser, extractor: variables of the networks.
      latent_shift, latent_scale: z = (E(x) - shift) · scale, float [c].
      alpha_bar: the noise schedule's table, float [timesteps + 1].
      bank: pooled features of the training images, float [n, d].
      bank_kind: the kind of good part of each row of the bank, int [n]; 0: the first kind, which
        `calibration` is of; k: `kinds[k - 1]`.
      bin_edges: edges of the distance bins, float [bins + 1].
      patch_bank: normal patches as they are compared, float [m, q]; empty if scoring is "paper".
      patch_scale: factor for each feature of a patch, so that every stage has the same weight,
        float [p].
      foreground: weights of a patch's features, then an offset, float [p + 1]: if the weighted sum
        plus the offset is above 0, the patch is foreground; empty if all patches count.
      latent_bank: latents of training images, float [l, h, w, c]; empty if images are not restored.
      calibration: of the first kind; see `Calibration`.
      kinds: further kinds: the other categories that it was fitted to, and those that extend it.
        An image has the kind of the nearest row of the bank.
      kind_names: names of all kinds, the first kind first; empty if it was fitted to one category.
      mesh: the devices it is divided over, as by `shard_detector`; None for one device.
    """

    autoencoder: Variables
    denoiser: Variables
    extractor: Variables
    latent_shift: Leaf
    latent_scale: Leaf
    alpha_bar: Leaf
    bank: Leaf
    bank_kind: Leaf
    bin_edges: Leaf
    patch_bank: Leaf
    patch_scale: Leaf
    foreground: Leaf
    latent_bank: Leaf
    calibration: Calibration
    kinds: tuple[Kind, ...]
    networks: Networks = flax.struct.field(pytree_node=False)
    settings: Settings = flax.struct.field(pytree_node=False)
    kind_names: tuple[str, ...] = flax.struct.field(pytree_node=False, default=())
    mesh: Mesh | None = flax.struct.field(pytree_node=False, default=None)

    @property
    def axes(self) -> tuple[str, ...] | None:
        """All axes of the mesh, which images and rows of the banks are divided over, or None."""
        return None if self.mesh is None else self.mesh.axis_names

    @property
    def device_count(self) -> int:
        """Number of devices; batch sizes must be multiples of it."""
        return 1 if self.mesh is None else self.mesh.size


def with_reconstruct(detector: Detector, reconstruct: bool) -> Detector:
    """Returns the detector with `Settings.reconstruct` set; no other result of it changes."""
    return detector.replace(
        settings=dataclasses.replace(detector.settings, reconstruct=reconstruct)
    )


def shard_detector(detector: Detector, mesh: Mesh) -> Detector:
    """Divides a detector over a mesh: each device holds a share of the two banks and all else.

    Batches are divided over all devices, too. Each bank is padded to a multiple of their number
    with rows of NaN, which are never neighbours. For a single device the detector is unchanged.
    """
    if mesh.size == 1:
        return detector
    divided = _fill_banks(detector, mesh)
    return jax.tree.map(lay_out, divided, _shardings(divided))


def outline_detector(detector: Detector, mesh: Mesh) -> Detector:
    """Returns the shapes and shardings of `shard_detector`'s result, from a detector or its shapes.

    They name the device even if it is a single one, since it need not be on this machine.
    """
    divided = jax.eval_shape(lambda each: _fill_banks(each, mesh), detector)
    if mesh.size == 1:
        divided = divided.replace(mesh=None)
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        divided,
        _shardings(divided.replace(mesh=mesh)).replace(mesh=divided.mesh),
    )


def _fill_banks(detector: Detector, mesh: Mesh) -> Detector:
    def filled(bank: Array, value: float | int) -> Array:
        missing = -len(bank) % mesh.size
        return jnp.pad(bank, [(0, missing)] + [(0, 0)] * (bank.ndim - 1), constant_values=value)

    return detector.replace(
        bank=filled(detector.bank, jnp.nan),
        bank_kind=filled(detector.bank_kind, 0),
        patch_bank=filled(detector.patch_bank, jnp.nan),
        mesh=mesh,
    )


def _shardings(detector: Detector) -> Detector:
    """Returns the sharding of each array of a detector on its mesh."""
    assert detector.mesh is not None  # Without a mesh there are no shardings.
    mesh = detector.mesh
    return jax.tree.map(lambda spec: NamedSharding(mesh, spec), _layout(detector))


def over_devices(function: Callable[..., PyTree]) -> Callable[..., PyTree]:
    """Makes a function of detector and batch run on all of the detector's devices, if several."""

    def call(detector: Detector, images: PyTree) -> PyTree:
        if detector.mesh is None:
            return function(detector, images)
        batch = PartitionSpec(detector.axes)
        divided = jax.shard_map(
            function,
            mesh=detector.mesh,
            in_specs=(_layout(detector), batch),
            out_specs=batch,
            check_vma=False,
        )
        return divided(detector, images)

    return call


def _layout(detector: Detector) -> Detector:
    """Returns the partition of each array of a detector on its mesh."""
    everywhere = jax.tree.map(lambda _: PartitionSpec(), detector)
    rows = PartitionSpec(detector.axes)
    return everywhere.replace(bank=rows, bank_kind=rows, patch_bank=rows)
