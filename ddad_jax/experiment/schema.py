"""Every setting of an experiment, and the objects that the settings describe."""

import json
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal

from ddad_jax import models, settings
from ddad_jax.benchmark.run import BenchmarkSettings
from ddad_jax.data.augment import AugmentationSettings
from ddad_jax.deploy.outputs import PredictionSettings
from ddad_jax.detection.build import BuildSettings
from ddad_jax.detection.detector import Networks, Settings
from ddad_jax.detection.networks import build_networks, stage_channels
from ddad_jax.diffusion.schedule import Prediction, ScheduleSettings
from ddad_jax.errors import UserError
from ddad_jax.serving.settings import ServeSettings
from ddad_jax.settings import Checked, SettingError, section, setting
from ddad_jax.training.mesh import MeshSettings
from ddad_jax.training.state import TrainSettings

NETWORKS = ("autoencoder", "denoiser", "extractor")
# Attributes of networks that only save memory and change no result.
IMMATERIAL = ("remat",)
# The detection settings that each preset decides, unless they are given.
PRESETS: dict[str, dict[str, Any]] = {
    "paper": {
        "scoring": "paper",
        "num_steps": 10,
        "latent_weight": 0.85,
        "reconstruction": "denoised",
        "reconstruct": True,
    },
    "full": {
        "scoring": "fused",
        "num_steps": 2,
        "latent_weight": 1.0,
        "reconstruction": "restored",
        "reconstruct": True,
    },
    "fast": {
        "scoring": "fused",
        "num_steps": 2,
        "latent_weight": 1.0,
        "reconstruction": "restored",
        "reconstruct": False,
    },
}


@dataclass(frozen=True)
class TilingSettings(Checked):
    """Large images are cut into squares, which are then scaled to the networks' size.

    Attributes:
      tile: side of the squares in pixels; 0: images stay whole.
      overlap: the fewest pixels that neighbouring squares share.
    """

    tile: int = setting(0, changes="autoencoder", low=0)
    overlap: int = setting(0, changes="autoencoder", low=0)

    def check_together(self) -> None:
        """Raises SettingError if the overlap is not smaller than a tile."""
        most = max(self.tile - 1, 0)
        if self.overlap > most:
            raise SettingError("overlap", f"{self.overlap} must be at least 0 and at most {most}")


@dataclass(frozen=True)
class DataSettings(Checked):
    """Where images come from and how they are prepared, in the order in which that happens.

    Attributes:
      source: the kind of data set (docs/datasets.md): "mvtec", "mvtec_ad2", "mvtec_loco",
        "mvtec_3d", "visa", "real_iad", "btad", "ksdd", "ksdd2", "dagm" or "elpv"; or "folder",
        "manifest", "tfds" or "synthetic".
      root: the data set's folder or table; may be gs://… or s3://….
      category: the product, or several separated by commas; empty: every category under the root.
        Several are processed one after the other, each in a folder of its own.
      unified: whether several categories get one detector: networks and banks of all their images,
        with bank sizes for all together, and a calibration and threshold for each category. A
        photograph is judged as the category that it most resembles.
      size: side in pixels of the square images that the networks see; extractor.size may differ for
        the extractor.
      resize: how an image becomes square: "stretch", "pad" or "crop".
      tiling: see `TilingSettings`.
      on_unreadable: "error" stops at a training or test image that cannot be read; "skip" warns and
        leaves it out.
      heldout_fraction: share of the normal training images that is kept out of all training, for
        calibration and validation, if the data set has no validation images of its own.
      cache: folder for decoded images and latents; empty: in the working directory.
      augmentation: see `AugmentationSettings`; with any, latents are encoded anew at each step.
      category_augmentation: by category, the augmentation settings that differ there, such as
        {"screw": {"max_rotation": 45.0}}.
      settings: the source's own settings, as its function in `ddad_jax.data` documents them.
    """

    source: str = setting("mvtec", changes="nothing")
    root: str = setting("", changes="nothing", path=True)
    category: str = setting("", changes="nothing")
    unified: bool = setting(False, changes="nothing")
    size: int = setting(256, changes="autoencoder", low=1)
    resize: Literal["stretch", "pad", "crop"] = setting("stretch", changes="autoencoder")
    tiling: TilingSettings = section(TilingSettings)
    on_unreadable: Literal["error", "skip"] = setting("error", changes="nothing")
    heldout_fraction: float = setting(0.1, changes="autoencoder", above=0, below=1)
    cache: str = setting("", changes="nothing", path=True)
    augmentation: AugmentationSettings = section(AugmentationSettings)
    category_augmentation: dict[str, Any] = setting({}, changes="autoencoder")
    settings: dict[str, Any] = setting({}, changes="nothing")

    def check_together(self) -> None:
        """Raises SettingError for an empty or repeated category, or one augmented in `unified`."""
        names = self.categories
        if "" in names or len({*names}) < len(names):
            raise SettingError(
                "category", f"'{self.category}' has an empty or a repeated name between commas"
            )
        if self.unified and self.category_augmentation:
            raise SettingError(
                "category_augmentation",
                "is for networks of one category, but data.unified trains them on all; use "
                "data.augmentation",
            )

    @property
    def categories(self) -> list[str]:
        """The categories that are named, in that order."""
        return [name.strip() for name in self.category.split(",")] if self.category else []

    def augmentation_of(self, category: str) -> AugmentationSettings:
        """Returns the augmentation of a category's training images.

        Raises:
          SettingError: `category_augmentation` has a wrong entry; names it.
        """
        own = self.category_augmentation.get(category, {})
        default = {f.name: getattr(self.augmentation, f.name) for f in fields(self.augmentation)}
        try:
            return settings.read(AugmentationSettings, default | dict(own))
        except SettingError as error:
            raise error.within(f"data.category_augmentation.{category}") from error


