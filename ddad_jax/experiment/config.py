"""The config: every setting of an experiment, where it comes from, and the objects it describes."""

import ast
import contextlib
import importlib.util
import json
import traceback
import typing
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from ml_collections import ConfigDict

import ddad_jax
from ddad_jax import models, settings
from ddad_jax.benchmark.run import BenchmarkSettings
from ddad_jax.data.augment import AugmentationSettings
from ddad_jax.detection.build import BuildSettings
from ddad_jax.detection.detector import Networks, Settings
from ddad_jax.detection.networks import build_networks
from ddad_jax.diffusion.schedule import Prediction, ScheduleSettings
from ddad_jax.errors import UserError
from ddad_jax.machine.storage import local_path
from ddad_jax.settings import Checked, SettingError, near, section, setting
from ddad_jax.training.mesh import MeshSettings
from ddad_jax.training.state import TrainSettings

NETWORKS = ("autoencoder", "denoiser", "extractor")
# Attributes of networks that save memory and change no figure.
IMMATERIAL = ("remat",)
PACKAGE = Path(ddad_jax.__file__).parent
# Where the configs lie: in a checkout, and in an installed package.
SHIPPED = (PACKAGE.parent / "configs", PACKAGE / "configs")


@dataclass(frozen=True)
class TilingSettings(Checked):
    """Large images are cut into squares, each then brought to the networks' size.

    Attributes:
      tile: side of the squares in pixels; 0: images stay whole.
      overlap: pixels that neighbours share at least.
    """

    tile: int = setting(0, changes="autoencoder", low=0)
    overlap: int = setting(0, changes="autoencoder", low=0)

    def check_together(self) -> None:
        """Raises SettingError: more overlap than a tile has."""
        most = max(self.tile - 1, 0)
        if self.overlap > most:
            raise SettingError("overlap", f"{self.overlap} must be at least 0 and at most {most}")


@dataclass(frozen=True)
class DataSettings(Checked):
    """Where images come from and how they are prepared, in the order in which that happens.

    Attributes:
      source: the kind of data set: "mvtec", "visa", "btad", "folder", "manifest", "elpv", "tfds" or
        "synthetic".
      root: the folder, or the table, that holds it.
      category: the product; empty: every category under the root, one after the other, each in a
        folder of its own.
      size: side in pixels of the square images that the networks see.
      resize: how an image becomes square: "stretch", "pad" or "crop".
      tiling: see `TilingSettings`.
      on_unreadable: "error" stops at a training or test image that cannot be read; "skip" warns and
        leaves it out.
      heldout_fraction: share of the normal training images kept from all training, for calibration
        and validation.
      cache: folder of decoded images; empty: in the working directory.
      augmentation: see `AugmentationSettings`; with any, latents are encoded anew at each step.
      category_augmentation: by category, what of these is different there, such as
        {"screw": {"max_rotation": 45.0}}.
      settings: the source's own, as its function in `ddad_jax.data` documents them.
    """

    source: str = setting("mvtec", changes="nothing")
    root: str = setting("", changes="nothing", path=True)
    category: str = setting("", changes="nothing")
    size: int = setting(256, changes="autoencoder", low=1)
    resize: Literal["stretch", "pad", "crop"] = setting("stretch", changes="autoencoder")
    tiling: TilingSettings = section(TilingSettings)
    on_unreadable: Literal["error", "skip"] = setting("error", changes="nothing")
    heldout_fraction: float = setting(0.1, changes="autoencoder", above=0, below=1)
    cache: str = setting("", changes="nothing", path=True)
    augmentation: AugmentationSettings = section(AugmentationSettings)
    category_augmentation: dict[str, Any] = setting({}, changes="autoencoder")
    settings: dict[str, Any] = setting({}, changes="nothing")

    def augmentation_of(self, category: str) -> AugmentationSettings:
        """That of a category's training images.

        Raises:
          SettingError: naming what `category_augmentation` says wrongly.
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
      name: which one, of `ddad_jax.models.AUTOENCODERS`.
      network: its module's attributes.
      weights: by name or path; empty: trained from scratch.
      latent_scale: z = scale · E(x); 0: each channel is brought to mean 0 and deviation 1 on the
        training images.
      feature_weight: of the distance in the extractor's features, in its objective.
      latent_weight: of the divergence of its latents from a normal distribution, likewise.
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
      network: its module's attributes, of `ddad_jax.models.UNet`.
      weights: by name or path; empty: trained here.
      max_timestep: training timesteps are drawn below this; 0: from the whole schedule.
      prediction: what it outputs: "noise", "velocity" or "latent".
      weighting: of the loss: "plain" or "min_snr".
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
      name: which one, of `ddad_jax.models.EXTRACTORS`.
      network: its module's attributes.
      weights: by name or path.
      distillation_weight: λ_DL of DDAD, how strongly adapted features are held to the published.
      training: of the adaptation, see `TrainSettings`; 0 steps and 0 epochs leave the extractor as
        it is. It stops when held-out images gain nothing, and is skipped where they never do.
    """

    name: str = setting("resnet34", changes="own")
    network: dict[str, Any] = setting({}, changes="own")
    weights: str = setting("resnet34", changes="nothing", path=True)
    distillation_weight: float = setting(0.0, changes="own", low=0)
    training: TrainSettings = section(TrainSettings, validate_every=20)


