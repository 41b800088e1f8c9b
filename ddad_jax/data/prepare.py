"""Prepares photographs for the networks, once, and keeps the result on disk.

A cache is a folder named after a hash of everything it depends on: the content of all files, the
rules for reading them, and the settings. It is written under another name and renamed when it is
complete, so that a half-written cache is never used and processes may race to write it.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging
from jaxtyping import Bool, UInt8
from tqdm import tqdm

from ddad_jax.data.files import examples
from ddad_jax.data.image_set import ImageSet, content_of
from ddad_jax.data.preprocessing import Preprocessing
from ddad_jax.data.report import DatasetReport, report_of
from ddad_jax.data.sample import ANOMALOUS, NORMAL, Sample, Source
from ddad_jax.errors import UserError
from ddad_jax.machine.parallel import map_in_threads

SPLITS = ("train", "test")
# Part of the key: raise it whenever what a cache holds changes.
_CACHE_VERSION = 4


def prepare(
    source: Source,
    preprocessing: Preprocessing,
    cache_dir: Path,
    on_unreadable: str = "error",
) -> dict[str, ImageSet]:
    """Returns the images of `examine`.

    Raises:
        UserError: an image or mask cannot be used, or the cache cannot be written.
    """
    report, sets = examine(source, preprocessing, cache_dir, on_unreadable)
    if sets is None:
        report.require_sound()
    assert sets is not None  # Otherwise `require_sound` has raised.
    return sets


def examine(
    source: Source,
    preprocessing: Preprocessing,
    cache_dir: Path,
    on_unreadable: str = "error",
) -> tuple[DatasetReport, dict[str, ImageSet] | None]:
    """Reads every image and mask once, or finds them in the cache, and reports what there is.

    Args:
        source: the data set.
        preprocessing: how photographs become the networks' input.
        cache_dir: where caches are kept; created if it is missing.
        on_unreadable: "error", or "skip" to warn of an image that cannot be read and leave it out.
            A mask that cannot be read is always an error.

    Returns:
        The report; and one set of images for "train" and one for "test", each possibly empty, or
        None if an image or a mask cannot be used.

    Raises:
        UserError: the cache cannot be written, a tile does not fit, or "skip" leaves a split empty.
    """
    key = _cache_key(source, preprocessing, on_unreadable)
    folder = Path(cache_dir) / f"{source.category or 'images'}-{preprocessing.size}-{key}"
    try:
        index = _read_index(folder)
        if index is None:
            index = _write_cache(source, preprocessing, on_unreadable, folder)
    except OSError as error:
        raise UserError(f"data.cache: cannot write '{folder}' ({error.strerror})") from error
    report = report_of(source, index, on_unreadable == "skip")
    if not _is_usable(index, on_unreadable):
        return report, None
    if report.unreadable:
        logging.warning(
            "%d images cannot be read and are left out: %s",
            len(report.unreadable), examples(report.unreadable),
        )  # fmt: skip
    return report, _read_cache(source, preprocessing, folder, index)


def forget_others(cache_dir: Path, images: ImageSet) -> None:
    """Removes the caches of earlier states of a data set.

    Args:
        cache_dir: holds caches of this data set only.
        images: a set from the cache that is to stay.
    """
    squares = images.squares
    file = squares.filename if isinstance(squares, np.memmap) else None
    kept = Path(file).parent if file else None
    for folder in cache_dir.glob("*-*/") if kept else ():
        if folder != kept and (folder / "index.json").is_file():
            shutil.rmtree(folder, ignore_errors=True)


def require_equal_sizes(
    sample: Sample, image: UInt8[np.ndarray, "h w 3"], mask: Bool[np.ndarray, "mask_h mask_w"]
) -> None:
    """Raises UserError unless a mask has the size of its image."""
    if mask.shape != image.shape[:2]:
        raise UserError(
            f"{sample.mask or sample.name}: the mask is {mask.shape[1]}×{mask.shape[0]} pixels, "
            f"but its image {sample.image or sample.name} is {image.shape[1]}×{image.shape[0]}; "
            "save both at the same size"
        )


def _cache_key(source: Source, preprocessing: Preprocessing, on_unreadable: str) -> str:
    rows = [
        [sample.name, sample.label, sample.defect, sample.split, sample.group, digest]
        for sample, digest in map_in_threads(source.digest, source.samples)
    ]
    dependencies = json.dumps([_CACHE_VERSION, asdict(preprocessing), on_unreadable, rows])
    return hashlib.blake2b(dependencies.encode(), digest_size=8).hexdigest()


def _read_index(folder: Path) -> dict[str, Any] | None:
    path = folder / "index.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def _write_cache(
    source: Source, preprocessing: Preprocessing, on_unreadable: str, folder: Path
) -> dict[str, Any]:
    """Writes a cache, unless something cannot be used; returns its index."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(
        dir=folder.parent, prefix=f"{folder.name}.unfinished-", ignore_cleanup_errors=True
    ) as unfinished:
        index = {}
        for split in SPLITS:
            samples = [sample for sample in source.samples if sample.split == split]
            index[split] = _write_split(source, samples, preprocessing, Path(unfinished), split)
            if on_unreadable == "skip" and samples and not index[split]["names"]:
                raise UserError(
                    f"data: none of the {len(samples)} {split} images can be read; the first: "
                    f"{index[split]['unreadable'][0]}"
                )
        if not _is_usable(index, on_unreadable):
            return index
        (Path(unfinished) / "index.json").write_text(json.dumps(index), encoding="utf-8")
        os.chmod(unfinished, 0o755)
        try:
            os.rename(unfinished, folder)
        except OSError:
            # Another process was faster; its cache has the same key, hence the same content.
            if not folder.is_dir():
                raise
    return index


