"""Turns photographs into the networks' input, and maps of it into maps of the photograph.

Training, evaluation, prediction and the Python interface all use it. A fitted detector keeps the
`Preprocessing` that it was made with.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float, Shaped, UInt8
from PIL import Image, ImageOps

from ddad_jax.data import read
from ddad_jax.data.resize import fit_image, fit_mask, restore_map, scale_map
from ddad_jax.data.tiling import Blend, tile_positions
from ddad_jax.errors import UserError
from ddad_jax.settings import Checked, SettingError, setting

# A path, the bytes of a file, a Pillow image, or an array [h w], [h w 1] or [h w 3].
Photograph = str | Path | bytes | Image.Image | np.ndarray


@dataclass(frozen=True)
class Preprocessing(Checked):
    """How a photograph of any kind and size becomes the networks' input.

    Attributes:
      size: side in pixels of the square images that the networks see.
      resize: how an image becomes square; see `resize`.
      white_level: the value of 16-bit grey images that stands for white; see `read`.
      tile: side in pixels of the squares that an image is cut into first; 0: it stays whole.
      overlap: the fewest pixels that neighbouring squares share.
      reading: the version of the rules by which files are read.

    Raises:
      SettingError: a value is not allowed, or `reading` is not this package's version.
    """

    size: int = setting(256, changes="nothing", low=1)
    resize: Literal["stretch", "pad", "crop"] = setting("stretch", changes="nothing")
    white_level: int = setting(read.FULL_RANGE, changes="nothing", low=1, high=read.FULL_RANGE)
    tile: int = setting(0, changes="nothing", low=0)
    overlap: int = setting(0, changes="nothing", low=0)
    reading: int = setting(read.VERSION, changes="nothing", low=1)

    def check_together(self) -> None:
        """Raises SettingError if the rules are of another version than this package's."""
        if self.reading != read.VERSION:
            raise SettingError(
                "preprocessing.reading",
                f"images were read by rules of version {self.reading}, but this ddad_jax has those "
                f"of version {read.VERSION}; install the release that made the detector",
            )

    def read(self, photograph: Photograph, name: str = "image") -> UInt8[np.ndarray, "h w 3"]:
        """Returns the photograph as RGB, by the same rules whatever its type.

        Args:
          photograph: see `Photograph`. Arrays follow the rules for files of their type: uint8 as it
            is, uint16 by `white_level`, floating point from 0 (black) to 1 (white).
          name: what errors call it, if it is not a path.

        Raises:
          UserError: it cannot be read; says why.
        """
        if isinstance(photograph, str | Path):
            return read.read_image(Path(photograph).expanduser(), self.white_level)
        if isinstance(photograph, bytes):
            return read.decode_image(photograph, name, self.white_level)
        if isinstance(photograph, Image.Image):
            upright = ImageOps.exif_transpose(photograph)
            return read.to_rgb(upright, name, self.white_level)
        return read.array_to_rgb(photograph, name, self.white_level)

    def squares(
        self, image: UInt8[np.ndarray, "h w 3"], name: str = "image"
    ) -> UInt8[np.ndarray, "n size size 3"]:
        """Returns the networks' input: the image made square, or its tiles row by row.

        Args:
          image: RGB.
          name: what errors call it.

        Raises:
          UserError: the image is smaller than a tile.
        """
        if not self.tile:
            return fit_image(image, self.size, self.resize)[None]
        height, width = image.shape[:2]
        try:
            positions = tile_positions(height, width, self.tile, self.overlap)
        except UserError as error:
            raise UserError(f"{name}: {error}") from error
        tiles = (image[top : top + self.tile, left : left + self.tile] for top, left in positions)
        # A tile is square already, so all ways of making it square are the same.
        return np.stack([fit_image(tile, self.size, "stretch") for tile in tiles])

    def fit_mask(self, mask: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, "size size"]:
        """Returns the mask of a whole image, made square as the image is."""
        return fit_mask(mask, self.size, self.resize)

    def restore(
        self, maps: Iterable[Float[np.ndarray, "size size *channels"]], height: int, width: int
    ) -> Float[np.ndarray, "{height} {width} *_channels"]:
        """Combines the maps of an image's squares into one map of the image.

        Args:
          maps: one for each square, in order; they are never all held in memory.
          height: of the image, in pixels.
          width: of the image, in pixels.
        """
        if not self.tile:
            (whole,) = maps
            return _each_channel(
                whole, lambda layer: restore_map(layer, height, width, self.resize)
            )
        blend = None
        positions = tile_positions(height, width, self.tile, self.overlap)
        for (top, left), of_tile in zip(positions.tolist(), maps, strict=True):
            if blend is None:
                blend = Blend(height, width, self.overlap, channels=of_tile.shape[2:])
            scaled = _each_channel(of_tile, lambda layer: scale_map(layer, self.tile, self.tile))
            blend.add(top, left, scaled)
        assert blend is not None  # An image has at least one tile.
        return blend.mean()


def _each_channel(values: Shaped[np.ndarray, "h w *channels"], function: Any) -> np.ndarray:
    if values.ndim == 2:
        return function(values)
    return np.stack([function(values[..., c]) for c in range(values.shape[-1])], axis=-1)
