"""Sources whose images and masks are files, and functions that find files."""

import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from absl import logging
from jaxtyping import Bool, UInt8

from ddad_jax.data import read
from ddad_jax.data.sample import ANOMALOUS, Sample
from ddad_jax.errors import UserError, readable
from ddad_jax.machine.storage import LOCK

# What may follow an image's stem in the name of its mask, in the order of the search.
MASK_ENDINGS = ("_mask", "", "_gt", "_label", "_seg")
# How many names a message shows as examples.
SHOWN = 3


@dataclass(frozen=True)
class FileSource:
    """Samples that are files; `read` says how each kind of file is decoded."""

    category: str
    samples: tuple[Sample, ...]
    mask_rule: str = "auto"
    white_level: int = read.FULL_RANGE

    def __post_init__(self):
        read.check_mask_rule(self.mask_rule)
        if not 0 < self.white_level <= read.FULL_RANGE:
            raise UserError(
                f"data.settings.white_level: {self.white_level} is outside 1 to {read.FULL_RANGE}"
            )

    def read_image(self, sample: Sample) -> UInt8[np.ndarray, "h w 3"]:
        """Decodes the image file to RGB; raises UserError if it cannot be read."""
        return read.read_image(sample.file, self.white_level)

    def read_mask(self, sample: Sample) -> Bool[np.ndarray, "h w"] | None:
        """Returns the defect's pixels; None if there is no mask file."""
        if sample.mask is None:
            return None
        masks = [read.read_mask(path, self.mask_rule) for path in mask_files(sample.mask)]
        if len({mask.shape for mask in masks}) > 1:
            raise UserError(f"{sample.mask}: its masks differ in size; save them at the image's")
        return np.logical_or.reduce(masks)

    def digest(self, sample: Sample) -> str:
        """Returns a hash of the files' contents and of the rules for decoding them."""
        digest = hashlib.blake2b(f"{self.mask_rule} {self.white_level}".encode(), digest_size=16)
        masks = [None] if sample.mask is None else mask_files(sample.mask)
        for path in (sample.image, *masks):
            try:
                content = b"" if path is None else path.read_bytes()
            except OSError as error:
                content = f"unreadable: {error.strerror}".encode()
            digest.update(hashlib.blake2b(content).digest())
        return digest.hexdigest()


def mask_files(mask: Path) -> list[Path]:
    """Returns the files of a mask: the file itself, or all image files of a folder.

    Raises:
        UserError: the folder holds none.
    """
    if not mask.is_dir():
        return [mask]
    paths = [path for path in _entries(mask) if _is_image(path)]
    if not paths:
        raise UserError(f"{mask}: holds no mask; remove the folder, or fill it")
    return paths


def find_images(folder: Path, recursive: bool = False) -> list[Path]:
    """Returns the image files in a folder, sorted, without hidden ones (such as those of macOS).

    Links to folders are followed; each folder is visited once, so that loops end. The log counts
    the files that are left out because they are no images, or masks of images beside them.

    Raises:
        UserError: the folder cannot be read.
    """
    images, masks, others = _divided(_walk(folder, set()) if recursive else _entries(folder))
    for passed_over, why in (
        (others, "without an image suffix"),
        (masks, "that are masks of images beside them"),
    ):
        if passed_over:
            names = examples([name_of(path, folder) for path in passed_over])
            logging.warning(
                "%s: %d files %s are passed over: %s", folder, len(passed_over), why, names
            )
    return images


def images_below(folder: Path) -> list[Path]:
    """Returns what `find_images` finds in a folder and below it, without warnings in the log.

    Raises:
        UserError: the folder cannot be read.
    """
    return _divided(_walk(folder, set(), quiet=True))[0]


def share_of_images(names: Iterable[str], number: int, count: int) -> set[str]:
    """Returns the images that one of several processes takes: every `count`-th, but at least one.

    Args:
      names: of all files below a folder.
      number: the number of the process, from 0.
      count: how many processes there are.
    """
    found = [str(path) for path in _divided(map(Path, names))[0]]
    return {*(found[number::count] or found[:1])}


def _divided(paths: Iterable[Path]) -> tuple[list[Path], list[Path], list[Path]]:
    """Divides files into images, masks beside images, and others, each sorted."""
    files = sorted(path for path in paths if not path.name.startswith(".") and not path.is_dir())
    found = [path for path in files if _is_image(path)]
    there = {(path.parent, path.stem.casefold()) for path in found}
    masks = [path for path in found if _is_mask_beside(path, there)]
    others = [path for path in files if not _is_image(path)]
    return sorted({*found} - {*masks}), masks, others


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in read.IMAGE_SUFFIXES and not path.name.startswith(".")


def _is_mask_beside(path: Path, there: set[tuple[Path, str]]) -> bool:
    stem = path.stem.casefold()
    return any(
        ending and stem.endswith(ending) and (path.parent, stem.removesuffix(ending)) in there
        for ending in MASK_ENDINGS
    )


def examples(names: Sequence[str]) -> str:
    """Returns the first few of several names, as a message shows them."""
    shown = ", ".join(names[:SHOWN])
    return shown if len(names) <= SHOWN else f"{shown} and {len(names) - SHOWN} more"


def name_of(path: Path, home: Path) -> str:
    """Returns a sample's name: its path below a folder, with forward slashes."""
    return readable(path.relative_to(home).as_posix())


def require_images(folder: Path, setting: str, hint: str, recursive: bool = False) -> list[Path]:
    """Like `find_images`; raises UserError naming `setting`, with `hint`, if there are none."""
    require_folder(folder, setting, hint)
    paths = find_images(folder, recursive)
    if not paths:
        suffixes = " ".join(read.IMAGE_SUFFIXES)
        below = examples([readable(each.name) for each in subfolders(folder)])
        found = f"but the folders {below}" if below else f"looked for {suffixes}"
        raise UserError(f"{setting}: '{folder}' holds no images ({found}). {hint}")
    return paths


