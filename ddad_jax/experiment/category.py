"""One category of an experiment: its images, how they are divided, and what was made of them."""

import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
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
from ddad_jax.data.sources import build_source, check_recognised, find_categories
from ddad_jax.data.split import HELDOUT, TRAIN, split_normals
from ddad_jax.deploy.fitted import FittedDetector, load_detector
from ddad_jax.detection.detector import Networks
from ddad_jax.errors import UserError
from ddad_jax.evaluation import d3ad
from ddad_jax.experiment.identity import check_settings, read_record
from ddad_jax.experiment.schema import NETWORKS, Config
from ddad_jax.machine import copies, processes
from ddad_jax.machine.objects import is_url
from ddad_jax.machine.storage import write_json
from ddad_jax.training import mesh as meshes

SPLIT = "split.json"
DETECTOR = "detector.safetensors"
SHARED = "networks"


@dataclass(frozen=True, eq=False)
class Category:
    """What a category is made from; every property is computed once, on demand.

    Attributes:
      config: every setting, as they are for this category.
      name: the category's, or the working directory's.
      workdir: all that is written of it is in this folder.
      root: where they lie: data.root, or a copy of it here.
      source: its photographs.
      preprocessing: how they become the networks' input.
      shared: folder of networks that its detector shares with those of other categories; None: its
        detector's file is whole.
    """

    config: Config
    name: str
    workdir: Path
    root: str | Path
    source: Source
    preprocessing: Preprocessing
    shared: Path | None = None

    @cached_property
    def networks(self) -> Networks:
        """The modules.

        Raises:
          UserError: naming the setting that cannot be.
        """
        return self.config.networks()

    @cached_property
    def mesh(self) -> Mesh:
        """The devices."""
        return meshes.make_mesh(**asdict(self.config.mesh))

    @cached_property
    def augmentations(self) -> tuple[Augmentation, ...]:
        """Those of training images."""
        return build_augmentations(self.config.data.augmentation)

    @cached_property
    def cache(self) -> Path:
        """The folder of decoded images and encoded latents."""
        return Path(self.config.data.cache) if self.config.data.cache else self.workdir / "cache"

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
        """What there is, and what would spoil a result."""
        return self._examined[0]

    @cached_property
    def images(self) -> dict[str, ImageSet]:
        """The prepared photographs, "train" and "test".

        Raises:
          UserError: something in them would spoil a result.
        """
        report, images = self._examined
        report.require_sound()
        assert images is not None  # What cannot be used is not sound.
        return images

    @cached_property
    def division(self) -> tuple[ImageSet, ImageSet]:
        """Normal images that networks and banks are made of, and those that are held out.

        An image that was ever among the first is never among the second again: the division is kept
        in the working directory, by the images' content. Of copies the first is taken: others teach
        nothing, and would pass for so many more images where scores are counted.
        """
        images, path = self.images["train"], self.workdir / SPLIT
        first = self._without_copies(images)
        contents = [images.contents[row] for row in first]
        about = asdict(self.preprocessing)
        stored = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        # Contents of other preprocessing cannot be compared; then nothing was trained on them here,
        # for a network that was would have been refused.
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
        # In the order in which they were first met, whatever they are called by now.
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
        """The rows that are no copy of an earlier one; says how many others there are."""
        found = self.report.copies
        if found:
            original, copy = found[0]
            logging.warning(
                "%s: %d of %d good images are copies of others, and left out; %s is one of %s",
                self.name, len(found), len(images), copy, original,
            )  # fmt: skip
        copies = {copy for _, copy in found}
        return np.array([row for row, s in enumerate(images.samples) if s.name not in copies])

    @property
    def train_images(self) -> UInt8[np.ndarray, "n size size 3"]:
        """What networks are trained on and banks are made of."""
        return self.division[0].squares

    @property
    def heldout_images(self) -> UInt8[np.ndarray, "m size size 3"]:
        """What no network and no bank is fitted to: for calibration and validation."""
        return self.division[1].squares

    @property
    def sampled_images(self) -> UInt8[np.ndarray, "n size size 3"]:
        """Those that training draws pictures of."""
        return (self.heldout_images if len(self.heldout_images) else self.train_images)[:4]

    @property
    def train_parts(self) -> Int[np.ndarray, " n"]:
        """A number for each of the training photographs, the same for those of one part."""
        train = self.division[0]
        return np.unique([part_name(sample) for sample in train.samples], return_inverse=True)[1]

    def resized_masks(self) -> Float[np.ndarray, "n size size"] | None:
        """The test images' masks as the official code resizes them, if its metrics are asked for.

        `evaluation.d3ad` says how they differ.
        """
        if self.config.evaluation.protocol == "exact":
            return None
        size, resize = self.preprocessing.size, self.preprocessing.resize
        return d3ad.resized_masks(self.source, self.images["test"].samples, size, resize)

    @property
    def detector_path(self) -> Path:
        """The fitted detector's file."""
        return self.workdir / DETECTOR

    @cached_property
    def stored_detector(self) -> FittedDetector | None:
        """The fitted detector that is there, whatever it was made of."""
        return load_detector(self.detector_path) if self.detector_path.exists() else None

    def variant(self, config: Config, workdir: Path) -> "Category":
        """The same images, divided alike, with other settings and another folder."""
        other = replace(self, config=config, workdir=workdir)
        for name in ("cache", "images", "division", "mesh"):
            other.__dict__[name] = getattr(self, name)
        return other

    def check_trained(self, train_on: bool) -> None:
        """Checks that what was trained here was trained with the settings of now.

        Args:
          train_on: whether networks of other settings are to be trained on.

        Raises:
          UserError: naming the setting, both values and what goes on.
        """
        for name in NETWORKS:
            record = read_record(self.workdir / name)
            if record is None:
                if any((self.workdir / name).glob("checkpoints/*")):
                    raise UserError(
                        f"--workdir={self.workdir}: its {name} was trained by ddad_jax 0.1, which "
                        "did not write down on which images; its detector can be used with "
                        "--mode=predict; to train, choose another --workdir"
                    )
                continue
            check_settings(name, record, self.config, self.workdir, train_on)


