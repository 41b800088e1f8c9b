"""A fitted detector as one file: arrays in safetensors, everything else in its JSON header."""

import dataclasses
import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from ddad_jax.detection.detector import Calibration, Detector, Settings
from ddad_jax.detection.networks import build_networks
from ddad_jax.errors import UserError

FORMAT = "ddad_jax detector 3"
NOT_ARRAYS = ("networks", "settings", "mesh")


class StoredDetector(NamedTuple):
    """A detector and the fingerprint of what it was made from."""

    detector: Detector
    fingerprint: str


def save_detector(
    path: Path, detector: Detector, description: dict[str, Any], fingerprint: str
) -> None:
    """Writes a detector; an older file stays until the new one is whole.

    Args:
      path: the file, `.safetensors` by custom.
      detector: the detector, on one device.
      description: the arguments of `build_networks` that made its networks.
      fingerprint: identifies the settings and images it was made from.
    """
    parts = {
        field.name: getattr(detector, field.name)
        for field in dataclasses.fields(detector)
        if field.name not in NOT_ARRAYS
    }
    parts["calibration"] = {
        field.name: getattr(detector.calibration, field.name)
        for field in dataclasses.fields(detector.calibration)
    }
    arrays = {
        name: np.array(array, order="C") for name, array in flatten_dict(parts, sep="|").items()
    }
    metadata = {
        "format": FORMAT,
        "networks": json.dumps(description),
        "settings": json.dumps(dataclasses.asdict(detector.settings)),
        "fingerprint": fingerprint,
    }
    unfinished = path.with_name(path.name + ".unfinished")
    # Written by Python, whose error says when the disk is full.
    unfinished.write_bytes(save(arrays, metadata))
    os.replace(unfinished, path)


def load_detector(path: Path) -> StoredDetector:
    """Reads a detector; nothing in the file is executed.

    Raises:
      UserError: no such file, or it holds no detector.
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
    if metadata.get("format") != FORMAT:
        raise UserError(
            f"{path}: is of format {metadata.get('format')!r}, not {FORMAT!r}; delete it and run "
            "--mode=fit again"
        )
    settings = json.loads(metadata["settings"])
    tuples = {name: tuple(v) for name, v in settings.items() if isinstance(v, list)}
    parts = unflatten_dict({name: jnp.asarray(array) for name, array in arrays.items()}, sep="|")
    calibration = Calibration(**parts.pop("calibration"))
    detector = Detector(
        **parts,
        calibration=calibration,
        networks=build_networks(**json.loads(metadata["networks"])),
        settings=Settings(**settings | tuples),
    )
    return StoredDetector(detector, metadata["fingerprint"])