def _is_usable(index: dict[str, Any], on_unreadable: str) -> bool:
    """Whether there was no mask, and with "error" no image, that cannot be used."""
    unreadable = on_unreadable == "error" and any(each["unreadable"] for each in index.values())
    return not unreadable and not any(each["bad_masks"] for each in index.values())


@dataclass(frozen=True)
class _Loaded:
    """A photograph as it is written, and what was found about its mask."""

    squares: UInt8[np.ndarray, "n size size 3"]
    size: tuple[int, int]
    has_mask: bool = False
    mask: Bool[np.ndarray, "size size"] | None = None
    bad_mask: str = ""
    is_empty: bool = False
    vanishes: bool = False


def _write_split(
    source: Source,
    samples: Sequence[Sample],
    preprocessing: Preprocessing,
    folder: Path,
    split: str,
) -> dict[str, Any]:
    """Writes a split's squares, and its masks if any may be non-empty; returns its index."""
    index: dict[str, Any] = {
        name: []
        for name in (
            "names", "counts", "has_mask", "sizes", "contents",
            "unreadable", "bad_masks", "empty_masks", "vanishing_masks",
        )
    }  # fmt: skip
    index["with_masks"] = not preprocessing.tile and any(s.label == ANOMALOUS for s in samples)
    nothing = np.zeros((preprocessing.size, preprocessing.size), bool)
    with (
        open(folder / f"{split}_images.raw", "wb") as images,
        open(folder / f"{split}_masks.raw", "wb") as masks,
        tqdm(total=len(samples), desc=f"prepare {split}", unit="image", disable=None) as progress,
    ):
        for sample, loaded in _load_all(source, samples, preprocessing):
            progress.update()
            if isinstance(loaded, str):
                index["unreadable"].append(loaded)
                continue
            images.write(loaded.squares.tobytes())
            if index["with_masks"]:
                masks.write((nothing if loaded.mask is None else loaded.mask).tobytes())
            index["names"].append(sample.name)
            index["counts"].append(len(loaded.squares))
            index["has_mask"].append(sample.label == NORMAL or loaded.has_mask)
            index["sizes"].append(loaded.size)
            index["contents"].append(content_of(loaded.squares))
            if loaded.bad_mask:
                index["bad_masks"].append(loaded.bad_mask)
            if sample.label == ANOMALOUS and loaded.is_empty:
                index["empty_masks"].append(sample.name)
            if sample.label == ANOMALOUS and loaded.vanishes:
                index["vanishing_masks"].append(sample.name)
    return index


def _load_all(
    source: Source, samples: Sequence[Sample], preprocessing: Preprocessing
) -> Iterator[tuple[Sample, _Loaded | str]]:
    """Yields each sample with its photograph, or with the reason why that cannot be read."""

    def load(sample: Sample) -> _Loaded | str:
        try:
            image = source.read_image(sample)
        except UserError as error:
            return str(error)
        squares = preprocessing.squares(image, str(sample.image or sample.name))
        loaded = _Loaded(squares, image.shape[:2])
        try:
            mask = source.read_mask(sample)
            if mask is None:
                return loaded
            require_equal_sizes(sample, image, mask)
        except UserError as error:
            return replace(loaded, has_mask=True, bad_mask=str(error))
        marked = bool(mask.any())
        if preprocessing.tile:
            return replace(loaded, has_mask=True, is_empty=not marked)
        fitted = preprocessing.fit_mask(mask)
        return replace(
            loaded,
            has_mask=True,
            mask=fitted,
            is_empty=not marked,
            vanishes=marked and not fitted.any(),
        )

    return map_in_threads(load, samples)


def _read_cache(
    source: Source, preprocessing: Preprocessing, folder: Path, index: dict[str, Any]
) -> dict[str, ImageSet]:
    by_name = {sample.name: sample for sample in source.samples}
    size = preprocessing.size
    sets = {}
    for split, entry in index.items():
        n, starts = len(entry["names"]), np.append(0, np.cumsum(entry["counts"], dtype=int))
        if entry["with_masks"]:
            masks = _map_file(folder / f"{split}_masks.raw", np.bool_, (n, size, size))
        else:
            masks = np.broadcast_to(np.False_, (n, size, size))
        sets[split] = ImageSet(
            samples=tuple(by_name[name] for name in entry["names"]),
            squares=_map_file(
                folder / f"{split}_images.raw", np.uint8, (int(starts[-1]), size, size, 3)
            ),
            starts=starts,
            masks=masks,
            has_mask=np.array(entry["has_mask"], bool),
            sizes=np.array(entry["sizes"], int).reshape(n, 2),
            contents=tuple(entry["contents"]),
        )
    return sets


def _map_file(path: Path, dtype: type, shape: tuple[int, ...]) -> np.ndarray:
    """Maps a file of raw values into memory; an empty one, which cannot be mapped, is an array."""
    return np.memmap(path, dtype, "r", shape=shape) if shape[0] else np.zeros(shape, dtype)
