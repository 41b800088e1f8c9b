"""Photographs as the networks see them, made once and kept on disk.

A cache is a folder named after a hash of everything it depends on: the content of all files, the
rules for reading them, and the settings. It is written under another name and renamed when it is
complete, so that a half-written cache is never used and processes may race for it.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging
from jaxtyping import Bool, Int, UInt8
from tqdm import tqdm

from ddad_jax.data.parallel import map_in_threads
from ddad_jax.data.preprocessing import Preprocessing
from ddad_jax.data.sample import ANOMALOUS, NORMAL, Sample, Source
from ddad_jax.errors import UserError

SPLITS = ("train", "test")
# Part of the key: raise it whenever something else is kept.
_CACHE_VERSION = 3


@dataclass(frozen=True, eq=False)
class ImageSet:
    """The photographs of one split as the networks see them.

    Attributes:
        samples: what is known of each photograph.
        squares: the networks' input, RGB, 0 to 255; memory-mapped, read-only. One a photograph, or
            its tiles.
        starts: the squares of photograph i are those from starts[i] up to starts[i + 1].
        masks: the pixels of the defect in each photograph's square; all False where it is normal,
            unknown or without mask, and where photographs are tiled, whose masks are looked at in
            their own size alone.
        has_mask: where the mask is known: every normal image, and defects with a mask file.
        sizes: height and width of each photograph, in pixels.
        contents: of each photograph, a digest of its squares.
    """

    samples: tuple[Sample, ...]
    squares: UInt8[np.ndarray, "m size size 3"]
    starts: Int[np.ndarray, "n1"]
    masks: Bool[np.ndarray, "n size size"]
    has_mask: Bool[np.ndarray, "n"]
    sizes: Int[np.ndarray, "n 2"]
    contents: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def labels(self) -> Int[np.ndarray, "n"]:
        """0 normal, 1 anomalous, -1 unknown."""
        return np.array([sample.label for sample in self.samples], int)

    def take(self, indices: Int[np.ndarray, "k"]) -> "ImageSet":
        """The photographs at `indices`, copied into memory."""
        counts = np.diff(self.starts)[indices]
        rows = [np.arange(self.starts[i], self.starts[i + 1]) for i in indices]
        return ImageSet(
            samples=tuple(self.samples[index] for index in indices),
            squares=np.asarray(self.squares[np.concatenate(rows) if rows else []]),
            starts=np.append(0, np.cumsum(counts)),
            masks=np.asarray(self.masks[indices]),
            has_mask=self.has_mask[indices],
            sizes=self.sizes[indices],
            contents=tuple(self.contents[index] for index in indices),
        )


def prepare(
    source: Source,
    preprocessing: Preprocessing,
    cache_dir: Path,
    on_unreadable: str = "error",
) -> dict[str, ImageSet]:
    """Reads and preprocesses a data set, or finds it in the cache.

    Args:
        source: the data set.
        preprocessing: how photographs become the networks' input.
        cache_dir: where caches are kept; made if need be.
        on_unreadable: "error" stops at an image that cannot be read; "skip" warns and leaves it
            out. A mask that cannot be read is always an error.

    Returns:
        One set for "train" and one for "test"; either may be empty.

    Raises:
        UserError: an image or mask cannot be used, or the cache cannot be written.
    """
    key = _cache_key(source, preprocessing, on_unreadable)
    folder = Path(cache_dir) / f"{source.category or 'images'}-{preprocessing.size}-{key}"
    try:
        if not folder.is_dir():
            _write_cache(source, preprocessing, on_unreadable, folder)
    except OSError as error:
        raise UserError(f"data.cache: cannot write '{folder}' ({error.strerror})") from error
    return _read_cache(source, preprocessing, folder)


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


def _write_cache(
    source: Source, preprocessing: Preprocessing, on_unreadable: str, folder: Path
) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(
        dir=folder.parent, prefix=f"{folder.name}.unfinished-", ignore_cleanup_errors=True
    ) as unfinished:
        index = {}
        for split in SPLITS:
            samples = [sample for sample in source.samples if sample.split == split]
            index[split] = _write_split(
                source, samples, preprocessing, on_unreadable, Path(unfinished), split
            )
        (Path(unfinished) / "index.json").write_text(json.dumps(index), encoding="utf-8")
        os.chmod(unfinished, 0o755)
        try:
            os.rename(unfinished, folder)
        except OSError:
            # Another process was faster; its cache has the same key, so the same content.
            if not folder.is_dir():
                raise


@dataclass(frozen=True)
class _Loaded:
    """A photograph as it is written."""

    squares: UInt8[np.ndarray, "n size size 3"]
    mask: Bool[np.ndarray, "size size"] | None
    has_mask: bool
    size: tuple[int, int]

    @property
    def content(self) -> str:
        about = str(self.squares.shape).encode()
        return hashlib.blake2b(about + self.squares.tobytes(), digest_size=12).hexdigest()


def _write_split(
    source: Source,
    samples: Sequence[Sample],
    preprocessing: Preprocessing,
    on_unreadable: str,
    folder: Path,
    split: str,
) -> dict[str, Any]:
    """Writes squares one after another, and masks where any can be other than empty."""
    index: dict[str, Any] = {
        name: [] for name in ("names", "counts", "has_mask", "sizes", "contents", "skipped")
    }
    index["with_masks"] = not preprocessing.tile and any(s.label == ANOMALOUS for s in samples)
    nothing = np.zeros((preprocessing.size, preprocessing.size), bool)
    with (
        open(folder / f"{split}_images.raw", "wb") as images,
        open(folder / f"{split}_masks.raw", "wb") as masks,
        tqdm(total=len(samples), desc=f"prepare {split}", unit="image", disable=None) as progress,
    ):
        for sample, loaded in _load_all(source, samples, preprocessing, on_unreadable):
            progress.update()
            if isinstance(loaded, str):
                index["skipped"].append(loaded)
                continue
            images.write(loaded.squares.tobytes())
            if index["with_masks"]:
                masks.write(nothing if loaded.mask is None else loaded.mask)
            index["names"].append(sample.name)
            index["counts"].append(len(loaded.squares))
            index["has_mask"].append(sample.label == NORMAL or loaded.has_mask)
            index["sizes"].append(loaded.size)
            index["contents"].append(loaded.content)
    if samples and not index["names"]:
        raise UserError(
            f"data: none of the {len(samples)} {split} images can be read; the first: "
            f"{index['skipped'][0]}"
        )
    return index


def _load_all(
    source: Source, samples: Sequence[Sample], preprocessing: Preprocessing, on_unreadable: str
) -> Iterator[tuple[Sample, _Loaded | str]]:
    """Each sample as it is written, or the reason why it is skipped."""

    def load(sample: Sample) -> _Loaded | str:
        try:
            image = source.read_image(sample)
        except UserError as error:
            if on_unreadable == "skip":
                return str(error)
            raise UserError(
                f"{error}. Mend or remove it, or set data.on_unreadable='skip'."
            ) from error
        mask = source.read_mask(sample)
        if mask is not None:
            require_equal_sizes(sample, image, mask)
        return _Loaded(
            squares=preprocessing.squares(image, str(sample.image or sample.name)),
            mask=None if mask is None or preprocessing.tile else preprocessing.fit_mask(mask),
            has_mask=mask is not None,
            size=image.shape[:2],
        )

    return map_in_threads(load, samples)


def _read_cache(source: Source, preprocessing: Preprocessing, folder: Path) -> dict[str, ImageSet]:
    index = json.loads((folder / "index.json").read_text(encoding="utf-8"))
    by_name = {sample.name: sample for sample in source.samples}
    size = preprocessing.size
    sets = {}
    for split, entry in index.items():
        for reason in entry["skipped"]:
            logging.warning("left out: %s", reason)
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
    """Maps a file of raw values; an empty file cannot be mapped."""
    return np.memmap(path, dtype, "r", shape=shape) if shape[0] else np.zeros(shape, dtype)
