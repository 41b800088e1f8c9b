"""From a config to the objects of the rooms; the only place that knows both."""

from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from ddad_jax import data
from ddad_jax.benchmark.run import BenchmarkSettings
from ddad_jax.data.augment import build_augmentations
from ddad_jax.data.loader import Augmentation
from ddad_jax.data.sample import Source
from ddad_jax.detection.build import BuildSettings
from ddad_jax.detection.detector import Networks, Settings
from ddad_jax.detection.networks import build_networks
from ddad_jax.errors import UserError
from ddad_jax.evaluation.metrics import PROTOCOLS
from ddad_jax.training import mesh as meshes
from ddad_jax.training.state import TrainSettings
from ddad_jax.training.trace import parse_steps

# What an artifact needs to build the networks again.
Description = dict[str, Any]


def source(config: ConfigDict, category: str) -> Source:
    """The data set of one category."""
    return data.build_source(config.data.source, config.data.root, category, **config.data.settings)


def augmentations(config: ConfigDict, category: str) -> tuple[Augmentation, ...]:
    """The augmentations of a category's training images.

    Raises:
      UserError: naming the setting that cannot be.
    """
    settings = config.data.augmentation.to_dict()
    own = config.data.category_augmentation.get(category, ConfigDict()).to_dict()
    for name in own:
        if name not in settings:
            raise UserError(
                f"data.category_augmentation.{category}: there is no augmentation '{name}'; there "
                f"are {', '.join(settings)}"
            )
    return build_augmentations(**settings | own)


def describe_networks(config: ConfigDict) -> Description:
    """The arguments of `build_networks`, serialisable."""
    return {
        "autoencoder": _named(config.autoencoder),
        "denoiser": {"network": config.denoiser.network.to_dict()},
        "extractor": _named(config.extractor),
        "image_size": config.data.size,
        "dtype": config.dtype,
    }


def _named(section: ConfigDict) -> dict[str, Any]:
    return {"name": section.name, "network": section.network.to_dict()}


def networks(config: ConfigDict) -> Networks:
    """The modules, without parameters."""
    return build_networks(**describe_networks(config))


def detection_settings(config: ConfigDict) -> Settings:
    """The detector's settings, checked against each other.

    Raises:
      UserError: naming the setting that cannot be.
    """
    choices = config.detection.to_dict()
    tiling = config.data.tiling.to_dict()
    settings = Settings(
        image_size=config.data.size, prediction=config.denoiser.prediction, **tiling, **choices
    )
    _require_range("data.tiling.tile", settings.tile, 0, 1 << 40)
    _require_range("data.tiling.overlap", settings.overlap, 0, max(settings.tile - 1, 0))
    _require_choice("dtype", config.dtype, ("float32", "bfloat16"))
    _require_choice("denoiser.prediction", settings.prediction, ("noise", "velocity", "latent"))
    _require_choice("detection.noise_level", settings.noise_level, ("dynamic", "static"))
    _require_choice("detection.bin_spacing", settings.bin_spacing, ("equidistant", "quantile"))
    _require_choice("detection.metric", settings.metric, ("l1", "l2"))
    _require_choice("detection.start", settings.start, ("scaled", "noised"))
    _require_choice("detection.scoring", settings.scoring, ("fused", "paper"))
    for name in ("latent_weight", "patch_weight", "stochasticity"):
        _require_range(f"detection.{name}", choices[name], 0, 1)
    _require_range("detection.min_bin", settings.min_bin, 1, settings.num_bins)
    _require_range("autoencoder.crop_size", config.autoencoder.crop_size, 0, config.data.size)
    timesteps = config.diffusion.num_timesteps
    _require_range("detection.max_noise_level", settings.max_noise_level, 1, timesteps - 1)
    if settings.max_noise_level % settings.num_steps:
        raise UserError(
            f"detection.max_noise_level: {settings.max_noise_level} is no multiple of "
            f"detection.num_steps, {settings.num_steps}; each step spans the same timesteps"
        )
    for name in ("feature_stages", "patch_stages"):
        if not choices[name] or not set(choices[name]) <= {1, 2, 3}:
            raise UserError(f"detection.{name}: {choices[name]} must be some of the stages 1, 2, 3")
    _require_choice("detection.knn_stage", settings.knn_stage, (1, 2, 3))
    return settings


def build_settings(config: ConfigDict) -> BuildSettings:
    """How banks and calibration are made."""
    settings = BuildSettings(**config.build)
    if not 0 < settings.false_alarm_rate < 1:
        raise UserError(
            f"build.false_alarm_rate: {settings.false_alarm_rate} must lie between 0 and 1"
        )
    for name in ("patch_bank_size", "patch_candidates", "batch_size"):
        _require_range(f"build.{name}", getattr(settings, name), 1, 1 << 40)
    _require_range("build.calibration_size", settings.calibration_size, 0, 1 << 40)
    return settings


