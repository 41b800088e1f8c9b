import numpy as np
import pytest

from ddad_jax.data.tiling import Blend, blend_window, tile_positions
from ddad_jax.errors import UserError

GRIDS = [
    (64, 64, 64, 16),
    (65, 64, 64, 16),
    (300, 200, 64, 16),
    (100, 257, 64, 0),
    (90, 90, 64, 63),
]


def blended(positions, maps, height, width, overlap):
    blend = Blend(height, width, overlap, maps.shape[3:])
    for (top, left), tile_map in zip(positions, maps, strict=True):
        blend.add(int(top), int(left), tile_map)
    return blend.mean()


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


@pytest.mark.parametrize(("tile", "overlap"), [(64, 10), (64, 16), (256, 33), (100, 20)])
def test_tiles_start_at_multiples_of_an_eighth_of_a_tile(tile, overlap):
    positions = tile_positions(900, 1000, tile, overlap)
    for axis in (0, 1):
        starts = np.unique(positions[:, axis])
        assert len(starts) > 2
        assert (starts[:-1] % (tile // 8) == 0).all()


def test_there_are_no_more_tiles_than_needed():
    assert len(tile_positions(3072, 4096, 256, 64)) == 16 * 21
    assert len(tile_positions(256, 256, 256, 64)) == 1


@pytest.mark.parametrize("height, width, tile, overlap", GRIDS)
def test_what_is_cut_up_is_put_together_again(height, width, tile, overlap):
    image = np.random.default_rng(0).random((height, width, 2), np.float32)
    positions = tile_positions(height, width, tile, overlap)
    maps = np.stack([image[top : top + tile, left : left + tile] for top, left in positions])
    whole = blended(positions, maps, height, width, overlap)
    np.testing.assert_allclose(whole, image, rtol=3e-5)
    one_channel = blended(positions, maps[..., 0], height, width, overlap)
    np.testing.assert_array_equal(one_channel, whole[..., 0])


@pytest.mark.parametrize("overlap", [0, 1, 16, 31, 32, 40, 63])
def test_the_window_is_positive_symmetrical_and_falls_outwards(overlap):
    window = blend_window(64, overlap)
    assert (window > 0).all() and window.max() <= 1
    np.testing.assert_array_equal(window, window[::-1])
    np.testing.assert_array_equal(window, window.T)
    assert (np.diff(window[32, 32:]) <= 0).all()


def test_neighbours_fade_into_each_other():
    window = blend_window(64, 16)[32]
    np.testing.assert_allclose(window[-16:] + window[:16], 1, rtol=1e-5)


def test_a_step_between_tiles_leaves_no_seam():
    # Two tiles that disagree by 1 are joined by a ramp over half of their overlap.
    positions = tile_positions(64, 112, 64, 16)
    maps = np.stack([np.zeros((64, 64)), np.ones((64, 64))]).astype(np.float32)
    joined = blended(positions, maps, 64, 112, 16)
    assert np.abs(np.diff(joined, axis=1)).max() < 0.2
    assert joined[0, 0] == 0 and joined[0, -1] == 1


def test_a_quarter_of_the_overlap_counts_only_where_there_is_nothing_else():
    positions = tile_positions(160, 160, 64, 32)
    maps = np.full((len(positions), 64, 64), 0.5, np.float32)
    for rim in (np.s_[:, :8], np.s_[:, -8:], np.s_[:, :, :8], np.s_[:, :, -8:]):
        maps[rim] = 1.0
    joined = blended(positions, maps, 160, 160, 32)
    np.testing.assert_allclose(joined[8:-8, 8:-8], 0.5, atol=1e-4)
    np.testing.assert_allclose(joined[:8], 1.0, atol=1e-4)


def test_tiles_that_miss_a_part():
    with pytest.raises(ValueError, match="4096 pixels lie in no tile"):
        blended(np.array([[0, 0]]), np.zeros((1, 64, 64), np.float32), 64, 128, 16)


def test_settings_that_cannot_be():
    with pytest.raises(UserError, match="tiling.tile: tiles of 64×64 do not fit an image of 80×32"):
        tile_positions(32, 80, 64, 16)
    with pytest.raises(UserError, match="tiling.overlap: 64 pixels is not within 0 to 63"):
        tile_positions(80, 80, 64, 64)
