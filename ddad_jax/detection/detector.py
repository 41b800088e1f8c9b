"""The detector: everything that inference needs, and how it is laid over several devices."""

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
# A stage of the extractor, by its number.
Stage = Literal[1, 2, 3]
# A field of a pytree: an array, whose shape its docstring gives, or whatever a transformation of
# JAX puts in its place.
Leaf = Any


@dataclasses.dataclass(frozen=True)
class Networks:
    """The three networks, without parameters.

    `autoencoder` maps images in [-1, 1] to latents and back (`encode`, `decode`), `denoiser` is
    ε_θ(z_t, t), `extractor` gives the feature stages of normalised images.
    """

    autoencoder: ImageNetwork
    denoiser: nn.Module
    extractor: Extractor


@dataclasses.dataclass(frozen=True)
class Settings(Checked):
    """Every choice of the method that the compiled program depends on (docs/method.md).

    Attributes:
      image_size: height and width of the images and of all maps, in pixels.
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
      patch_layers: whether these stages are "joined" into one long vector, or "averaged", which
        takes stages of as many channels each. Each is divided by its usual norm before.
      patch_metric: how far a patch is from a normal one: "l2", the Euclidean distance, or "cosine",
        1 - the cosine of the angle between them; "planted": the one of these that tells more
        planted defects from good images (build.planted), and "l2" where nothing can tell.
      foreground: whether patches of the background are left out of the bank and of the patch map,
        by the sign of the first principal component of good images' patches. It counts only where
        it clearly tells the middle of these images from their edge. Where a component is missing
        the background shows, and so the patch map does not tell.
      patch_weight: weight in [0, 1] of the patch map where scoring is "fused".
      score_share: the score is the mean of so large a share of the anomaly map's pixels, the
        highest, such as 0.01; 0: of the highest pixel alone.
      smallest_region: share of a photograph; defective regions below are specks, and left out.
      reconstruction: what the image without defect is. "denoised": the paper's, whose latent the
        maps compare. "restored": the image's own latent, made anew from training latents where
        patches are like no normal one; as "denoised" where the patch map has no weight.
      reconstruct: whether the image without defect is made of every image, or only where it is
        asked for. Where the feature map has no weight (λ = 1) the decoder serves nothing else.
    """

    image_size: int = 256
    prediction: schedule.Prediction = "noise"
    # What the reconstruction depends on, an adapted extractor has been taught with.
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
    patch_metric: Literal["planted", "l2", "cosine"] = setting("l2", changes="detector")
    foreground: bool = setting(False, changes="detector")
    patch_weight: float = setting(0.65, changes="detector", low=0, high=1)
    score_share: float = setting(0.0, changes="detector", low=0, high=1)
    smallest_region: float = setting(0.0001, changes="detector", low=0, below=1)
    reconstruction: Literal["denoised", "restored"] = setting("denoised", changes="detector")
    reconstruct: bool = setting(True, changes="metrics")

    def check_together(self) -> None:
        """Raises SettingError: bins or steps that do not fit, or no stage to look at."""
        if self.min_bin > self.num_bins:
            raise SettingError("min_bin", f"{self.min_bin} is above num_bins, {self.num_bins}")
        if self.max_noise_level % self.num_steps:
            raise SettingError(
                "max_noise_level",
                f"{self.max_noise_level} is not a multiple of num_steps, {self.num_steps}; each "
                "step spans the same timesteps",
            )
        for name in ("feature_stages", "patch_stages"):
            if not getattr(self, name):
                raise SettingError(name, "is empty; name at least one of the stages 1, 2, 3")

    @property
    def draws(self) -> bool:
        """Whether the reconstruction takes random numbers."""
        return self.start == "noised" or self.stochasticity > 0

    @property
    def restores(self) -> bool:
        """Whether the image without defect is restored by the patch map."""
        patches_count = self.scoring == "fused" and self.patch_weight > 0
        return self.reconstruction == "restored" and patches_count

    @property
    def leaves_background_out(self) -> bool:
        """Whether patches of the background count nowhere."""
        return self.scoring == "fused" and self.foreground