def mesh(config: ConfigDict) -> Mesh:
    """The devices that networks are trained on.

    Raises:
      UserError: there are too few, or they cannot share the batches of a network.
    """
    made = meshes.make_mesh(**config.mesh)
    sharing = meshes.batch_devices(made)
    for network in ("autoencoder", "denoiser", "extractor"):
        settings = train_settings(config, network)
        weights = network != "extractor" and config[network].weights
        trained = (settings.steps or settings.epochs) and not weights
        if trained and settings.batch_size % (sharing * settings.accumulate):
            raise UserError(
                f"{network}.training.batch_size: {settings.batch_size} is no multiple of "
                f"{sharing * settings.accumulate}, the {sharing} devices that share a batch times "
                f"{network}.training.accumulate; choose one, or other mesh.data and mesh.model"
            )
    return made


def train_settings(config: ConfigDict, network: str) -> TrainSettings:
    """How "autoencoder", "denoiser" or "extractor" is trained."""
    settings = TrainSettings(**config[network].training)
    _require_choice(f"{network}.training.schedule", settings.schedule, ("constant", "cosine"))
    counts = (
        "batch_size",
        "accumulate",
        "checkpoint_every",
        "log_every",
        "max_skipped",
        "patience",
    )
    for name in counts:
        _require_range(f"{network}.training.{name}", getattr(settings, name), 1, 1 << 40)
    for name in ("validate_every", "sample_every"):
        _require_range(f"{network}.training.{name}", getattr(settings, name), 0, 1 << 40)
    try:
        parse_steps(settings.trace_steps)
    except ValueError as error:
        raise UserError(f"{network}.training.trace_steps: {error}") from error
    if 0 < settings.steps <= settings.warmup_steps:
        raise UserError(
            f"{network}.training.warmup_steps: {settings.warmup_steps} leaves none of the "
            f"{settings.steps} steps for training; choose fewer"
        )
    return settings


def benchmark_settings(config: ConfigDict) -> BenchmarkSettings:
    """What a benchmark measures.

    Raises:
      UserError: naming the setting that cannot be.
    """
    settings = BenchmarkSettings(**config.benchmark)
    for dtype in settings.dtypes:
        _require_choice("benchmark.dtypes", dtype, ("float32", "bfloat16"))
    for name in ("dtypes", "batch_sizes", "devices", "model"):
        if not getattr(settings, name):
            raise UserError(f"benchmark.{name}: is empty; name at least one")
    for size in settings.batch_sizes:
        _require_range("benchmark.batch_sizes", size, 1, 1 << 20)
    for count in settings.devices:
        _require_range("benchmark.devices", count, 1, jax.device_count())
        if settings.scaling_batch_size % count:
            raise UserError(
                f"benchmark.scaling_batch_size: {settings.scaling_batch_size} is no multiple of "
                f"{count}, one of benchmark.devices"
            )
    for count in settings.model:
        _require_range("benchmark.model", count, 1, jax.device_count())
        if all(devices % count for devices in settings.devices):
            raise UserError(f"benchmark.model: {count} divides none of benchmark.devices, "
                            f"{settings.devices}")  # fmt: skip
    _require_range("benchmark.train_batch_size", settings.train_batch_size, 0, 1 << 20)
    for name in ("rounds", "repeats", "bank_rows", "scaling_batch_size"):
        _require_range(f"benchmark.{name}", getattr(settings, name), 1, 1 << 30)
    return settings


def evaluation_protocol(config: ConfigDict) -> str:
    """The protocol of the figures, "exact" or "paper"."""
    protocol = config.evaluation.protocol
    _require_choice("evaluation.protocol", protocol, PROTOCOLS)
    if protocol == "paper" and config.data.tiling.tile:
        raise UserError(
            "evaluation.protocol: 'paper' is of whole images; use 'exact', or data.tiling.tile=0"
        )
    return protocol


def measured_at_original(config: ConfigDict) -> bool:
    """Whether maps and masks have the original images' resolution, and not the networks'."""
    _require_choice("evaluation.resolution", config.evaluation.resolution, ("network", "original"))
    return bool(config.data.tiling.tile) or config.evaluation.resolution == "original"


def _require_choice(name: str, value: Any, choices: tuple[Any, ...]) -> None:
    if value not in choices:
        listed = ", ".join(str(choice) for choice in choices)
        raise UserError(f"{name}: '{value}' is not one of {listed}")


def _require_range(name: str, value: float | int, low: float | int, high: float | int) -> None:
    if not low <= value <= high:
        raise UserError(f"{name}: {value} must be at least {low} and at most {high}")


def cache_folder(config: ConfigDict, workdir: Path) -> Path:
    """Where decoded images are kept."""
    return Path(config.data.cache) if config.data.cache else workdir / "cache"


def first_difference(before: Any, now: Any, names: list[str]) -> tuple[str, Any, Any]:
    """The dotted name of a setting that differs, and its two values."""
    for name in names:
        old, new = before.get(name), now.get(name)
        if isinstance(old, dict) and isinstance(new, dict):
            inner = [key for key in sorted(old | new) if old.get(key) != new.get(key)]
            if inner:
                setting, *values = first_difference(old, new, inner)
                return f"{name}.{setting}", *values
        elif old != new:
            return name, old, new
    raise ValueError("the settings are equal")