@dataclass(frozen=True)
class EvaluationSettings(Checked):
    """How the figures are computed.

    Attributes:
      protocol: "exact", MVTec AD's definitions, or "paper", which adds what the official code
        computes.
      resolution: of maps and masks: "network", data.size square, or "original", as tiled images
        always have.
    """

    protocol: Literal["exact", "paper"] = setting("exact", changes="figures")
    resolution: Literal["network", "original"] = setting("network", changes="figures")


@dataclass(frozen=True)
class Config(Checked):
    """Every setting there is; the defaults are the published values.

    Attributes:
      seed: of all that is drawn: the split, weights, batches, noise, banks.
      dtype: compute type of autoencoder and denoiser; parameters are always float32, and so are the
        extractor's features.
      data: see `DataSettings`.
      diffusion: see `ScheduleSettings`.
      autoencoder: see `AutoencoderSettings`.
      denoiser: see `DenoiserSettings`.
      extractor: see `ExtractorSettings`.
      detection: see `Settings`.
      build: see `BuildSettings`.
      evaluation: see `EvaluationSettings`.
      benchmark: see `BenchmarkSettings`.
      mesh: see `MeshSettings`.
    """

    seed: int = setting(0, changes="autoencoder", low=0, high=2**31 - 1)
    dtype: Literal["float32", "bfloat16"] = setting("float32", changes="autoencoder")
    data: DataSettings = section(DataSettings)
    diffusion: ScheduleSettings = section(ScheduleSettings)
    autoencoder: AutoencoderSettings = section(AutoencoderSettings)
    denoiser: DenoiserSettings = section(DenoiserSettings)
    extractor: ExtractorSettings = section(ExtractorSettings)
    detection: Settings = section(Settings)
    build: BuildSettings = section(BuildSettings)
    evaluation: EvaluationSettings = section(EvaluationSettings)
    benchmark: BenchmarkSettings = section(BenchmarkSettings)
    mesh: MeshSettings = section(MeshSettings)

    def check_together(self) -> None:
        """Raises SettingError where settings of two sections do not fit together."""
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
                "'paper' is of whole images; use 'exact', or data.tiling.tile=0",
            )
        for network in NETWORKS:
            for name in getattr(self, network).network:
                if name in models.NOT_SET:
                    raise SettingError(
                        f"{network}.network.{name}", "follows from other settings; leave it out"
                    )

    @property
    def detector(self) -> Settings:
        """The detector's settings, with what follows from other sections."""
        size, prediction = self.data.size, self.denoiser.prediction
        return replace(self.detection, image_size=size, prediction=prediction)

    @property
    def description(self) -> dict[str, Any]:
        """The arguments of `build_networks`, serialisable: what an artifact builds them from."""
        return {
            "autoencoder": {"name": self.autoencoder.name, "network": self.autoencoder.network},
            "denoiser": {"network": self.denoiser.network},
            "extractor": {"name": self.extractor.name, "network": self.extractor.network},
            "image_size": self.data.size,
            "dtype": self.dtype,
        }

    def networks(self) -> Networks:
        """The modules, without parameters, checked to fit each other and the images' size.

        Raises:
          UserError: naming the setting that cannot be.
        """
        built = build_networks(**self.description)
        for name in NETWORKS:
            try:
                models.abstract_variables(getattr(built, name))
            except UserError as error:
                raise SettingError(f"{name}.network", str(error)) from error
        return built

    @property
    def at_original(self) -> bool:
        """Whether maps and masks have the original images' resolution, and not the networks'."""
        return bool(self.data.tiling.tile) or self.evaluation.resolution == "original"

    def plain(self) -> dict[str, Any]:
        """Every setting, as JSON has it."""
        return json.loads(json.dumps(asdict(self)))

    def of_category(self, category: str) -> "Config":
        """The same with the category's own augmentation for that of all."""
        own = self.data.augmentation_of(category)
        data = replace(self.data, augmentation=own, category_augmentation={}, category=category)
        return replace(self, data=data)