class Calibration(flax.struct.PyTreeNode):
    """What normal images that no network was trained on look like to the detector.

    Attributes:
      location: of each kind of evidence, what maps to 0 at each pixel, [2, h, w], or at all of
        them, [2, 1, 1]: at T̂ = 0, and its change for each timestep of T̂.
      scale: of each kind of evidence, the distance from `location` that maps to 1, [2], likewise.
      threshold: scalar; the score above which an image is called anomalous.
      pixel_threshold: scalar; the value of the anomaly map above which a pixel is defective.
      sigma_threshold: scalar; mean and three standard deviations of normal images' pixels, which
        MVTec AD 2 takes for one; infinite where a file of an older format does not say.
      spread: scalar; the scale of normal images' scores about their median, in units of the score.
      scores: of the normal images that the thresholds are from, [n]; none where a file of an older
        format does not say.
      peaks: the highest pixel of each of their anomaly maps, [n], likewise.
      patch_limit: scalar; patches farther than this from the nearest normal one are made anew where
        images are restored.
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
    """How a further kind of good part is calibrated: another category, or one added later.

    Attributes:
      location: see `Calibration`.
      scale: see `Calibration`.
      factor: scalar; what its anomaly maps are multiplied by, so that its threshold becomes the
        detector's.
      patch_limit: see `Calibration`.
    """

    location: dict[str, Leaf]
    scale: dict[str, Leaf]
    factor: Leaf
    patch_limit: Leaf

    @classmethod
    def of(cls, calibration: Calibration) -> "Kind":
        """That of a calibration; its factor is still 1."""
        factor = jnp.float32(1.0)
        return cls(calibration.location, calibration.scale, factor, calibration.patch_limit)


class Detector(flax.struct.PyTreeNode):
    """A fitted detector: a pytree of arrays, with its networks and settings as static data.

    Attributes:
      autoencoder, denoiser, extractor: variables of the networks.
      latent_shift, latent_scale: z = (E(x) - shift) · scale, float [c].
      alpha_bar: the noise schedule's table, float [timesteps + 1].
      bank: pooled features of the training images, float [n, d].
      bank_kind: of which kind of good part each row of the bank is, int [n]; 0: of the first, which
        `calibration` is of, k: of `kinds[k - 1]`.
      bin_edges: edges of the distance bins, float [bins + 1].
      patch_bank: normal patches as they are compared, float [m, q]; empty where scoring is "paper".
      patch_scale: what each feature of a patch is multiplied by, so that every stage counts alike,
        float [p].
      foreground: weights of a patch's features and, last, what is added to their sum, float
        [p + 1]: where that is above 0, the patch is of the foreground; empty where all patches
        count.
      latent_bank: latents of training images, float [l, h, w, c]; empty where images are not
        restored.
      calibration: see `Calibration`.
      kinds: other categories that it was fitted to, and those that it was extended by. An image is
        of the kind of the row of the bank that it is nearest to.
      kind_names: what all kinds are called, the first before those of `kinds`; empty where it was
        fitted to one.
      mesh: the devices it is laid over, as `shard_detector` does; None for one device.
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
        """The mesh's axes, all of which images and banks' rows are divided over; None without."""
        return None if self.mesh is None else self.mesh.axis_names

    @property
    def device_count(self) -> int:
        """Number of devices; batches must be multiples of it."""
        return 1 if self.mesh is None else self.mesh.size


def with_reconstruct(detector: Detector, reconstruct: bool) -> Detector:
    """The detector with `Settings.reconstruct` as asked; nothing else that it says changes."""
    return detector.replace(
        settings=dataclasses.replace(detector.settings, reconstruct=reconstruct)
    )


def shard_detector(detector: Detector, mesh: Mesh) -> Detector:
    """The detector laid over a mesh: each device has a part of the two banks and all the rest.

    Batches are divided over all devices likewise. Each bank is filled up to a multiple of them with
    rows of NaN, which are nobody's neighbours. Over one device the detector is as it was.
    """
    if mesh.size == 1:
        return detector
    divided = _fill_banks(detector, mesh)
    return jax.tree.map(lay_out, divided, _shardings(divided))


def outline_detector(detector: Detector, mesh: Mesh) -> Detector:
    """Shapes and shardings of what `shard_detector` makes, of a detector or of its shapes.

    Over one device too they say which, as of a device that is not there.
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
    """The sharding of each array of a detector on its mesh."""
    assert detector.mesh is not None  # There are none without.
    mesh = detector.mesh
    return jax.tree.map(lambda spec: NamedSharding(mesh, spec), _layout(detector))


def over_devices(function: Callable[..., PyTree]) -> Callable[..., PyTree]:
    """A function of a detector and a batch, each device doing its part where there are several."""

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
    """The partition of each array of a detector on its mesh."""
    everywhere = jax.tree.map(lambda _: PartitionSpec(), detector)
    rows = PartitionSpec(detector.axes)
    return everywhere.replace(bank=rows, bank_kind=rows, patch_bank=rows)
