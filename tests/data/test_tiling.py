import numpy as np
import pytest

from ddad_jax.data.tiling import blend_tiles, blend_window, extract_tiles, tile_positions
from ddad_jax.errors import UserError

GRIDS = [
    (64, 64, 64, 16),
    (65, 64, 64, 16),
    (300, 200, 64, 16),
    (100, 257, 64, 0),
    (90, 90, 64, 63),
]


@pytest.mark.parametrize("height, width, tile, overlap", GRIDS)
def test_tiles_cover_everything_and_overlap_enough(height, width, tile, overlap):
    positions = tile_positions(height, width, tile, overlap)
    covered = np.zeros((height, width), int)
    for top, left in positions:
        assert 0 <= top <= height - tile and 0 <= left <= width - tile
        covered[top : top + tile, left : left + tile] += 1
    assert covered.all()
    for axis, side in ((0, height), (1, width)):
        starts = np.unique(positions[:, axis])
        assert starts[0] == 0 and starts[-1] == side - tile
        assert (np.diff(starts) <= tile - overlap).all()


def test_there_are_no_more_tiles_than_needed():
    assert len(tile_positions(3072, 4096, 256, 64)) == 16 * 21
    assert len(tile_positions(256, 256, 256, 64)) == 1


@pytest.mark.parametrize("height, width, tile, overlap", GRIDS)
def test_what_is_cut_up_is_put_together_again(height, width, tile, overlap):
    image = np.random.default_rng(0).random((height, width, 1), np.float32)
    positions = tile_positions(height, width, tile, overlap)
    maps = extract_tiles(image, positions, tile)[:, :, :, 0]
    batches = [(positions[i : i + 3], maps[i : i + 3]) for i in range(0, len(positions), 3)]
    blended = blend_tiles(batches, height, width, overlap)
    np.testing.assert_allclose(blended, image[:, :, 0], rtol=1e-5)


def test_pixels_are_cut_where_positions_say():
    image = np.arange(100 * 80 * 3).reshape(100, 80, 3)
    tiles = extract_tiles(image, np.array([[0, 0], [36, 16]]), 64)
    np.testing.assert_array_equal(tiles[1], image[36:, 16:])


@pytest.mark.parametrize("overlap", [0, 1, 16, 31, 32, 40, 63])
def test_the_window_is_positive_symmetrical_and_falls_outwards(overlap):
    window = blend_window(64, overlap)
    assert (window > 0).all() and window.max() <= 1
    np.testing.assert_array_equal(window, window[::-1])
    np.testing.assert_array_equal(window, window.T)
    assert (np.diff(window[32, 32:]) <= 0).all()


def test_neighbours_fade_into_each_other():
    window = blend_window(64, 16)[32]
    np.testing.assert_allclose(window[-16:] + window[:16], 1, rtol=1e-6)


def test_a_step_between_tiles_leaves_no_seam():
    # Two tiles that disagree by 1 are joined by a ramp, nowhere steeper than the window's.
    positions = tile_positions(64, 112, 64, 16)
    maps = np.stack([np.zeros((64, 64)), np.ones((64, 64))]).astype(np.float32)
    blended = blend_tiles([(positions, maps)], 64, 112, 16)
    assert np.abs(np.diff(blended, axis=1)).max() < 0.11
    assert blended[0, 0] == 0 and blended[0, -1] == 1


def test_errors_at_the_edge_of_tiles_hardly_count():
    # A network knows least where it sees least: give every tile a wrong rim of 2 pixels.
    positions = tile_positions(160, 160, 64, 32)
    maps = np.full((len(positions), 64, 64), 0.5, np.float32)
    for rim in (np.s_[:, :2], np.s_[:, -2:], np.s_[:, :, :2], np.s_[:, :, -2:]):
        maps[rim] = 1.0
    inner = blend_tiles([(positions, maps)], 160, 160, 32)[2:-2, 2:-2]
    assert np.abs(inner - 0.5).max() < 0.01


def test_tiles_that_miss_a_part():
    with pytest.raises(ValueError, match="4096 pixels lie in no tile"):
        blend_tiles([(np.array([[0, 0]]), np.zeros((1, 64, 64), np.float32))], 64, 128, 16)


def test_settings_that_cannot_be():
    with pytest.raises(UserError, match="tiling.tile: tiles of 64×64 do not fit an image of 80×32"):
        tile_positions(32, 80, 64, 16)
    with pytest.raises(UserError, match="tiling.overlap: 64 pixels is not within 0 to 63"):
        tile_positions(80, 80, 64, 64)
