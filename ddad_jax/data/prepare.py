"""Decoded, resized images, made once and kept on disk.

A cache is a folder named after a hash of everything it depends on: the content of all files, the
rules for reading them, and the settings. It is written under another name and renamed when it is
complete, so that a half-written cache is never used and processes may race for it.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from absl import logging
from jaxtyping import Bool, Int, UInt8
from tqdm import tqdm

from ddad_jax.data.parallel import map_in_threads
from ddad_jax.data.resize import check_resize, fit_image, fit_mask
from ddad_jax.data.sample import ANOMALOUS, NORMAL, Sample, Source
from ddad_jax.errors import UserError

SPLITS = ("train", "test")
ON_UNREADABLE = ("error", "skip")
# Part of the key: raise it whenever decoding or resizing changes what comes out.
_CACHE_VERSION = 1


@dataclass(frozen=True, eq=False)
class ImageSet:
    """The samples of one split with their images and masks at one size.

    Attributes:
        samples: what is known of each.
        images: RGB, 0 to 255; memory-mapped, read-only.
        masks: the pixels of the defect; all False where it is normal, unknown or without mask.
        has_mask: where the mask is known: every normal image, and defects with a mask file.
    """

    samples: tuple[Sample, ...]
    images: UInt8[np.ndarray, "n size size 3"]
    masks: Bool[np.ndarray, "n size size"]
    has_mask: Bool[np.ndarray, "n"]

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def labels(self) -> Int[np.ndarray, "n"]:
        """0 normal, 1 anomalous, -1 unknown."""
        return np.array([sample.label for sample in self.samples], int)

    def take(self, indices: Int[np.ndarray, "k"]) -> "ImageSet":
        """The samples at `indices`, copied into memory."""
        return ImageSet(
            samples=tuple(self.samples[index] for index in indices),
            images=np.asarray(self.images[indices]),
            masks=np.asarray(self.masks[indices]),
            has_mask=self.has_mask[indices],
        )


def prepare(
    source: Source,
    size: int,
    cache_dir: Path,
    resize: str = "stretch",
    on_unreadable: str = "error",
) -> dict[str, ImageSet]:
    """Decodes and resizes a data set, or finds it in the cache.

    Args:
        source: the data set.
        size: the side of the square images, in pixels.
        cache_dir: where caches are kept; made if need be.
        resize: "stretch", "pad" or "crop"; see `resize`.
        on_unreadable: "error" stops at an image that cannot be read; "skip" warns and leaves it
            out. A mask that cannot be read is always an error.

    Returns:
        One set for "train" and one for "test"; either may be empty.

    Raises:
        UserError: an image or mask cannot be used, or the cache cannot be written.
    """
    check_resize(resize)
    if on_unreadable not in ON_UNREADABLE:
        raise UserError(
            f"data.on_unreadable: '{on_unreadable}' is not one of {', '.join(ON_UNREADABLE)}"
        )
    if size < 1:
        raise UserError(f"data.size: {size} is not a number of pixels")
    key = _cache_key(source, size, resize, on_unreadable)
    folder = Path(cache_dir) / f"{source.category or 'images'}-{size}-{key}"
    try:
        if not folder.is_dir():
            _write_cache(source, size, resize, on_unreadable, folder)
    except OSError as error:
        raise UserError(f"data.cache: cannot write '{folder}' ({error.strerror})") from error
    return _read_cache(source, size, folder)


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


def _cache_key(source: Source, size: int, resize: str, on_unreadable: str) -> str:
    rows = [
        [sample.name, sample.label, sample.defect, sample.split, sample.group, digest]
        for sample, digest in map_in_threads(source.digest, source.samples)
    ]
    dependencies = json.dumps([_CACHE_VERSION, size, resize, on_unreadable, rows])
    return hashlib.blake2b(dependencies.encode(), digest_size=8).hexdigest()


def _write_cache(source: Source, size: int, resize: str, on_unreadable: str, folder: Path) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(
        dir=folder.parent, prefix=f"{folder.name}.unfinished-", ignore_cleanup_errors=True
    ) as unfinished:
        index = {}
        for split in SPLITS:
            samples = [sample for sample in source.samples if sample.split == split]
            index[split] = _write_split(
                source, samples, size, resize, on_unreadable, Path(unfinished), split
            )
        (Path(unfinished) / "index.json").write_text(json.dumps(index), encoding="utf-8")
        os.chmod(unfinished, 0o755)
        try:
            os.rename(unfinished, folder)
        except OSError:
            # Another process was faster; its cache has the same key, so the same content.
            if not folder.is_dir():
                raise


def _write_split(
    source: Source,
    samples: Sequence[Sample],
    size: int,
    resize: str,
    on_unreadable: str,
    folder: Path,
    split: str,
) -> dict[str, list]:
    """Writes images one after another, and masks where any can be other than empty."""
    kept, masked, skipped = [], [], []
    with_masks = any(sample.label == ANOMALOUS for sample in samples)
    with (
        open(folder / f"{split}_images.raw", "wb") as images,
        open(folder / f"{split}_masks.raw", "wb") as masks,
        tqdm(total=len(samples), desc=f"prepare {split}", unit="image", disable=None) as progress,
    ):
        for sample, loaded in _load_all(source, samples, size, resize, on_unreadable):
            progress.update()
            if isinstance(loaded, str):
                # The tiles of one unreadable image share one reason.
                skipped += [loaded] if loaded not in skipped else []
                continue
            image, mask = loaded
            images.write(image.tobytes())
            if with_masks:
                masks.write(np.zeros((size, size), bool) if mask is None else mask)
            kept.append(sample.name)
            masked.append(sample.label == NORMAL or mask is not None)
    if samples and not kept:
        raise UserError(
            f"data: none of the {len(samples)} {split} images can be read; the first: {skipped[0]}"
        )
    return {"names": kept, "has_mask": masked, "with_masks": with_masks, "skipped": skipped}


def _load_all(
    source: Source, samples: Sequence[Sample], size: int, resize: str, on_unreadable: str
) -> Iterator[tuple[Sample, tuple | str]]:
    """Each sample with its fitted image and mask, or with the reason why it is skipped."""

    def load(sample: Sample) -> tuple | str:
        try:
            image = source.read_image(sample)
        except UserError as error:
            if on_unreadable == "skip":
                return str(error)
            raise UserError(
                f"{error}. Mend or remove it, or set data.on_unreadable='skip'."
            ) from error
        mask = source.read_mask(sample)
        if mask is None:
            return fit_image(image, size, resize), None
        require_equal_sizes(sample, image, mask)
        return fit_image(image, size, resize), fit_mask(mask, size, resize)

    return map_in_threads(load, samples)


def _read_cache(source: Source, size: int, folder: Path) -> dict[str, ImageSet]:
    index = json.loads((folder / "index.json").read_text(encoding="utf-8"))
    by_name = {sample.name: sample for sample in source.samples}
    sets = {}
    for split, entry in index.items():
        for reason in entry["skipped"]:
            logging.warning("left out: %s", reason)
        n = len(entry["names"])
        if entry["with_masks"]:
            masks = _map_file(folder / f"{split}_masks.raw", np.bool_, (n, size, size))
        else:
            masks = np.broadcast_to(np.False_, (n, size, size))
        sets[split] = ImageSet(
            samples=tuple(by_name[name] for name in entry["names"]),
            images=_map_file(folder / f"{split}_images.raw", np.uint8, (n, size, size, 3)),
            masks=masks,
            has_mask=np.array(entry["has_mask"], bool),
        )
    return sets


def _map_file(path: Path, dtype: type, shape: tuple[int, ...]) -> np.ndarray:
    """Maps a file of raw values; an empty file cannot be mapped."""
    return np.memmap(path, dtype, "r", shape=shape) if shape[0] else np.zeros(shape, dtype)
