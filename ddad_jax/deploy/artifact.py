"""A fitted detector as one file: arrays in safetensors, everything else in its JSON header.

The header of format 5 holds as JSON: "networks", what builds them; "settings" of detection;
"preprocessing"; and "made_of", the settings, images and weights that it was made of. "version" is
that of ddad_jax. Newer versions read older formats.
"""

import dataclasses
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Array, Float, UInt8
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

import ddad_jax
from ddad_jax.data.preprocessing import Photograph, Preprocessing
from ddad_jax.detection.detector import Calibration, Detector, Settings
from ddad_jax.detection.networks import build_networks
from ddad_jax.detection.threshold import promised_rate
from ddad_jax.errors import UserError
from ddad_jax.evaluation.evaluate import find
from ddad_jax.machine.storage import write_atomically

FORMAT = 5
NAME = "ddad_jax detector"
NOT_ARRAYS = ("networks", "settings", "mesh")
# What files of format 3 do not say of their preprocessing: the setting that says it, and its value
# where none was given.
LACKING = {
    "resize": ("data.resize", "stretch"),
    "white_level": ("data.settings.white_level", 65535),
}


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a detector says of one photograph.

    Attributes:
      score: the maximum of the anomaly map, unbounded.
      calibrated_score: in [0, 1]; 0.5 at the threshold.
      decision: whether it is called anomalous.
      noise_level: T̂ used.
      anomaly_map: on the scale of the score, at the photograph's own size.
      reconstruction: RGB, 0 to 255, at the photograph's own size.
    """

    score: float
    calibrated_score: float
    decision: bool
    noise_level: int
    anomaly_map: Float[np.ndarray, "h w"]
    reconstruction: UInt8[np.ndarray, "h w 3"]


@dataclass(frozen=True, eq=False)
class FittedDetector:
    """A detector with how photographs become its input and what it was made of.

    Attributes:
      detector: what `detect` takes.
      preprocessing: how photographs become its input.
      description: the arguments of `build_networks` that make its networks.
      made_of: the settings, images and weights that it was made of, serialisable; empty where a
        file of an older format does not say.
    """

    detector: Detector
    preprocessing: Preprocessing
    description: Mapping[str, Any]
    made_of: Mapping[str, Any]

    def save(self, path: str | Path) -> None:
        """Writes it to a file, `.safetensors` by custom; an older one stays until it is whole."""
        parts = _arrays(self.detector) | {"calibration": _arrays(self.detector.calibration)}
        arrays = {
            name: np.array(array, order="C") for name, array in flatten_dict(parts, sep="|").items()
        }
        metadata = {
            "format": f"{NAME} {FORMAT}",
            "version": ddad_jax.__version__,
            "networks": json.dumps(self.description),
            "settings": json.dumps(dataclasses.asdict(self.detector.settings)),
            "preprocessing": json.dumps(dataclasses.asdict(self.preprocessing)),
            "made_of": json.dumps(self.made_of),
        }
        write_atomically(Path(path), save(arrays, metadata))

    @property
    def calibrated(self) -> dict[str, float]:
        """What the threshold is worth.

        Returns:
          How many good "images" it is from, the "false_alarm_rate" that was asked for, and the
          "promised_rate", below `threshold.FEW` images 1; empty where the file does not say.
        """
        images = int(self.detector.calibration.images)
        if not images:
            return {}
        rate = self.made_of["settings"]["build.false_alarm_rate"]
        promised = promised_rate(images, rate)
        return {"images": images, "false_alarm_rate": rate, "promised_rate": promised}

    def predict(
        self, photographs: Photograph | Iterable[Photograph], batch_size: int = 16
    ) -> Prediction | list[Prediction]:
        """What the detector says of a photograph, or of each of several.

        The answers are those of `--mode=predict` and `--mode=evaluate`.

        Args:
          photographs: a path, the bytes of a file, an image of Pillow, or an array [h w], [h w 1]
            or [h w 3] of any size; or several of these.
          batch_size: squares at a time.

        Raises:
          UserError: one that cannot be read; names it.
        """
        if isinstance(photographs, Photograph):
            return next(self._predict([photographs], batch_size))
        return list(self._predict(photographs, batch_size))

    def _predict(self, photographs: Iterable[Photograph], batch_size: int) -> Iterator[Prediction]:
        images, squares = [], []
        for number, photograph in enumerate(photographs):
            named = isinstance(photograph, str | Path)
            name = str(photograph) if named else f"photograph {number}"
            image = self.preprocessing.read(photograph, name)
            images.append(image.shape[:2])
            squares.append(self.preprocessing.squares(image, name))
        starts = np.append(0, np.cumsum([len(each) for each in squares], dtype=int))
        sizes = np.array(images, int).reshape(-1, 2)
        every = np.concatenate(squares) if squares else np.zeros((0, 1, 1, 3), np.uint8)
        found = find(self.detector, self.preprocessing, every, starts, sizes, batch_size)
        for each, (height, width) in zip(found, sizes.tolist(), strict=True):
            whole = each.layers
            if not self.preprocessing.tile:
                whole = self.preprocessing.restore(whole[None], height, width)
            yield Prediction(
                score=each.score,
                calibrated_score=each.calibrated_score,
                decision=each.decision,
                noise_level=each.noise_level,
                anomaly_map=whole[..., 0],
                reconstruction=np.rint(whole[..., 1:]).clip(0, 255).astype(np.uint8),
            )


def _arrays(of: Detector | Calibration) -> dict[str, Any]:
    return {
        field.name: getattr(of, field.name)
        for field in dataclasses.fields(of)
        if field.name not in NOT_ARRAYS
    }


def load_detector(path: str | Path, **lacking: Any) -> FittedDetector:
    """Reads a detector; nothing in the file is executed.

    Args:
      path: the file.
      **lacking: fields of its `Preprocessing`, where the file is of format 3, which does not say
        them: resize and white_level.

    Raises:
      UserError: no such file, it holds no detector, or it is lacking what is not given.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise UserError(
            f"{path}: there is no detector here; make one with --mode=fit and the same --workdir"
        )
    try:
        with safe_open(path, "numpy") as file:
            metadata = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"{path}: is no readable detector ({error}); delete it and run --mode=fit again"
        ) from error
    number = _format(path, metadata.get("format", ""))
    settings = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in json.loads(metadata["settings"]).items()
    }
    if number == 3:
        tiling = {name: settings.pop(name) for name in ("tile", "overlap")}
        preprocessing = _asked_for(path, lacking, size=settings["image_size"], **tiling)
    else:
        preprocessing = Preprocessing(**json.loads(metadata["preprocessing"]))
    for name, given in lacking.items():
        if getattr(preprocessing, name) != given:
            raise UserError(
                f"--config.{LACKING[name][0]}: {given} contradicts the detector {path}, which was "
                f"made with {getattr(preprocessing, name)}; leave it out"
            )
    description = json.loads(metadata["networks"])
    return FittedDetector(
        detector=_detector(arrays, settings, description),
        preprocessing=preprocessing,
        description=description,
        made_of=json.loads(metadata.get("made_of", "{}")),
    )