@dataclass(frozen=True)
class AutoencoderSettings(Checked):
    """The autoencoder, pretrained or trained here.

    Attributes:
      name: which one, from `ddad_jax.models.AUTOENCODERS`.
      network: the attributes of its module.
      weights: name or path of its weights; empty: trained from scratch.
      latent_scale: z = scale · E(x); 0: each channel is scaled to mean 0 and deviation 1 on the
        training images.
      feature_weight: weight, in training, of the distance between the extractor's features.
      latent_weight: weight, in training, of the latents' regularisation: their divergence from a
        normal distribution, or, if the autoencoder is not variational, their mean square.
      crop_size: side in pixels of the random squares it is trained on; 0: whole images.
      training: see `TrainSettings`.
    """

    name: str = setting("kl", changes="own")
    network: dict[str, Any] = setting({}, changes="own")
    weights: str = setting("", changes="nothing", path=True)
    latent_scale: float = setting(0.18215, changes="denoiser", low=0)
    feature_weight: float = setting(1.0, changes="own", low=0)
    latent_weight: float = setting(1e-6, changes="own", low=0)
    crop_size: int = setting(0, changes="own", low=0)
    training: TrainSettings = section(TrainSettings, epochs=600)


@dataclass(frozen=True)
class DenoiserSettings(Checked):
    """The denoiser, ε_θ(z_t, t).

    Attributes:
      network: the attributes of its module, `ddad_jax.models.UNet`.
      weights: name or path of its weights; empty: trained here.
      max_timestep: training timesteps are drawn below this; 0: from the whole schedule.
      prediction: what it outputs: "noise", "velocity" or "latent".
      weighting: weighting of the loss: "plain" or "min_snr".
      training: see `TrainSettings`.
    """

    network: dict[str, Any] = setting(models.network_settings(models.UNet), changes="own")
    weights: str = setting("", changes="nothing", path=True)
    max_timestep: int = setting(0, changes="own", low=0)
    prediction: Prediction = setting("noise", changes="own")
    weighting: Literal["plain", "min_snr"] = setting("plain", changes="own")
    training: TrainSettings = section(TrainSettings, batch_size=30, epochs=300)