def open_categories(config: Config, workdir: Path) -> list[Category]:
    """Every category that the config names, each checked; nothing is read but folders.

    Args:
      config: the settings.
      workdir: a writable folder; each of several categories gets a folder in it.

    Raises:
      UserError: naming the setting or the folder that cannot be.
    """
    chosen, root = config.data.category, _root(config)
    check_recognised(config.data.source, root)
    names = [chosen] if chosen else find_categories(config.data.source, root)
    if len(names) == 1:
        return [_open(config, root, names[0], workdir)]
    shared = workdir / SHARED if config.build.share_networks else None
    return [replace(_open(config, root, name, workdir / name), shared=shared) for name in names]


def _root(config: Config) -> str | Path:
    """data.root, or of one in a bucket a copy here without the categories that are not chosen."""
    d = config.data
    # TFDS reads its own data from buckets.
    if d.source == "tfds" or not is_url(d.root):
        return d.root
    if d.source == "manifest":
        # Its images lie beside it.
        home, _, table = d.root.rpartition("/")
        return copies.fetched(home, "data.root") / table
    others = set()
    if d.category:
        with tempfile.TemporaryDirectory() as empty:
            for each in copies.folders_of(d.root, "data.root"):
                Path(empty, each).mkdir(parents=True)
            others = {*find_categories(d.source, empty)} - {d.category}
    return copies.fetched(d.root, "data.root", lambda name: name.split("/")[0] in others)


def _open(config: Config, root: str | Path, category: str, workdir: Path) -> Category:
    d = config.data
    source = build_source(d.source, root, category, **d.settings)
    preprocessing = preprocessing_of(config)
    of_category = config.of_category(source.category)
    check_batches(of_category)
    return Category(
        config=of_category,
        name=source.category or workdir.resolve().name,
        workdir=workdir,
        root=root,
        source=source,
        preprocessing=preprocessing,
    )


def preprocessing_of(config: Config) -> Preprocessing:
    """How the config's photographs become the networks' input."""
    d = config.data
    return Preprocessing(
        size=config.image_size,
        resize=d.resize,
        white_level=d.settings.get("white_level", FULL_RANGE),
        tile=d.tiling.tile,
        overlap=d.tiling.overlap,
    )


def check_batches(config: Config) -> None:
    """Checks that the devices there are can share the batches of each network.

    Raises:
      UserError: there are too few devices, or a batch is not a multiple of them.
    """
    sharing = meshes.batch_devices(meshes.make_mesh(**asdict(config.mesh)))
    for network in NETWORKS:
        section = getattr(config, network)
        settings = section.training
        weights = network != "extractor" and section.weights
        trained = (settings.steps or settings.epochs) and not weights
        if trained and settings.batch_size % (sharing * settings.accumulate):
            raise UserError(
                f"{network}.training.batch_size: {settings.batch_size} is not a multiple of "
                f"{sharing * settings.accumulate}, the {sharing} devices that share a batch times "
                f"{network}.training.accumulate; choose one, or other mesh.data and mesh.model"
            )


def write_config(categories: Sequence[Category]) -> None:
    """Writes each category's resolved settings, once all of them are known to be right."""
    for category in categories if processes.is_first() else ():
        category.workdir.mkdir(parents=True, exist_ok=True)
        write_json(category.workdir / "config.json", category.config.plain())
