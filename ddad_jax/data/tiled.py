"""A data set of large images as a data set of their tiles."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from threading import Lock

import numpy as np
from jaxtyping import Bool, UInt8

from ddad_jax.data.prepare import require_equal_sizes
from ddad_jax.data.read import read_size
from ddad_jax.data.sample import Sample, Source
from ddad_jax.data.tiling import tile_positions
from ddad_jax.errors import UserError


@dataclass(frozen=True)
class Origin:
    """Where a tile comes from.

    Attributes:
        sample: the whole image.
        top: the tile's first row; None where the image stayed whole.
        left: the tile's first column; likewise.
    """

    sample: Sample
    top: int | None = None
    left: int | None = None


class TiledSource:
    """Every image of a source cut into tiles; prepared at size `tile`, they keep its resolution.

    A tile is named after its image and its place, "a.png@1024,768", and carries the image's label;
    whether it shows the defect itself, its mask says. It is in its image's group, or else in one of
    that image's own, so that no split divides an image. Images that cannot be read stay whole, so
    that reading them says why.

    Attributes:
        category: the product shown.
        whole: the source of the whole images.
        tile: the tiles' side, in pixels.
        overlap: in pixels.
    """

    def __init__(self, source: Source, tile: int, overlap: int):
        """Cuts tiles of `tile` pixels that share at least `overlap`; see `tiling`."""
        self.category = source.category
        self.whole = source
        self.tile = tile
        self.overlap = overlap
        # The tiles of an image are read one after another, by several threads.
        self._lock = Lock()
        self._read_image = lru_cache(maxsize=2)(source.read_image)
        self._read_mask = lru_cache(maxsize=2)(source.read_mask)
        self._digest = lru_cache(maxsize=None)(source.digest)

    @cached_property
    def origins(self) -> Mapping[str, Origin]:
        """Where each tile comes from, by its name, in order."""
        origins = {}
        for sample in self.whole.samples:
            try:
                height, width = self._size(sample)
            except UserError:
                origins[sample.name] = Origin(sample)
                continue
            try:
                positions = tile_positions(height, width, self.tile, self.overlap)
            except UserError as error:
                raise UserError(f"{sample.image or sample.name}: {error}") from error
            for top, left in positions.tolist():
                origins[f"{sample.name}@{top},{left}"] = Origin(sample, top, left)
        return origins

    @cached_property
    def samples(self) -> tuple[Sample, ...]:
        """Every tile, in the order of the images, row by row within each."""
        return tuple(
            replace(origin.sample, name=name, group=origin.sample.group or origin.sample.name)
            for name, origin in self.origins.items()
        )

    def read_image(self, sample: Sample) -> UInt8[np.ndarray, "h w 3"]:
        """The tile's pixels."""
        origin = self.origins[sample.name]
        with self._lock:
            return self._cut(self._read_image(origin.sample), origin)

    def read_mask(self, sample: Sample) -> Bool[np.ndarray, "h w"] | None:
        """The defect's pixels in the tile; None where its image has no mask."""
        origin = self.origins[sample.name]
        if origin.sample.mask is None:
            return None
        with self._lock:
            mask = self._read_mask(origin.sample)
            require_equal_sizes(origin.sample, self._read_image(origin.sample), mask)
            return self._cut(mask, origin)

    def digest(self, sample: Sample) -> str:
        """Follows the image's content and the tile's place and size."""
        origin = self.origins[sample.name]
        return f"{self._digest(origin.sample)} {self.tile} {origin.top} {origin.left}"

    def _size(self, sample: Sample) -> tuple[int, int]:
        if sample.image is None:
            return self.whole.read_image(sample).shape[:2]
        return read_size(sample.image)

    def _cut(self, pixels: np.ndarray, origin: Origin) -> np.ndarray:
        if origin.top is None:
            return pixels
        rows, columns = (slice(start, start + self.tile) for start in (origin.top, origin.left))
        return pixels[rows, columns]


def cut_into_tiles(source: Source, tile: int, overlap: int) -> Source:
    """The source of an image's tiles; where `tile` is 0 images stay whole."""
    return TiledSource(source, tile, overlap) if tile else source
