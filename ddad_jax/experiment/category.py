"""What a detector is made for: images, how they are divided, and what was made of them."""

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from absl import logging
from jax.sharding import Mesh
from jaxtyping import Float, Int, UInt8

from ddad_jax.data.augment import build_augmentations
from ddad_jax.data.image_set import ImageSet
from ddad_jax.data.loader import Augmentation
from ddad_jax.data.prepare import examine, forget_others
from ddad_jax.data.preprocessing import Preprocessing
from ddad_jax.data.read import FULL_RANGE
from ddad_jax.data.report import DatasetReport
from ddad_jax.data.sample import Source, part_name
from ddad_jax.data.split import HELDOUT, TRAIN, split_normals
from ddad_jax.deploy.fitted import FittedDetector, load_detector
from ddad_jax.detection.detector import Networks
from ddad_jax.errors import UserError
from ddad_jax.evaluation import d3ad
from ddad_jax.experiment.choosing import LEAST_PHOTOGRAPHS
from ddad_jax.experiment.identity import check_settings, read_record
from ddad_jax.experiment.schema import NETWORKS, Config
from ddad_jax.machine import processes
from ddad_jax.machine.storage import write_json
from ddad_jax.training import mesh as meshes

SPLIT = "split.json"
DETECTOR = "detector.safetensors"


@dataclass(frozen=True, eq=False)
class Subject(ABC):
    """What networks and a detector are made for: a category, or several together.

    Attributes:
      config: every setting, as it applies to this subject.
      name: of the category, or of the working directory.
      workdir: the folder of everything that is made for it.
      preprocessing: how its photographs become the networks' input.
      shared: folder of networks that its detector shares with those of other categories; None: its
        detector's file is complete by itself.
    """

    config: Config
    name: str
    workdir: Path
    preprocessing: Preprocessing
    shared: Path | None = field(default=None, kw_only=True)

    @property
    @abstractmethod
    def categories(self) -> "Sequence[Category]":
        """Its categories, each of which is calibrated and evaluated by itself."""

    @property
    @abstractmethod
    def division(self) -> tuple[ImageSet, ImageSet]:
        """The normal images that networks and banks are made of, and the held-out ones.

        An image that was ever among the first is never held out later.
        """

    @property
    @abstractmethod
    def undecided(self) -> str:
        """Why defects planted in held-out images cannot choose anything; "" if they can."""

    @cached_property
    def networks(self) -> Networks:
        """The modules.

        Raises:
          UserError: a setting is not allowed; names it.
        """
        return self.config.networks()

    @cached_property
    def mesh(self) -> Mesh:
        """The devices."""
        return meshes.make_mesh(**asdict(self.config.mesh))

    @cached_property
    def augmentations(self) -> tuple[Augmentation, ...]:
        """The augmentations of training images."""
        return build_augmentations(self.config.data.augmentation)

    @cached_property
    def cache(self) -> Path:
        """The folder of decoded images and encoded latents."""
        return Path(self.config.data.cache) if self.config.data.cache else self.workdir / "cache"

    @property
    def train_images(self) -> UInt8[np.ndarray, "n size size 3"]:
        """The squares that networks are trained on and banks are made of."""
        return self.division[0].squares

    @property
    def heldout_images(self) -> UInt8[np.ndarray, "m size size 3"]:
        """The squares that no network or bank is fitted to: for calibration and validation."""
        return self.division[1].squares

    @property
    def sampled_images(self) -> UInt8[np.ndarray, "n size size 3"]:
        """The squares that training draws pictures of: at most four, spread over all."""
        images = self.heldout_images if len(self.heldout_images) else self.train_images
        return images[np.linspace(0, len(images) - 1, min(4, len(images))).astype(int)]

    @property
    def detector_path(self) -> Path:
        """The fitted detector's file."""
        return self.workdir / DETECTOR

    @cached_property
    def stored_detector(self) -> FittedDetector | None:
        """The fitted detector in the folder, whatever it was made of; None if there is none."""
        return load_detector(self.detector_path) if self.detector_path.exists() else None

    @abstractmethod
    def variant(self, config: Config, workdir: Path) -> "Subject":
        """Returns the same images, divided alike, with other settings and another folder."""

    def hand_over(self, other: "Subject", *names: str) -> None:
        """Gives a variant what does not depend on its settings, and the named properties."""
        for name in ("cache", "division", "mesh", *names):
            other.__dict__[name] = getattr(self, name)

    def check_trained(self, train_on: bool) -> None:
        """Checks that the networks trained here were trained with the current settings.

        Args:
          train_on: whether networks with other settings are to be trained further.

        Raises:
          UserError: a setting differs; names it, both values and how to continue.
        """
        for name in NETWORKS:
            record = read_record(self.workdir / name)
            if record is None:
                if any((self.workdir / name).glob("checkpoints/*")):
                    raise UserError(
                        f"--workdir={self.workdir}: its {name} was trained by ddad_jax 0.1, which "
                        "did not record its training images; its detector can be used with "
                        "--mode=predict; to train, choose another --workdir"
                    )
                continue
            check_settings(name, record, self.config, self.workdir, train_on)


