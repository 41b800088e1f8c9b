"""The identity of a run: the settings and images that its networks and detector were made of.

Every network that is trained in a workdir has a record beside its checkpoints, and the detector has
one in its file. They leave out what changes no result: paths, names, logging, devices.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree

from ddad_jax.data.read import FULL_RANGE
from ddad_jax.errors import UserError
from ddad_jax.experiment.schema import IMMATERIAL, Config
from ddad_jax.machine.storage import write_json
from ddad_jax.settings import PRODUCTS, walk

RECORD = "made_of.json"
# Settings that decide what a photograph looks like to the networks.
PREPROCESSING = (
    "data.size", "data.resize", "data.tiling.tile", "data.tiling.overlap",
    "data.settings.white_level", "extractor.size",
)  # fmt: skip
# Settings that older records do not name, with the values that they imply.
UNSAID = {
    "extractor.size": 0, "detection.patch_layers": "joined", "detection.patch_metric": "l2",
    "detection.foreground": False, "detection.score_share": 0, "detection.score_metric": "map",
}  # fmt: skip
# Settings that the extractor's features depend on, whatever its weights.
OF_FEATURES = ("extractor.name", "extractor.network", "extractor.size")


def settings_of(config: Config, product: str) -> dict[str, Any]:
    """Returns every setting that a product depends on, by dotted name, serialisable.

    Args:
      config: the config of a category, from `Config.of_category`.
      product: one of `settings.PRODUCTS`.
    """
    last = PRODUCTS.index(product)
    found = {
        name: value
        for name, value, _, changes in walk(config)
        if changes in PRODUCTS[: last + 1]
        # The autoencoder's objective compares the extractor's features.
        or (product == "autoencoder" and name in OF_FEATURES)
    }
    for name, before in UNSAID.items():
        if found.get(name) == before:
            del found[name]
    if config.extractor.size > config.data.size:
        # Then photographs for all networks are prepared at this size.
        found["extractor.size"] = config.extractor.size
    found.pop("data.category_augmentation")
    for name in [name for name in found if name.endswith(".network")]:
        table = found.pop(name)
        found |= {f"{name}.{key}": v for key, v in table.items() if key not in IMMATERIAL}
    own = config.data.settings
    found["data.settings.white_level"] = own.get("white_level", FULL_RANGE)
    if last >= PRODUCTS.index("detector"):
        # It decides which images show one part, and so are left out together.
        found["data.settings.group_pattern"] = own.get("group_pattern", "")
    return json.loads(json.dumps(found))


def digest_of(variables: PyTree) -> str:
    """Returns a hash that changes with any of a network's arrays."""
    digest = hashlib.blake2b(digest_size=12)
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables):
        array = np.ascontiguousarray(leaf)
        digest.update(f"{jax.tree_util.keystr(path)} {array.shape} {array.dtype}".encode())
        digest.update(array.view(np.uint8).data)
    return digest.hexdigest()


@dataclass(frozen=True)
class Record:
    """What a network was trained with.

    Attributes:
      settings: by dotted name.
      weights: by network, the digest of what its training read and did not change.
      images: the contents of the images it was trained on, in order.
      before: the contents of earlier training images, if it was trained further with others.
      start: the folder, beside its own, of the training whose parameters it started from.
      done: whether the training has ended.
    """

    settings: Mapping[str, Any]
    weights: Mapping[str, str]
    images: Sequence[str]
    before: Sequence[str] = ()
    start: str = ""
    done: bool = False

    @property
    def ever(self) -> set[str]:
        """The contents of all images that it was ever trained on."""
        return {*self.images, *self.before}

    def is_of(self, other: "Record") -> bool:
        """Whether both have the same settings, weights and images."""
        return not self.settings_that_differ(other) and (
            (dict(self.weights), list(self.images)) == (dict(other.weights), list(other.images))
        )

    def settings_that_differ(self, other: "Record") -> dict[str, tuple[Any, Any]]:
        """Returns each setting that differs, here and there, by name; None if it is missing."""
        return {
            name: (self.settings.get(name), other.settings.get(name))
            for name in sorted({*self.settings, *other.settings})
            if self.settings.get(name) != other.settings.get(name)
        }


def read_record(folder: Path) -> Record | None:
    """Returns the record of the network in a folder; None if it has none."""
    path = folder / RECORD
    return Record(**json.loads(path.read_text(encoding="utf-8"))) if path.exists() else None


def begun_record(folder: Path) -> Record:
    """Returns the record of a network whose training has begun, which always has one."""
    record = read_record(folder)
    assert record is not None
    return record


def write_record(folder: Path, record: Record) -> None:
    """Writes the record of a network."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / RECORD, asdict(record))


def finish_record(folder: Path) -> Record:
    """Marks a network's training as ended in its record, and returns the record."""
    record = replace(begun_record(folder), done=True)
    write_record(folder, record)
    return record


def check_settings(
    name: str, record: Record, config: Config, workdir: Path, train_on: bool
) -> None:
    """Checks that a network was trained with the current settings, or can be trained further.

    Args:
      name: the network's name.
      record: the network's record.
      config: the current settings.
      workdir: named in the error.
      train_on: whether networks with other settings are to be trained further.

    Raises:
      UserError: a setting differs; names the first, with both values and how to continue.
    """
    now = Record(settings_of(config, name), {}, ())
    differing = record.settings_that_differ(now)
    if train_on and can_train_on(name, differing):
        return
    for setting, (before, asked) in differing.items():
        raise UserError(
            f"--workdir={workdir}: its {name} was trained with {setting} = {_shown(before)}, but "
            f"now it is {_shown(asked)}; go on with --config.{setting}={_shown(before)}"
            + (", train it further with --train_on," if can_train_on(name, [setting]) else "")
            + " or choose another --workdir"
        )


def can_train_on(name: str, settings: Iterable[str]) -> bool:
    """Whether a network's parameters can be trained further although these settings differ."""
    fixed = (f"{name}.name", f"{name}.network.", "autoencoder.name", "autoencoder.network.")
    return not any(
        setting in PREPROCESSING or setting.startswith(fixed) or setting == "denoiser.prediction"
        for setting in settings
    )


def _shown(value: Any) -> str:
    """Returns a value as it can be given on the command line."""
    return f"({','.join(map(str, value))})" if isinstance(value, list) else str(value)


def images_that_differ(before: Sequence[str], now: Sequence[str]) -> str:
    """Returns how many images were added and how many are gone, in words; "" if none."""
    added, gone = len({*now} - {*before}), len({*before} - {*now})
    parts = [f"{count} {word}" for count, word in ((added, "added"), (gone, "gone")) if count]
    return " and ".join(parts)


def first_difference(before: Any, now: Any) -> str:
    """Returns, in words, the first difference of two nested values; "" if there is none."""
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for name in sorted({*before, *now}):
            if before.get(name) != now.get(name):
                inner = first_difference(before.get(name), now.get(name))
                nested = isinstance(before.get(name), Mapping) and isinstance(
                    now.get(name), Mapping
                )
                return f"{name}{'.' if nested else ' '}{inner}"
        return ""
    if isinstance(before, list) and isinstance(now, list):
        return f"differ: {images_that_differ(before, now) or 'in order'}"
    return "" if before == now else f"was {_shown(before)}, now {_shown(now)}"