def require_folder(folder: Path, setting: str, hint: str) -> None:
    """Raises UserError naming `setting`, with `hint`, unless `folder` is a folder."""
    if not folder.is_dir():
        found = "is a file, not a folder" if folder.is_file() else "does not exist"
        raise UserError(f"{setting}: '{folder}' {found}. {hint}")


def require_root(root: str | Path, setting: str = "data.root") -> Path:
    """Returns the folder that a setting names; raises UserError if it is unset or missing."""
    if not str(root):
        raise UserError(f"{setting}: is not set. Use --config.{setting}=<folder>.")
    folder = Path(root)
    require_folder(folder, setting, f"Use --config.{setting}=<folder>.")
    return folder


def subfolders(folder: Path) -> list[Path]:
    """Returns the folders directly in a folder, sorted, without hidden ones and those of runs."""
    return [path for path in _entries(folder) if _is_looked_into(path)]


def _is_looked_into(path: Path, quiet: bool = False) -> bool:
    """Whether a path is a folder that may hold photographs: not hidden, and not of a run."""
    if not path.is_dir() or path.name.startswith("."):
        return False
    try:
        is_of_a_run = (path / LOCK).is_file()
    except OSError:
        # The folder may not be entered, which is reported when it is read.
        return True
    if is_of_a_run and not quiet:
        logging.info("%s: is passed over; it is a --workdir or an --output", path)
    return not is_of_a_run


def require_category(root: Path, category: str, marker: str) -> Path:
    """Returns `root / category`; raises UserError, listing the choices, if it has no `marker`."""
    found = [folder.name for folder in subfolders(root) if (folder / marker).is_dir()]
    if category and (root / category / marker).is_dir():
        return root / category
    if found:
        asked = f"'{category}' is not in '{root}'" if category else "is not set"
        raise UserError(f"data.category: {asked}; there are {', '.join(found)}")
    raise UserError(
        f"data.root: '{root}' holds no folder <category>/{marker}. "
        "For a plain folder of good images use --config=configs/folder.py."
    )


def masks_in(folder: Path) -> dict[str, Path]:
    """Returns the masks in a folder by their stem in lower case; none if the folder is missing.

    PNG is preferred. A subfolder holds several masks of the image with its name, as in MVTec LOCO.
    """
    if not folder.is_dir():
        return {}
    paths = [path for path in _entries(folder) if _is_image(path)]
    paths.sort(key=lambda path: path.suffix.lower() == ".png")
    divided = {path.name.casefold(): path for path in subfolders(folder)}
    return divided | {path.stem.casefold(): path for path in paths}


def find_mask(masks: Mapping[str, Path], image: Path) -> Path | None:
    """Returns an image's mask from `masks_in`, by its stem and `MASK_ENDINGS`; None without one."""
    found = (masks.get(f"{image.stem}{ending}".casefold()) for ending in MASK_ENDINGS)
    return next(filter(None, found), None)


def check_masks(samples: Sequence[Sample], setting: str) -> None:
    """Warns of defective images that have no mask, if others have one.

    Raises:
        UserError: several images would share a mask.
    """
    owner: dict[Path, Sample] = {}
    for sample in samples:
        if sample.mask is None:
            continue
        other = owner.setdefault(sample.mask, sample)
        if other is not sample:
            raise UserError(
                f"{setting}: '{sample.mask}' would be the mask of several images, '{other.name}' "
                f"and '{sample.name}'; put it into a folder with the name of its image's folder"
            )
    bare = [s for s in samples if s.label == ANOMALOUS and s.mask is None]
    if owner and bare:
        logging.warning(
            "%s: %d of %d defective images have no mask, and count in image metrics only: %s",
            setting, len(bare), len(bare) + len(owner), examples([s.name for s in bare]),
        )  # fmt: skip


def group_of(path: Path, pattern: str) -> str | None:
    """Returns the part that an image shows: what `pattern` finds in its file name, or None.

    Args:
        path: the image file.
        pattern: a regular expression; its first group counts, or the whole match if it has none.
            "" makes every image a part of its own.
    """
    if not pattern:
        return None
    try:
        match = re.search(pattern, path.name)
    except re.error as error:
        raise UserError(
            f"data.settings.group_pattern: '{pattern}' is not a regular expression ({error})"
        ) from error
    return match and match.group(1 if match.re.groups else 0)


def _walk(folder: Path, visited: set[tuple[int, int]], quiet: bool = False) -> Iterator[Path]:
    say = logging.debug if quiet else logging.warning
    try:
        status = folder.stat()
        identity = (status.st_dev, status.st_ino)
        if identity in visited:
            say("%s leads to a folder already read; it is left out", folder)
            return
        inside = _entries(folder)
    except FileNotFoundError as error:
        # The folder was removed after it was listed.
        if not visited:
            raise UserError(f"{folder}: does not exist any more") from error
        return
    except UserError as error:
        if not visited:
            raise
        say("%s, and is passed over", error)
        return
    visited.add(identity)
    for path in inside:
        if _is_looked_into(path, quiet):
            yield from _walk(path, visited, quiet)
        else:
            yield path


def _entries(folder: Path) -> list[Path]:
    """Returns everything in a folder, sorted."""
    try:
        with os.scandir(folder) as entries:
            return sorted(Path(entry.path) for entry in entries)
    except OSError as error:
        raise UserError(f"{folder}: cannot be read ({error.strerror})") from error
