"""Large images as overlapping tiles, and maps of tiles blended into one without seams.

    positions = tile_positions(height, width, tile, overlap)
    batches = (positions[i : i + n] for i in range(0, len(positions), n))
    anomaly_map = blend_tiles(
        ((some, detect(extract_tiles(image, some, tile))) for some in batches),
        height, width, overlap,
    )

Memory is bounded by one batch of tiles and the blended map.
"""

from collections.abc import Iterable

import numpy as np
from jaxtyping import Float, Int, Shaped

from ddad_jax.errors import UserError

Positions = Int[np.ndarray, "n 2"]


def tile_positions(height: int, width: int, tile: int, overlap: int) -> Positions:
    """A grid of tiles that covers an image; neighbours share at least `overlap` pixels.

    The tiles along a side are as few as possible and spread evenly, the first and the last flush
    with the image's edges.

    Args:
        height: of the image, in pixels.
        width: of the image, in pixels.
        tile: the tiles' side, in pixels.
        overlap: in pixels, less than `tile`.

    Returns:
        Top and left of each tile, row by row.

    Raises:
        UserError: the image is smaller than a tile, or the overlap as large as one.
    """
    if min(height, width) < tile:
        raise UserError(
            f"tiling.tile: tiles of {tile}×{tile} do not fit an image of {width}×{height} pixels; "
            "use smaller tiles, or none"
        )
    if not 0 <= overlap < tile:
        raise UserError(f"tiling.overlap: {overlap} pixels is not within 0 to {tile - 1}")
    tops, lefts = (_starts(side, tile, overlap) for side in (height, width))
    return np.stack(np.meshgrid(tops, lefts, indexing="ij"), axis=-1).reshape(-1, 2)


def extract_tiles(
    image: Shaped[np.ndarray, "height width channels"], positions: Positions, tile: int
) -> Shaped[np.ndarray, "n {tile} {tile} channels"]:
    """Cuts the tiles at `positions` out of an image."""
    return np.stack([image[top : top + tile, left : left + tile] for top, left in positions])


def blend_window(tile: int, overlap: int) -> Float[np.ndarray, "{tile} {tile}"]:
    """How much each pixel of a tile counts, in (0, 1].

    It falls to near 0 over `overlap` pixels towards each edge, as a squared sine, so that a tile
    fades out where its neighbour fades in, and the pixels with the least context count least.
    """
    ramp = np.ones(tile)
    fall = np.sin(np.pi / 2 * (np.arange(overlap) + 0.5) / max(overlap, 1)) ** 2
    ramp[:overlap] = fall
    ramp[tile - overlap :] = np.minimum(ramp[tile - overlap :], fall[::-1])
    return np.outer(ramp, ramp).astype(np.float32)


def blend_tiles(
    batches: Iterable[tuple[Int[np.ndarray, "_ 2"], Float[np.ndarray, "_ tile tile"]]],
    height: int,
    width: int,
    overlap: int,
) -> Float[np.ndarray, "{height} {width}"]:
    """Puts maps of tiles together as their mean, weighted by `blend_window`.

    Args:
        batches: positions and maps of some tiles at a time; together they cover the image.
        height: of the image, in pixels.
        width: of the image, in pixels.
        overlap: as given to `tile_positions`.

    Raises:
        ValueError: the tiles leave a part of the image uncovered.
    """
    total = np.zeros((height, width), np.float32)
    weight = np.zeros((height, width), np.float32)
    for positions, maps in batches:
        tile = maps.shape[1]
        window = blend_window(tile, overlap)
        for (top, left), tile_map in zip(positions, maps, strict=True):
            place = np.s_[top : top + tile, left : left + tile]
            total[place] += window * tile_map
            weight[place] += window
    if not weight.all():
        raise ValueError(f"{int((weight == 0).sum())} pixels lie in no tile")
    return total / weight


def _starts(side: int, tile: int, overlap: int) -> Int[np.ndarray, "k"]:
    count = int(np.ceil((side - tile) / (tile - overlap))) + 1
    return np.rint(np.linspace(0, side - tile, count)).astype(int)
