"""Fits a detector to good photographs, in Python."""

import contextlib
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging
from ml_collections import ConfigDict
from PIL import Image

from ddad_jax.data.preprocessing import Photograph, Preprocessing
from ddad_jax.data.read import allow_large_images
from ddad_jax.deploy.fitted import FittedDetector, load_detector
from ddad_jax.errors import UserError
from ddad_jax.experiment import modes
from ddad_jax.experiment.category import DETECTOR, preprocessing_of
from ddad_jax.experiment.config import load_config, override, read_config
from ddad_jax.machine.objects import is_url
from ddad_jax.machine.storage import only_run, write_csv
from ddad_jax.machine.workdir import working_copy

TABLE, SAVED = "photographs.csv", "photographs"
# The settings of a config's source that apply to any photographs.
MANIFEST_SETTINGS = ("mask_rule", "white_level")
FOLDER_SETTINGS = (*MANIFEST_SETTINGS, "recursive", "group_pattern")


def fit(
    good_images: str | Path | Iterable[Photograph],
    workdir: str | Path | None,
    config: str,
    settings: Mapping[str, Any],
    progress: bool,
) -> FittedDetector:
    """Does what `ddad_jax.fit` documents, with the same arguments."""
    allow_large_images()
    values = load_config(config)
    with contextlib.ExitStack() as stack:
        if workdir is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ddad_jax_")))
        elif is_url(workdir):
            folder = stack.enter_context(working_copy(str(workdir), "workdir"))
        else:
            folder = Path(workdir).expanduser()
            folder.mkdir(parents=True, exist_ok=True)
        stack.enter_context(only_run(folder))
        stack.enter_context(_said() if progress else _without_bars())
        values.data.category = ""
        of_folder = isinstance(good_images, str | Path)
        of_source = FOLDER_SETTINGS if of_folder else MANIFEST_SETTINGS
        own = values.data.settings.to_dict()
        values.data.settings = ConfigDict({name: own[name] for name in of_source if name in own})
        override(values, [(name, _text(value)) for name, value in settings.items()])
        if isinstance(good_images, str | Path):
            values.data.source, values.data.root = "folder", str(good_images)
        else:
            values.data.source = "manifest"
            values.data.root = str(folder / TABLE)
            how = preprocessing_of(read_config(values))
            _write_table(folder, good_images, how)
        modes.run("fit", read_config(values), folder)
        return load_detector(folder / DETECTOR)


def _write_table(folder: Path, photographs: Iterable[Photograph], how: Preprocessing) -> None:
    """Writes a table of the photographs, all good; first saves those without a usable path."""
    rows: dict[str, list[str]] = {}
    for number, photograph in enumerate(photographs):
        path = ""
        if isinstance(photograph, str | Path):
            path = str(Path(photograph).expanduser().absolute())
        if not path or not path.isprintable() or path != path.strip():
            image = how.read(photograph, path or f"photograph {number}")
            path = str((folder / SAVED / f"{number:06d}.png").absolute())
            Path(path).parent.mkdir(exist_ok=True)
            Image.fromarray(image).save(path)
        rows[path] = [path, "train", "good"]
    if not rows:
        raise UserError("good_images: holds no photograph; give a folder, paths or arrays")
    write_csv(folder / TABLE, [["image", "split", "label"], *rows.values()])


def _text(value: Any) -> str:
    value = value.item() if isinstance(value, np.generic) else value
    return value if isinstance(value, str) else repr(value)


@contextlib.contextmanager
def _said() -> Iterator[None]:
    """Logs progress inside the block, and restores the verbosity afterwards."""
    before = logging.get_verbosity()
    logging.set_verbosity(logging.INFO)
    try:
        yield
    finally:
        logging.set_verbosity(before)


class _NoTerminal:
    """A stream that says it is no terminal."""

    def __init__(self, stream: Any):
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def isatty(self) -> bool:
        return False


def _without_bars() -> contextlib.AbstractContextManager[Any]:
    """Hides progress bars inside the block: they are only drawn on terminals."""
    return contextlib.redirect_stderr(_NoTerminal(sys.stderr))
