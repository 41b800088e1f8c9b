"""A fitted detector as one file: arrays in safetensors, everything else in its JSON header.

The header of format 6 holds as JSON: "networks", what builds them; "settings" of detection;
"preprocessing"; "made_of", the settings, images and weights that it was made of; and "wish", the
threshold that was asked for instead of the calibrated one, and by whom. "version" is that of
ddad_jax. Newer versions read older formats.
"""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Array
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

import ddad_jax
from ddad_jax.data.preprocessing import Preprocessing
from ddad_jax.detection.detector import Calibration, Detector, Kind, Settings
from ddad_jax.detection.networks import build_networks
from ddad_jax.errors import UserError
from ddad_jax.machine.storage import write_atomically

FORMAT = 6
NAME = "ddad_jax detector"
NOT_ARRAYS = ("networks", "settings", "mesh")
# What files of format 3 do not say of their preprocessing: the setting that says it, and its value
# where none was given.
LACKING = {
    "resize": ("data.resize", "stretch"),
    "white_level": ("data.settings.white_level", 65535),
}


def write(
    path: Path, detector: Detector, preprocessing: Preprocessing, about: Mapping[str, Any]
) -> None:
    """Writes a detector to a file; an older one stays until it is whole.

    Args:
      path: the file.
      detector: its arrays and settings.
      preprocessing: how photographs become its input.
      about: "networks", "made_of" and "wish", serialisable.
    """
    parts = _arrays(detector) | {"calibration": _arrays(detector.calibration)}
    parts["kinds"] = {str(number): _arrays(kind) for number, kind in enumerate(detector.kinds)}
    arrays = {
        name: np.array(array, order="C") for name, array in flatten_dict(parts, sep="|").items()
    }
    header = {
        **about,
        "settings": dataclasses.asdict(detector.settings),
        "preprocessing": dataclasses.asdict(preprocessing),
    }
    metadata = {name: json.dumps(value) for name, value in header.items()}
    metadata |= {"format": f"{NAME} {FORMAT}", "version": ddad_jax.__version__}
    write_atomically(path, save(arrays, metadata))


def _arrays(of: Detector | Calibration | Kind) -> dict[str, Any]:
    return {
        field.name: getattr(of, field.name)
        for field in dataclasses.fields(of)
        if field.name not in NOT_ARRAYS
    }


def read(path: Path, **lacking: Any) -> tuple[Detector, Preprocessing, dict[str, Any]]:
    """What `write` wrote; nothing in the file is executed.

    Args:
      path: the file.
      **lacking: fields of its `Preprocessing`, where the file is of format 3, which does not say
        them: resize and white_level.

    Raises:
      UserError: no such file, it holds no detector, or it is lacking what is not given.
    """
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
    about = {name: json.loads(metadata.get(name, "{}")) for name in ("networks", "made_of", "wish")}
    return _detector(arrays, settings, about["networks"]), preprocessing, about


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
    known = parts.pop("calibration")
    # Before format 6 the scores that it is from were not kept, in format 5 their number alone.
    known.pop("images", None)
    unknown = {
        "pixel_threshold": known["threshold"],
        "sigma_threshold": jnp.float32(jnp.inf),
        "scores": jnp.zeros(0),
    }
    calibration = Calibration(**unknown | known)
    kinds = parts.pop("kinds", {})
    one_kind = {"bank_kind": jnp.zeros(len(parts["bank"]), jnp.int32)}
    return Detector(
        **one_kind | parts,
        calibration=calibration,
        kinds=tuple(Kind(**kinds[number]) for number in sorted(kinds, key=int)),
        networks=build_networks(**description),
        settings=Settings(**settings),
    )