def default_config() -> ConfigDict:
    """Every setting at its published value, to be changed by a config file."""
    config = _tree(Config())
    config.lock()
    _unlock_tables(config, Config)
    return config


def _tree(of: Checked) -> ConfigDict:
    found = ConfigDict()
    for field in fields(of):
        value = getattr(of, field.name)
        if settings.is_section(field.type):
            found[field.name] = _tree(value)
        elif "changes" in field.metadata:
            found[field.name] = ConfigDict(value) if isinstance(value, dict) else value
    return found


def _unlock_tables(config: ConfigDict, kind: type) -> None:
    """Tables whose names no dataclass knows, such as a source's settings, take any."""
    for field in fields(kind):
        if settings.is_section(field.type):
            _unlock_tables(config[field.name], field.type)
        elif typing.get_origin(field.type) is dict:
            config[field.name].unlock()


def shipped_configs() -> dict[str, Path]:
    """The configs that come with the package, by name."""
    folder = next((each for each in SHIPPED if each.is_dir()), None)
    paths = sorted(folder.glob("*.py")) if folder else []
    return {path.stem: path for path in paths if path.stem != "__init__"}


def load_config(name: str) -> ConfigDict:
    """What a config file makes.

    Args:
      name: the path of a file with a function `get_config`, or the name of a config that comes with
        the package, such as "demo" or "configs/demo.py".

    Raises:
      UserError: no such file, or it cannot be used; says where in it.
    """
    path = _config_path(name).resolve()
    spec = importlib.util.spec_from_file_location(f"ddad_jax_config_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        config = module.get_config()
    except UserError:
        raise
    except Exception as error:  # A config file is a program: it may fail in any way.
        raise UserError(f"--config={name}: {_place(path, error)}{_reason(error)}") from error
    if not isinstance(config, ConfigDict):
        raise UserError(f"--config={name}: get_config() gives {config!r}, expected a ConfigDict")
    return config


def _config_path(name: str) -> Path:
    path = local_path(name, "--config")
    if path.is_file() and path.suffix == ".py":
        return path
    shipped = shipped_configs()
    is_name = path.parent in (Path(), Path("configs")) and path.suffix in ("", ".py")
    if is_name and path.stem in shipped:
        return shipped[path.stem]
    known = ", ".join(shipped)
    raise UserError(
        f"--config={name}: there is no such file; name a .py file, or one of {known}, such as "
        "--config=demo"
    )


def _place(path: Path, error: Exception) -> str:
    if isinstance(error, SyntaxError):
        return f"line {error.lineno}: "
    lines = [
        each.lineno
        for each in traceback.extract_tb(error.__traceback__)
        if each.filename == str(path)
    ]
    return f"line {lines[-1]}: " if lines else ""


def _reason(error: Exception) -> str:
    if isinstance(error, ModuleNotFoundError) and error.name == "configs":
        return (
            "'configs' can only be imported in a checkout's own folder; write "
            "load_config('default') with `from ddad_jax.experiment.config import load_config`"
        )
    # ConfigDict lists all of its values in between.
    said, _, listed = str(error).strip("\"'").replace("\\n", " ").partition(" Other fields present")
    _, hint, meant = listed.partition("Did you mean")
    return f"{type(error).__name__}: {' '.join(f'{said} {hint}{meant}'.split())}"


def override(config: ConfigDict, assignments: Sequence[tuple[str, str]]) -> None:
    """Changes settings as the command line names them.

    Args:
      config: is changed.
      assignments: dotted names with values as text. Lists may be written (1,2), [1,2] or 1,2.

    Raises:
      SettingError: there is no such setting, or the text is no value of its type.
    """
    for name, text in assignments:
        _assign(config, Config, name, name.split("."), text)


def _assign(config: ConfigDict, kind: type, name: str, parts: list[str], text: str) -> None:
    first, *rest = parts
    known = {field.name: field.type for field in fields(kind) if field.name in config}
    if first not in known:
        raise SettingError(name, f"there is no setting '{first}'{near(first, list(known))}")
    inner = known[first]
    if settings.is_section(inner):
        if not rest:
            inside = ", ".join(f"{name}.{each}" for each in config[first])
            raise SettingError(name, f"is a section; its settings are {inside}")
        _assign(config[first], inner, name, rest, text)
    elif typing.get_origin(inner) is dict:
        _assign_in_table(config, first, name, rest, text)
    elif rest:
        raise SettingError(name, f"there is no setting '{rest[0]}'; '{first}' has none below it")
    else:
        config[first] = parse(inner, name, text)


def _assign_in_table(config: ConfigDict, first: str, name: str, rest: list[str], text: str) -> None:
    """Sets an entry, or with `rest` empty all entries, of a table that takes any name."""
    if not rest:
        value = _literal(text)
        if not isinstance(value, dict):
            raise SettingError(name, f"'{text}' is no table of settings, such as {{'name': 1}}")
        config[first] = ConfigDict(value)
        return
    table = config[first]
    for part in rest[:-1]:
        if part not in table:
            table[part] = ConfigDict()
        table = table[part]
    value = text if isinstance(table.get(rest[-1]), str) else _literal(text)
    with table.ignore_type():
        table[rest[-1]] = value


def _literal(text: str) -> Any:
    """The Python value that a text is, or the text; yes and no are truth values."""
    if text.lower() in TRUTH:
        return TRUTH[text.lower()]
    with contextlib.suppress(ValueError, SyntaxError):
        return ast.literal_eval(text)
    return text


TRUTH = {"true": True, "yes": True, "false": False, "no": False}


def parse(kind: Any, name: str, text: str) -> Any:
    """A value of a setting's type out of the text of a command line.

    Raises:
      SettingError: it is none.
    """
    if typing.get_origin(kind) is tuple:
        inner = typing.get_args(kind)[0]
        bare = text.strip()
        if bare[:1] + bare[-1:] in ("()", "[]"):
            bare = bare[1:-1]
        return tuple(parse(inner, name, each.strip()) for each in bare.split(",") if each.strip())
    choices = typing.get_args(kind) if typing.get_origin(kind) is Literal else ()
    if choices:
        kind = type(choices[0])
    if kind is str:
        value = text.strip("'\"") if text[:1] in ("'", '"') else text
    elif kind is bool:
        value = TRUTH.get(text.lower(), text)
    else:
        value = _number(kind, text)
    problem = settings.problem(kind, value, {})
    if problem:
        raise SettingError(name, problem)
    return value


def _number(kind: type, text: str) -> Any:
    try:
        return kind(text)
    except ValueError:
        return text


def read_config(config: ConfigDict | Mapping[str, Any]) -> Config:
    """The settings of a config, checked, with "~" in their paths expanded.

    Raises:
      SettingError: naming the setting that cannot be, or a path that is a URL.
    """
    values = config.to_dict() if isinstance(config, ConfigDict) else dict(config)
    return _expanded(settings.read(Config, values))


def _expanded(of: Checked, prefix: str = "") -> Any:
    changed = {}
    for field in fields(of):
        value, name = getattr(of, field.name), f"{prefix}{field.name}"
        if isinstance(value, Checked):
            changed[field.name] = _expanded(value, f"{name}.")
        elif field.metadata.get("path") and value:
            changed[field.name] = _path(name, value, of)
    return replace(of, **changed)


def _path(name: str, value: str, of: Checked) -> str:
    # TFDS reads its own data from buckets.
    if name == "data.root" and of.source == "tfds" and "://" in value:
        return value
    return str(local_path(value, name)) if value.startswith("~") or "://" in value else value
