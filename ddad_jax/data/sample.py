"""What every data set is made of: samples, and a source that can read them."""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, UInt8

NORMAL, ANOMALOUS, UNKNOWN = 0, 1, -1


@dataclass(frozen=True)
class Sample:
    """One image of a data set, and what is known about it.

    Attributes:
        name: unique in its source, usually a path below the root, with forward slashes.
        label: 0 normal, 1 anomalous, -1 unknown.
        defect: "good", "unknown", or the name of the kind of defect.
        split: "train" or "test".
        category: the product that the image shows; "" if the data set has only one.
        group: images of one part share it, so that no split divides them; None: a part of its own.
        validation: whether it is a training image that the data set itself holds out.
        image: the image file; None if the source generates or unpacks the image.
        mask: the file that marks the defect, or a folder of several; None if there is none.
    """

    name: str
    label: int
    defect: str
    split: str
    category: str
    group: str | None = None
    image: Path | None = None
    mask: Path | None = None
    validation: bool = False

    @property
    def file(self) -> Path:
        """The image file; only for sources whose images are files."""
        assert self.image is not None
        return self.image


def part_name(sample: Sample) -> str:
    """Returns a name that all images of one part share, and no other images of their source."""
    return f"image {sample.name}" if sample.group is None else f"part {sample.group}"


@runtime_checkable
class Source(Protocol):
    """A data set: its samples in a fixed order, and how to read them."""

    @property
    def category(self) -> str:
        """The product that the images show."""

    @property
    def samples(self) -> tuple[Sample, ...]:
        """Every sample in a fixed order, train before test."""

    def read_image(self, sample: Sample) -> UInt8[np.ndarray, "h w 3"]:
        """Decodes the image to RGB; raises UserError if it cannot be read."""

    def read_mask(self, sample: Sample) -> Bool[np.ndarray, "h w"] | None:
        """Returns the defect's pixels; None if no mask is known (a normal image needs none)."""

    def digest(self, sample: Sample) -> str:
        """Returns text that changes whenever `read_image` or `read_mask` may return otherwise."""


class SaturatedRegion(NamedTuple):
    """A defect that counts as found once enough of its pixels are found.

    Attributes:
        mask: its pixels.
        saturation: how many of them are enough, at least 1.
    """

    mask: Bool[np.ndarray, "h w"]
    saturation: int


@runtime_checkable
class Saturated(Protocol):
    """A source that knows how much of each defect must be found (MVTec LOCO AD)."""

    def read_regions(self, sample: Sample) -> list[SaturatedRegion]:
        """Returns the defects of an image, which may overlap; none if it has no mask."""
