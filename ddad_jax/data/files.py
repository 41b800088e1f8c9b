"""Sources whose images and masks are files, and how files are found."""

import hashlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from absl import logging
from jaxtyping import Bool, UInt8

from ddad_jax.data import read
from ddad_jax.data.sample import Sample
from ddad_jax.errors import UserError

GOOD_NAMES = ("good", "ok", "normal")


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
        """Decodes the image file to RGB; raises UserError where it cannot be read."""
        return read.read_image(sample.image, self.white_level)

    def read_mask(self, sample: Sample) -> Bool[np.ndarray, "h w"] | None:
        """The defect's pixels; None where there is no mask file."""
        return None if sample.mask is None else read.read_mask(sample.mask, self.mask_rule)

    def digest(self, sample: Sample) -> str:
        """A hash of both files' content and of the rules for decoding them."""
        digest = hashlib.blake2b(f"{self.mask_rule} {self.white_level}".encode(), digest_size=16)
        for path in (sample.image, sample.mask):
            try:
                content = b"" if path is None else path.read_bytes()
            except OSError as error:
                content = f"unreadable: {error.strerror}".encode()
            digest.update(hashlib.blake2b(content).digest())
        return digest.hexdigest()


def find_images(folder: Path, recursive: bool = False) -> list[Path]:
    """The image files in a folder, sorted; hidden ones (as macOS strews) are left out.

    Links to folders are followed, each folder being visited once, so that loops end.
    """
    found = [
        path
        for path in (_walk(folder, set()) if recursive else folder.iterdir())
        if path.suffix.lower() in read.IMAGE_SUFFIXES
        and not path.name.startswith(".")
        and not path.is_dir()
    ]
    return sorted(found)


def require_images(folder: Path, setting: str, hint: str, recursive: bool = False) -> list[Path]:
    """`find_images`, or a UserError naming `setting` and ending in `hint` when there are none."""
    require_folder(folder, setting, hint)
    paths = find_images(folder, recursive)
    if not paths:
        suffixes = " ".join(read.IMAGE_SUFFIXES)
        raise UserError(f"{setting}: '{folder}' holds no images (looked for {suffixes}). {hint}")
    return paths


def require_folder(folder: Path, setting: str, hint: str) -> None:
    """Raises UserError naming `setting` and ending in `hint` unless `folder` is a folder."""
    if not folder.is_dir():
        found = "is a file, not a folder" if folder.is_file() else "does not exist"
        raise UserError(f"{setting}: '{folder}' {found}. {hint}")


def require_root(root: str | Path, setting: str = "data.root") -> Path:
    """The folder named by a setting; raises UserError when it is unset or missing."""
    if not str(root):
        raise UserError(f"{setting}: is not set. Use --config.{setting}=<folder>.")
    folder = Path(root)
    require_folder(folder, setting, f"Use --config.{setting}=<folder>.")
    return folder


def subfolders(folder: Path) -> list[Path]:
    """The folders directly in a folder, sorted, hidden ones left out."""
    return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))


def require_category(root: Path, category: str, marker: str) -> Path:
    """`root / category`; raises UserError listing the categories that hold `marker`."""
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


def find_mask(folder: Path, image: Path) -> Path | None:
    """The mask of an image: the file in `folder` of the same stem, or of the stem and `_mask`."""
    for stem in (f"{image.stem}_mask", image.stem):
        for suffix in (".png", image.suffix, *read.IMAGE_SUFFIXES):
            for spelled in (suffix, suffix.upper()):
                if (folder / f"{stem}{spelled}").is_file():
                    return folder / f"{stem}{spelled}"
    return None


def group_of(path: Path, pattern: str) -> str | None:
    """Which part an image shows: what `pattern` finds in its file name; None without a match.

    Args:
        path: the image file.
        pattern: a regular expression; its first group counts, or all of it if it has none.
            "" puts every image in a group of its own.
    """
    if not pattern:
        return None
    try:
        match = re.search(pattern, path.name)
    except re.error as error:
        raise UserError(
            f"data.settings.group_pattern: '{pattern}' is no regular expression ({error})"
        ) from error
    return match and match.group(1 if match.re.groups else 0)


def _walk(folder: Path, visited: set[tuple[int, int]]) -> Iterator[Path]:
    status = folder.stat()
    identity = (status.st_dev, status.st_ino)
    if identity in visited:
        logging.warning("%s leads to a folder already read; it is left out", folder)
        return
    visited.add(identity)
    with os.scandir(folder) as entries:
        paths = sorted(Path(entry.path) for entry in entries)
    for path in paths:
        if path.is_dir() and not path.name.startswith("."):
            yield from _walk(path, visited)
        else:
            yield path