def _format(path: Path, name: str) -> int:
    kind, _, number = name.rpartition(" ")
    if kind != NAME or not number.isdigit():
        raise UserError(f"{path}: holds no detector of ddad_jax; make one with --mode=fit")
    if int(number) > FORMAT:
        raise UserError(
            f"{path}: is of format {number}, made by a newer ddad_jax; this one, "
            f"{ddad_jax.__version__}, reads up to {FORMAT}; upgrade it"
        )
    if int(number) < 3:
        raise UserError(
            f"{path}: is of format {number}, of before 0.1, whose calibration is another; make it "
            "anew with --mode=fit"
        )
    return int(number)


def _asked_for(path: Path, lacking: Mapping[str, Any], **known: Any) -> Preprocessing:
    missing = [LACKING[name] for name in LACKING if name not in lacking]
    if missing:
        asked = " and ".join(f"--config.{setting}" for setting, _ in missing)
        usual = " ".join(f"--config.{setting}={value}" for setting, value in missing)
        raise UserError(
            f"{path}: is of format 3, which does not say how photographs were prepared; give "
            f"{asked} as it was fitted, by default {usual}"
        )
    return Preprocessing(**known, **lacking)


def _detector(
    arrays: Mapping[str, np.ndarray], settings: Mapping[str, Any], description: Mapping[str, Any]
) -> Detector:
    placed: dict[str, Array] = {name: jnp.asarray(array) for name, array in arrays.items()}
    parts = unflatten_dict(placed, sep="|")
    # Before format 5 it did not say from how many images it is.
    calibration = Calibration(**{"images": jnp.int32(0)} | parts.pop("calibration"))
    return Detector(
        **parts,
        calibration=calibration,
        networks=build_networks(**description),
        settings=Settings(**settings),
    )