@dataclass(frozen=True, eq=False)
class Category(Subject):
    """One category; what takes time is computed once, on demand.

    Attributes:
      root: where its photographs are: data.root, or a copy of it here.
      source: reads the photographs.
    """

    root: str | Path
    source: Source

    @property
    def categories(self) -> "Sequence[Category]":
        """Itself."""
        return (self,)

    @cached_property
    def _examined(self) -> tuple[DatasetReport, dict[str, ImageSet] | None]:
        on_unreadable = self.config.data.on_unreadable
        report, images = examine(self.source, self.preprocessing, self.cache, on_unreadable)
        if images is not None and not self.config.data.cache:
            forget_others(self.cache, images["train"])
        if self.config.at_original:
            report = replace(report, vanishing_masks=())
        return report, images

    @property
    def report(self) -> DatasetReport:
        """The data check: what there is, and what would spoil a result."""
        return self._examined[0]

    @cached_property
    def images(self) -> dict[str, ImageSet]:
        """The prepared photographs, "train" and "test".

        Raises:
          UserError: something in them would spoil a result.
        """
        report, images = self._examined
        report.require_sound()
        assert images is not None  # Otherwise `require_sound` has raised.
        return images

    @cached_property
    def division(self) -> tuple[ImageSet, ImageSet]:
        """See `Subject`; it is kept in the working directory, by the images' contents.

        Only the first of several copies is used: the others teach nothing, and would count as
        further images where scores are counted.
        """
        images, path = self.images["train"], self.workdir / SPLIT
        first = self._without_copies(images)
        contents = [images.contents[row] for row in first]
        about = asdict(self.preprocessing)
        stored = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        # Contents from other preprocessing cannot be compared. No network was trained on them here:
        # one that was would have been refused.
        known = stored["images"] if stored.get("preprocessing") == about else {}
        d = self.config.data
        kept, heldout = split_normals(
            [images.samples[row] for row in first],
            contents,
            d.heldout_fraction,
            self.config.seed,
            known,
        )
        now = {contents[i]: HELDOUT for i in heldout}
        now |= {contents[i]: TRAIN for i in kept}
        divided = known | now
        # In the order in which they were first seen, whatever their names are now.
        place = {content: number for number, content in enumerate(divided)}
        kept, heldout = (
            first[sorted(rows, key=lambda row: place[contents[row]])] for rows in (kept, heldout)
        )
        added = sum(content not in known for content in now)
        if known and (added or len(known) > len(now)):
            logging.info(
                "%s: %d good images, %d of them held out; since the last command %d are new, "
                "%d are gone",
                self.name, len(first), len(heldout), added, len({*known} - {*now}),
            )  # fmt: skip
        if processes.is_first() and divided != known:
            write_json(path, {"preprocessing": about, "images": divided})
        return images.take(kept), images.take(heldout)

    def _without_copies(self, images: ImageSet) -> Int[np.ndarray, " k"]:
        """Returns the rows that are no copy of an earlier one; warns of the others."""
        found = self.report.copies
        if found:
            original, copy = found[0]
            logging.warning(
                "%s: %d of %d good images are copies of others, and left out; %s is a copy of %s",
                self.name, len(found), len(images), copy, original,
            )  # fmt: skip
        copies = {copy for _, copy in found}
        return np.array([row for row, s in enumerate(images.samples) if s.name not in copies])

    @property
    def undecided(self) -> str:
        """See `Subject`."""
        if self.preprocessing.tile:
            return "planted defects cannot decide for tiled photographs"
        count = len(self.division[1])
        if count < LEAST_PHOTOGRAPHS:
            return f"{count} held-out photographs are too few ({LEAST_PHOTOGRAPHS} are needed)"
        return ""

    @property
    def train_parts(self) -> Int[np.ndarray, " n"]:
        """A number for each training photograph, the same for photographs of one part."""
        train = self.division[0]
        return np.unique([part_name(sample) for sample in train.samples], return_inverse=True)[1]

    def variant(self, config: Config, workdir: Path) -> "Category":
        """See `Subject`."""
        other = replace(self, config=config, workdir=workdir)
        self.hand_over(other, "images")
        return other

    def resized_masks(self) -> Float[np.ndarray, "n size size"] | None:
        """Returns the test masks as the official code resizes them; None with protocol "exact".

        `evaluation.d3ad` says how they differ.
        """
        if self.config.evaluation.protocol == "exact":
            return None
        size, resize = self.preprocessing.size, self.preprocessing.resize
        return d3ad.resized_masks(self.source, self.images["test"].samples, size, resize)


def preprocessing_of(config: Config) -> Preprocessing:
    """Returns how the config's photographs become the networks' input."""
    d = config.data
    return Preprocessing(
        size=config.image_size,
        resize=d.resize,
        white_level=d.settings.get("white_level", FULL_RANGE),
        tile=d.tiling.tile,
        overlap=d.tiling.overlap,
    )