@dataclass(frozen=True)
class ExtractorSettings(Checked):
    """The feature extractor, and its adaptation to the domain.

    Attributes:
      name: which one, from `ddad_jax.models.EXTRACTORS`.
      network: the attributes of its module.
      weights: name or path of its weights.
      size: side in pixels of the images that it sees; 0: data.size. If it is larger than data.size,
        photographs and maps have this size; the autoencoder still sees data.size.
      distillation_weight: λ_DL of DDAD: how strongly adapted features are kept near the original.
      training: of the adaptation, see `TrainSettings`; 0 steps and 0 epochs leave the extractor as
        it is. It stops when its objective no longer improves on held-out images; build.planted says
        whether its result is used.
    """

    name: str = setting("resnet34", changes="own")
    network: dict[str, Any] = setting({}, changes="own")
    weights: str = setting("resnet34", changes="nothing", path=True)
    size: int = setting(0, changes="own", low=0)
    distillation_weight: float = setting(0.0, changes="own", low=0)
    training: TrainSettings = section(TrainSettings, validate_every=20)


@dataclass(frozen=True)
class EvaluationSettings(Checked):
    """How the metrics are computed.

    Attributes:
      protocol: "exact", MVTec AD's definitions, or "paper", which adds what the official code
        computes.
      resolution: resolution of maps and masks: "network", that of the networks' input, or
        "original", that of the photographs, which tiled ones always have.
      planted: how many defects --mode=validate plants in good images.
      ablate_on: what --mode=ablate scores: the "test" images, or "planted" defects, as
        --mode=validate does, to choose between settings without labels.
    """

    protocol: Literal["exact", "paper"] = setting("exact", changes="metrics")
    resolution: Literal["network", "original"] = setting("network", changes="metrics")
    planted: int = setting(256, changes="metrics", low=1)
    ablate_on: Literal["test", "planted"] = setting("test", changes="metrics")


