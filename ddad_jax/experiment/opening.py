"""Opens and checks what a config names: categories, alone or together in one detector."""

import tempfile
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from ddad_jax.data.sources import build_source, check_recognised, find_categories
from ddad_jax.errors import UserError
from ddad_jax.experiment.category import DETECTOR, Category, Subject, preprocessing_of
from ddad_jax.experiment.schema import NETWORKS, Config
from ddad_jax.experiment.unified import Unified
from ddad_jax.machine import copies, processes
from ddad_jax.machine.objects import is_url
from ddad_jax.machine.storage import write_json
from ddad_jax.training import mesh as meshes

SHARED = "networks"


def open_subjects(config: Config, workdir: Path) -> list[Subject]:
    """Returns what the config makes detectors for: each category, or all of them together.

    Args:
      config: the settings.
      workdir: as for `open_categories`.

    Raises:
      UserError: as `open_categories`; or data.unified does not fit the categories or the folder.
    """
    categories = open_categories(config, workdir)
    several = len(categories) > 1
    if not config.data.unified:
        if several and (workdir / DETECTOR).exists():
            raise UserError(
                f"--workdir={workdir}: holds one detector, but {len(categories)} categories get "
                "one each, in folders of their own; choose another --workdir"
            )
        return [*categories]
    if not several:
        raise UserError(
            f"data.unified: is for several categories, but there is only '{categories[0].name}'; "
            "name others in data.category, or leave it out"
        )
    alone = [each for each in categories if each.detector_path.exists()]
    if alone:
        raise UserError(
            f"--workdir={workdir}: holds a detector of {alone[0].name} alone, but with "
            "data.unified all categories share one; choose another --workdir"
        )
    preprocessing = preprocessing_of(config)
    name = workdir.resolve().name
    return [Unified(config, name, workdir, preprocessing, tuple(categories))]


def open_categories(config: Config, workdir: Path) -> list[Category]:
    """Returns every category that the config names, checked; no photograph is decoded yet.

    Args:
      config: the settings.
      workdir: a writable folder; if there are several categories, each gets a folder in it.

    Raises:
      UserError: a setting or a folder is wrong; names it.
    """
    root = _root(config)
    check_recognised(config.data.source, root)
    names = config.data.categories or find_categories(config.data.source, root)
    if len(names) == 1:
        return [_open(config, root, names[0], workdir)]
    shared = workdir / SHARED if config.build.share_networks else None
    return [replace(_open(config, root, name, workdir / name), shared=shared) for name in names]


def _root(config: Config) -> str | Path:
    """Returns data.root; for a bucket, a copy here without the categories that are not chosen."""
    d = config.data
    # TFDS reads its own data from buckets.
    if d.source == "tfds" or not is_url(d.root):
        return d.root
    if d.source == "manifest":
        # A table's images are beside it.
        home, _, table = d.root.rpartition("/")
        return copies.fetched(home, "data.root") / table
    others = set()
    if d.categories:
        with tempfile.TemporaryDirectory() as empty:
            for each in copies.folders_of(d.root, "data.root"):
                Path(empty, each).mkdir(parents=True)
            others = {*find_categories(d.source, empty)} - {*d.categories}
    return copies.fetched(d.root, "data.root", lambda name: name.split("/")[0] in others)


def _open(config: Config, root: str | Path, category: str, workdir: Path) -> Category:
    d = config.data
    source = build_source(d.source, root, category, **d.settings)
    of_category = config.of_category(source.category)
    check_batches(of_category)
    return Category(
        config=of_category,
        name=source.category or workdir.resolve().name,
        workdir=workdir,
        preprocessing=preprocessing_of(config),
        root=root,
        source=source,
    )


def check_batches(config: Config) -> None:
    """Checks that the devices can share the batches of each network.

    Raises:
      UserError: there are too few devices, or a batch is not a multiple of their number.
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
                f"{network}.training.accumulate; change it, or mesh.data or mesh.model"
            )


def write_config(subjects: Sequence[Subject]) -> None:
    """Writes the settings of each subject to its config.json, once all are checked."""
    for subject in subjects if processes.is_first() else ():
        subject.workdir.mkdir(parents=True, exist_ok=True)
        write_json(subject.workdir / "config.json", subject.config.plain())
