"""The photographs of a split as the networks see them."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int, UInt8

from ddad_jax.data.sample import Sample


@dataclass(frozen=True, eq=False)
class ImageSet:
    """The photographs of one split as the networks see them.

    Attributes:
        samples: what is known about each photograph.
        squares: the networks' input, RGB, 0 to 255: one per photograph, or its tiles. From a cache
            they are memory-mapped and read-only.
        starts: photograph i has the squares from starts[i] up to, but not including, starts[i + 1].
        masks: the pixels of the defect in each photograph's square; all False if it is normal,
            unknown or without a mask. Also all False for tiled photographs, whose masks are only
            used at full size.
        has_mask: whether the mask is known, as for normal images and for defects with a mask.
        sizes: height and width of each photograph, in pixels.
        contents: for each photograph, a digest of its squares.
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
        """Returns the photographs at `indices`, copied into memory."""
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


def joined(sets: Sequence[ImageSet]) -> ImageSet:
    """Joins several sets with squares of the same size, one after the other, in memory."""
    counts = np.concatenate([np.diff(each.starts) for each in sets])
    return ImageSet(
        samples=tuple(sample for each in sets for sample in each.samples),
        squares=np.concatenate([each.squares for each in sets]),
        starts=np.append(0, np.cumsum(counts)),
        masks=np.concatenate([each.masks for each in sets]),
        has_mask=np.concatenate([each.has_mask for each in sets]),
        sizes=np.concatenate([each.sizes for each in sets]),
        contents=tuple(content for each in sets for content in each.contents),
    )


def content_of(squares: UInt8[np.ndarray, "n size size 3"]) -> str:
    """Returns what identifies a photograph whatever its name: a digest of its squares."""
    about = str(squares.shape).encode()
    return hashlib.blake2b(about + squares.tobytes(), digest_size=12).hexdigest()
