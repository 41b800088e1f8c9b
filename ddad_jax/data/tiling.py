"""Cuts large images into overlapping tiles, and blends maps of tiles without seams."""

import numpy as np
from jaxtyping import Float, Int

from ddad_jax.errors import UserError

Positions = Int[np.ndarray, "n 2"]

# Tiles start at multiples of this share of their side. Networks sample every 16th or 32nd pixel:
# with other starts, neighbours would sample a place on different grids, and their maps differ more.
GRID = 1 / 8
# Share of the overlap, at the edge of a tile, that counts only where no other tile does.
MARGIN = 0.25
# The weight of that edge.
LEAST = 1e-6


def tile_positions(height: int, width: int, tile: int, overlap: int) -> Positions:
    """Returns a grid of tiles that covers an image; neighbours share at least `overlap` pixels.

    The tiles along a side start at multiples of an eighth of a tile, as far apart as the overlap
    allows, except the last, which is flush with the image's edge. If the overlap is more than seven
    eighths of a tile, they start exactly `tile - overlap` pixels apart.

    Args:
        height: of the image, in pixels.
        width: of the image, in pixels.
        tile: the tiles' side, in pixels, best a multiple of 8.
        overlap: in pixels, less than `tile`; best a multiple of an eighth of it, or it is enlarged.

    Returns:
        Top and left of each tile, row by row.

    Raises:
        UserError: the image is smaller than a tile, or the overlap is not smaller than a tile.
    """
    if min(height, width) < tile:
        raise UserError(
            f"data.tiling.tile: tiles of {tile}×{tile} do not fit an image of {width}×{height} "
            "pixels; use smaller tiles, or none"
        )
    if not 0 <= overlap < tile:
        raise UserError(f"data.tiling.overlap: {overlap} pixels is not within 0 to {tile - 1}")
    tops, lefts = (_starts(side, tile, overlap) for side in (height, width))
    return np.stack(np.meshgrid(tops, lefts, indexing="ij"), axis=-1).reshape(-1, 2)


def blend_window(tile: int, overlap: int) -> Float[np.ndarray, "{tile} {tile}"]:
    """Returns how much each pixel of a tile counts, in (0, 1].

    The outermost quarter of `overlap`, where a network knows least, counts next to nothing, so
    that it only shows at the edges of the image. From there the window rises over half of
    `overlap`, as a squared sine: a tile fades out where its neighbour fades in.
    """
    margin = int(MARGIN * overlap)
    rise = max(overlap - 2 * margin, 1)
    place = (np.arange(tile) + 0.5 - margin) / rise
    ramp = np.sin(np.pi / 2 * np.clip(np.minimum(place, place[::-1]), 0.0, 1.0)) ** 2
    ramp = np.maximum(ramp, LEAST) if overlap else np.ones(tile)
    return np.outer(ramp, ramp).astype(np.float32)


class Blend:
    """Combines maps of tiles into their mean, weighted by `blend_window`."""

    def __init__(self, height: int, width: int, overlap: int, channels: tuple[int, ...] = ()):
        """Starts without any tile.

        Args:
            height: of the image, in pixels.
            width: of the image, in pixels.
            overlap: as given to `tile_positions`.
            channels: the shape of a pixel's values; () for a single value.
        """
        self._overlap = overlap
        self._total = np.zeros((height, width, *channels), np.float32)
        self._weight = np.zeros((height, width, *(1 for _ in channels)), np.float32)

    def add(self, top: int, left: int, tile_map: Float[np.ndarray, "tile tile *channels"]) -> None:
        """Adds the map of the tile at the given top and left."""
        tile = len(tile_map)
        window = blend_window(tile, self._overlap).reshape(tile, tile, *self._weight.shape[2:])
        place = np.s_[top : top + tile, left : left + tile]
        self._total[place] += window * tile_map
        self._weight[place] += window

    def mean(self) -> Float[np.ndarray, "height width *channels"]:
        """Returns the image's map.

        Raises:
            ValueError: the tiles leave a part of the image uncovered.
        """
        if not self._weight.all():
            raise ValueError(f"{int((self._weight == 0).sum())} pixels lie in no tile")
        return self._total / self._weight


def _starts(side: int, tile: int, overlap: int) -> Int[np.ndarray, "k"]:
    grid, step = int(GRID * tile), tile - overlap
    if step > grid > 0:
        step -= step % grid
    return np.append(np.arange(0, side - tile, step), side - tile)
