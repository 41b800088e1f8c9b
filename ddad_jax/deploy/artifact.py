"""A fitted detector as a file: arrays in safetensors, everything else in its JSON header.

The header of format 12 holds as JSON: "networks", the arguments that build them; "settings" of
detection; "kinds", the names of the kinds of good parts, if it was fitted to several;
"preprocessing"; "made_of", the settings, images and weights that it was made of; "wish", a
threshold that a user chose instead of the calibrated one; and "shared", for each network whose
arrays are in a separate file that detectors share, its relative path ("file") and the "checksum" of
its content. "version" is that of ddad_jax. Newer versions read older formats.
"""

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load, save

import ddad_jax
from ddad_jax.data.preprocessing import Preprocessing
from ddad_jax.detection.detector import Calibration, Detector, Kind, Settings
from ddad_jax.detection.networks import build_networks
from ddad_jax.errors import UserError
from ddad_jax.machine.copies import obtain_beside
from ddad_jax.machine.storage import write_atomically

FORMAT = 12
NAME = "ddad_jax detector"
NOT_ARRAYS = ("networks", "settings", "kind_names", "mesh")
# Fields of the preprocessing that files of format 3 lack: the setting for each, and its default.
LACKING = {
    "resize": ("data.resize", "stretch"),
    "white_level": ("data.settings.white_level", 65535),
}


def write(
    path: Path,
    detector: Detector,
    preprocessing: Preprocessing,
    about: Mapping[str, Any],
    *,
    shared: Sequence[str] = (),
    folder: Path | None = None,
) -> None:
    """Writes a detector to a file; an older file stays until the new one is complete.

    Args:
      path: the file.
      detector: its arrays and settings.
      preprocessing: how photographs become its input.
      about: "networks", "made_of" and "wish", serialisable.
      shared: networks to write to separate files, unless these exist.
      folder: the folder of these files.
    """
    parts = _arrays(detector) | {"calibration": _arrays(detector.calibration)}
    parts["kinds"] = {str(number): _arrays(kind) for number, kind in enumerate(detector.kinds)}
    places = {}
    for name in shared:
        assert folder is not None  # It is given together with `shared`.
        content = save(_flat({name: parts.pop(name)}))
        checksum = _checksum(content)
        file = folder / f"{name}-{checksum}.safetensors"
        if not file.exists() or _checksum(file.read_bytes()) != checksum:
            folder.mkdir(parents=True, exist_ok=True)
            write_atomically(file, content)
        relative = Path(os.path.relpath(file.resolve(), path.parent.resolve())).as_posix()
        places[name] = {"file": relative, "checksum": checksum}
    header = {
        **about,
        "shared": places,
        "settings": dataclasses.asdict(detector.settings),
        "kinds": detector.kind_names,
        "preprocessing": dataclasses.asdict(preprocessing),
    }
    metadata = {name: json.dumps(value) for name, value in header.items()}
    metadata |= {"format": f"{NAME} {FORMAT}", "version": ddad_jax.__version__}
    write_atomically(path, save(_flat(parts), metadata))


def _flat(parts: Mapping[str, Any]) -> dict[str, np.ndarray]:
    flat = flatten_dict(dict(parts), sep="|")
    return {name: np.array(array, order="C") for name, array in flat.items()}


def _checksum(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def _arrays(of: Detector | Calibration | Kind) -> dict[str, Any]:
    return {
        field.name: getattr(of, field.name)
        for field in dataclasses.fields(of)
        if field.name not in NOT_ARRAYS
    }


def read(path: Path, **lacking: Any) -> tuple[Detector, Preprocessing, dict[str, Any]]:
    """Reads detector, preprocessing and `about` from a file; nothing in the file is executed.

    Args:
      path: the file.
      **lacking: the fields resize and white_level of its `Preprocessing`, which a file of format 3
        lacks.

    Raises:
      UserError: there is no such file, it holds no detector that this version can read, or
        `lacking` is incomplete or contradicts it.
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
            f"{path}: is not a readable detector ({error}); delete it and run --mode=fit again"
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
    for name, place in json.loads(metadata.get("shared", "{}")).items():
        arrays |= _shared(path, name, **place)
    about = {name: json.loads(metadata.get(name, "{}")) for name in ("networks", "made_of", "wish")}
    names = tuple(json.loads(metadata.get("kinds", "[]")))
    detector = _detector(arrays, settings, about["networks"]).replace(kind_names=names)
    return detector, preprocessing, about


def _shared(path: Path, network: str, file: str, checksum: str) -> dict[str, np.ndarray]:
    """Reads the arrays of a network from its separate file."""
    place = (path.resolve().parent / file).resolve()
    obtain_beside(place)
    hint = "copy it along with the detector, or delete the detector and run --mode=fit again"
    try:
        content = place.read_bytes()
    except OSError as error:
        raise UserError(
            f"{path}: its {network} is in {place}, which cannot be read ({error.strerror}); {hint}"
        ) from error
    if _checksum(content) != checksum:
        raise UserError(f"{path}: its {network} is in {place}, which has changed since; {hint}")
    return load(content)


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
            f"{path}: is of format {number}, from before 0.1, which calibrated differently; make "
            "it again with --mode=fit"
        )
    return int(number)


def _asked_for(path: Path, lacking: Mapping[str, Any], **known: Any) -> Preprocessing:
    missing = [LACKING[name] for name in LACKING if name not in lacking]
    if missing:
        asked = " and ".join(f"--config.{setting}" for setting, _ in missing)
        usual = " ".join(f"--config.{setting}={value}" for setting, value in missing)
        raise UserError(
            f"{path}: is of format 3, which does not say how photographs were prepared; give "
            f"{asked} as when it was fitted (by default {usual})"
        )
    return Preprocessing(**known, **lacking)


def _detector(
    arrays: Mapping[str, np.ndarray], settings: Mapping[str, Any], description: Mapping[str, Any]
) -> Detector:
    parts = unflatten_dict(dict(arrays), sep="|")
    known = parts.pop("calibration")
    # Before format 6 the scores that thresholds are from were not kept; format 5 has their number.
    known.pop("images", None)
    unknown = {
        "pixel_threshold": known["threshold"],
        "sigma_threshold": np.float32(np.inf),
        "scores": np.zeros(0, np.float32),
        "patch_limit": np.float32(np.inf),
    }
    unknown["peaks"] = known.get("scores", unknown["scores"])
    kinds = parts.pop("kinds", {})
    of_old = {
        "bank_kind": np.zeros(len(parts["bank"]), np.int32),
        "latent_bank": np.zeros((0, 0, 0, 0), np.float32),
        "foreground": np.zeros(0, np.float32),
    }
    detector = Detector(
        # An autoencoder without weights, such as "pixels", has no array in a file.
        **{"autoencoder": {}} | of_old | parts,
        calibration=Calibration(**unknown | known),
        kinds=tuple(
            Kind(**{"patch_limit": unknown["patch_limit"]} | kinds[number])
            for number in sorted(kinds, key=int)
        ),
        networks=build_networks(**description),
        settings=Settings(**settings),
    )
    return jax.device_put(detector)
