"""What every data set is made of: samples, and a source that can read them."""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, UInt8

NORMAL, ANOMALOUS, UNKNOWN = 0, 1, -1


@dataclass(frozen=True)
class Sample:
    """One image of a data set, and what is known of it.

    Attributes:
        name: unique in its source: the path below the root, with forward slashes.
        label: 0 normal, 1 anomalous, -1 unknown.
        defect: "good", "unknown", or the name of the defect type.
        split: "train" or "test".
        category: which product the image shows; "" where a data set has but one.
        group: images of one part share it, so that no split divides them; None: a part of its own.
        validation: a training image that the data set itself holds out of training.
        image: the image file; None where the source generates or unpacks it.
        mask: the file that marks the defect; None where there is none.
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
        """The image file, of a source whose images are files."""
        assert self.image is not None
        return self.image


def part_name(sample: Sample) -> str:
    """What is the same for all images of one part, and no others of their source."""
    return f"image {sample.name}" if sample.group is None else f"part {sample.group}"


@runtime_checkable
class Source(Protocol):
    """A data set: its samples in a fixed order, and how to read them."""

    @property
    def category(self) -> str:
        """The product shown, as the user named it."""

    @property
    def samples(self) -> tuple[Sample, ...]:
        """Every sample, train before test, sorted by name within."""

    def read_image(self, sample: Sample) -> UInt8[np.ndarray, "h w 3"]:
        """Decodes the image to RGB; raises UserError where it cannot be read."""

    def read_mask(self, sample: Sample) -> Bool[np.ndarray, "h w"] | None:
        """The defect's pixels; None where no mask is known (a normal image needs none)."""

    def digest(self, sample: Sample) -> str:
        """Changes whenever what `read_image` or `read_mask` return may change."""


class SaturatedRegion(NamedTuple):
    """A defect of which a part is enough, as where one of many places may be the wrong one.

    Attributes:
        mask: its pixels.
        saturation: how many of these are enough, at least 1.
    """

    mask: Bool[np.ndarray, "h w"]
    saturation: int


@runtime_checkable
class Saturated(Protocol):
    """A source that knows how much of each defect is to be found (MVTec LOCO AD)."""

    def read_regions(self, sample: Sample) -> list[SaturatedRegion]:
        """The defects of an image, which may overlap; none where it has no mask."""
