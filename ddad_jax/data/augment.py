"""Changes of training images that leave a good part good.

Each changes "image" in a sample's dictionary and draws from the generator that the loader passes.
They are dataclasses, so that they can be sent to worker processes.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from ddad_jax.data.loader import Augmentation, Record
from ddad_jax.settings import Checked, setting

Picture = UInt8[np.ndarray, "size size 3"]


@dataclass(frozen=True)
class Flip:
    """Mirrors half of the images: left to right (axis 1) or upside down (axis 0)."""

    axis: int

    def __call__(self, record: Record, rng: np.random.Generator) -> Record:
        """Mirrors the image, or leaves it as it is."""
        if rng.random() < 0.5:
            return record
        return {**record, "image": np.flip(record["image"], self.axis)}


@dataclass(frozen=True)
class QuarterTurn:
    """Turns images by 0, 90, 180 or 270 degrees, each equally often."""

    def __call__(self, record: Record, rng: np.random.Generator) -> Record:
        """Turns the image."""
        return {**record, "image": np.rot90(record["image"], int(rng.integers(4)))}


@dataclass(frozen=True)
class Motion:
    """Turns and shifts images a little, bilinearly; the edge is repeated outwards.

    Attributes:
        max_rotation: in degrees, either way.
        max_shift: in image sides, along each axis, either way.
    """

    max_rotation: float
    max_shift: float

    def __call__(self, record: Record, rng: np.random.Generator) -> Record:
        """Moves the image."""
        angle = np.deg2rad(rng.uniform(-self.max_rotation, self.max_rotation))
        shift = rng.uniform(-self.max_shift, self.max_shift, 2)
        return {**record, "image": move(record["image"], angle, shift[0], shift[1])}


def move(image: Picture, angle: float, right: float, down: float) -> Picture:
    """Turns an image clockwise by `angle` radians about its centre, then shifts it.

    Args:
        image: RGB.
        angle: in radians.
        right: in image sides.
        down: in image sides.
    """
    size = image.shape[0]
    cosine, sine = np.cos(angle), np.sin(angle)
    reach = size / 2 * (abs(sine) + abs(1 - cosine)) + size * max(abs(right), abs(down))
    margin = int(np.ceil(reach)) + 1
    padded = np.pad(image, ((margin, margin), (margin, margin), (0, 0)), mode="edge")
    # Pillow takes the inverse: from each place in the result to its origin in the padded image.
    middle = size / 2
    x, y = middle + right * size, middle + down * size
    back = (
        *(cosine, sine, margin + middle - cosine * x - sine * y),
        *(-sine, cosine, margin + middle + sine * x - cosine * y),
    )
    moved = Image.fromarray(padded).transform(
        (size, size), Image.Transform.AFFINE, back, Image.Resampling.BILINEAR
    )
    return np.asarray(moved)


@dataclass(frozen=True)
class AugmentationSettings(Checked):
    """The changes of training images that leave a good part good; none by default, as published.

    Attributes:
      horizontal_flip: mirror left to right.
      vertical_flip: mirror upside down.
      quarter_turns: turn by multiples of 90 degrees.
      max_rotation: turn by up to this many degrees either way.
      max_shift: shift by up to this share of the side either way.
    """

    horizontal_flip: bool = setting(False, changes="autoencoder")
    vertical_flip: bool = setting(False, changes="autoencoder")
    quarter_turns: bool = setting(False, changes="autoencoder")
    max_rotation: float = setting(0.0, changes="autoencoder", low=0, high=45)
    max_shift: float = setting(0.0, changes="autoencoder", low=0, high=0.5)


def build_augmentations(settings: AugmentationSettings) -> tuple[Augmentation, ...]:
    """Returns the augmentations that the settings ask for."""
    chosen: list[Augmentation] = []
    if settings.horizontal_flip:
        chosen.append(Flip(axis=1))
    if settings.vertical_flip:
        chosen.append(Flip(axis=0))
    if settings.quarter_turns:
        chosen.append(QuarterTurn())
    if settings.max_rotation or settings.max_shift:
        chosen.append(Motion(settings.max_rotation, settings.max_shift))
    return tuple(chosen)