@dataclass(frozen=True)
class Config(Checked):
    """All settings; the defaults are the published values, or those of preset "full".

    Attributes:
      preset: detection settings that trade time for output. "paper": the method as published, in
        ten steps. "full": two steps; the distance of each patch to the nearest normal patch counts
        too, and images are restored where a patch resembles no normal one. "fast": as "full", but
        images without their defect are made only on request. It decides detection.scoring,
        num_steps, latent_weight, reconstruction and reconstruct, unless they are given.
      seed: seed of everything random: split, weights, batches, noise, banks.
      dtype: compute type of autoencoder and denoiser; parameters and the extractor's features are
        always float32.
      data: see `DataSettings`.
      diffusion: see `ScheduleSettings`.
      autoencoder: see `AutoencoderSettings`.
      denoiser: see `DenoiserSettings`.
      extractor: see `ExtractorSettings`.
      detection: see `Settings`.
      build: see `BuildSettings`.
      evaluation: see `EvaluationSettings`.
      prediction: see `PredictionSettings`.
      serve: see `ServeSettings`.
      benchmark: see `BenchmarkSettings`.
      mesh: see `MeshSettings`.
    """

    preset: Literal["paper", "full", "fast"] = setting("full", changes="nothing")
    seed: int = setting(0, changes="autoencoder", low=0, high=2**31 - 1)
    dtype: Literal["float32", "bfloat16"] = setting("float32", changes="autoencoder")
    data: DataSettings = section(DataSettings)
    diffusion: ScheduleSettings = section(ScheduleSettings)
    autoencoder: AutoencoderSettings = section(AutoencoderSettings)
    denoiser: DenoiserSettings = section(DenoiserSettings)
    extractor: ExtractorSettings = section(ExtractorSettings)
    detection: Settings = section(Settings, **PRESETS["full"])
    build: BuildSettings = section(BuildSettings)
    evaluation: EvaluationSettings = section(EvaluationSettings)
    prediction: PredictionSettings = section(PredictionSettings)
    serve: ServeSettings = section(ServeSettings)
    benchmark: BenchmarkSettings = section(BenchmarkSettings)
    mesh: MeshSettings = section(MeshSettings)

    def check_together(self) -> None:
        """Raises SettingError if settings of two sections do not fit together."""
        timesteps = self.diffusion.num_timesteps
        limits = {
            "detection.max_noise_level": (self.detection.max_noise_level, timesteps - 1),
            "denoiser.max_timestep": (self.denoiser.max_timestep, timesteps),
            "autoencoder.crop_size": (self.autoencoder.crop_size, self.data.size),
        }
        for name, (value, most) in limits.items():
            if value > most:
                raise SettingError(name, f"{value} must be at most {most}")
        if self.evaluation.protocol == "paper" and self.data.tiling.tile:
            raise SettingError(
                "evaluation.protocol",
                "'paper' is for whole images; use 'exact', or data.tiling.tile=0",
            )
        if self.data.unified and self.detection.score_share:
            raise SettingError(
                "detection.score_share",
                f"{self.detection.score_share:g} must be 0 with data.unified, since one factor "
                "brings both a category's scores and its pixels to the thresholds of all",
            )
        if self.detection.score_metric == "cosine" and (self.data.unified or self.data.tiling.tile):
            raise SettingError(
                "detection.score_metric",
                "'cosine' is neither for tiled photographs, whose score is from their anomaly map, "
                "nor for data.unified, where one factor brings both a category's scores and its "
                "pixels to the thresholds of all; use 'map'",
            )
        patches_alone = self.detection.scoring == "fused" and self.detection.patch_weight == 1
        if self.evaluation.protocol == "paper" and patches_alone:
            raise SettingError(
                "evaluation.protocol",
                "'paper' needs the reconstruction's maps; use a detection.patch_weight below 1",
            )
        for network in NETWORKS:
            for name in getattr(self, network).network:
                if name in models.NOT_SET:
                    raise SettingError(
                        f"{network}.network.{name}", "follows from other settings; leave it out"
                    )

    @property
    def detector(self) -> Settings:
        """The detector's settings, with those that follow from other sections."""
        size, prediction = self.image_size, self.denoiser.prediction
        return replace(self.detection, image_size=size, prediction=prediction)

    @property
    def image_size(self) -> int:
        """Side in pixels of the squares that photographs become: the most that a network sees."""
        return max(self.data.size, self.extractor.size)

    @property
    def description(self) -> dict[str, Any]:
        """The arguments of `build_networks`, serialisable, as an artifact stores them."""
        return {
            "autoencoder": {"name": self.autoencoder.name, "network": self.autoencoder.network},
            "denoiser": {"network": self.denoiser.network},
            "extractor": {
                "name": self.extractor.name,
                "network": self.extractor.network,
                "size": self.extractor.size,
            },
            "image_size": self.data.size,
            "dtype": self.dtype,
        }

    def networks(self) -> Networks:
        """Returns the modules, without parameters, checked to fit each other and the image size.

        Raises:
          UserError: a setting is not allowed; names it.
        """
        self.check_stages()
        built = build_networks(**self.description)
        for name in NETWORKS:
            try:
                models.abstract_variables(getattr(built, name))
            except UserError as error:
                raise SettingError(f"{name}.network", str(error)) from error
        return built

    def check_stages(self) -> None:
        """Raises SettingError if the stages that describe a patch cannot be averaged."""
        d = self.detection
        if d.scoring != "fused" or d.patch_layers != "averaged":
            return
        channels = stage_channels(build_networks(**self.description).extractor, self.image_size)
        found = [channels[stage - 1] for stage in d.patch_stages]
        if len({*found}) > 1:
            raise SettingError(
                "detection.patch_stages",
                f"the stages {d.patch_stages} of {self.extractor.name} have {found} channels, but "
                "only stages with equally many can be averaged; name such stages, or use "
                "detection.patch_layers=joined",
            )

    @property
    def at_original(self) -> bool:
        """Whether maps and masks have the original images' resolution instead of the networks'."""
        return bool(self.data.tiling.tile) or self.evaluation.resolution == "original"

    def plain(self) -> dict[str, Any]:
        """Returns every setting, as JSON holds it."""
        return json.loads(json.dumps(asdict(self)))

    def of_preset(self, preset: str) -> "Config":
        """Returns the config with another preset; keeps what differs from the current one."""
        decided = {
            f"detection.{name}": value
            for name, value in PRESETS[preset].items()
            if getattr(self.detection, name) == PRESETS[self.preset][name]
        }
        return settings.changed(self, {"preset": preset, **decided})

    def of_category(self, category: str) -> "Config":
        """Returns the config for one category, with its own augmentation."""
        own = self.data.augmentation_of(category)
        data = replace(
            self.data, augmentation=own, category_augmentation={}, category=category, unified=False
        )
        return replace(self, data=data)
