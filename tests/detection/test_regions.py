import numpy as np
from scipy import ndimage

from ddad_jax.detection.regions import find_regions


def heat_with(*blobs, size=40):
    """A map of 0 with blobs: rows, columns and value of each."""
    heat = np.zeros((size, size), np.float32)
    for rows, columns, value in blobs:
        heat[slice(*rows), slice(*columns)] = value
    return heat


def test_regions_have_their_box_area_share_and_peak():
    heat = heat_with(((3, 8), (10, 30), 2.0), ((20, 30), (5, 9), 3.0))
    heat[5, 12] = 2.5
    mask, (first, second) = find_regions(heat, 1.0, 0.0, anomalous=True)
    assert (first.left, first.top, first.width, first.height) == (5, 20, 4, 10)
    assert first.area == 40 and first.share == 40 / 1600 and first.peak == 3.0
    assert (second.left, second.top, second.width, second.height) == (10, 3, 20, 5)
    assert second.peak == 2.5 and second.peak_at == (12, 5)
    np.testing.assert_array_equal(mask, heat > 1.0)


def test_pixels_that_touch_at_a_corner_are_one_region():
    heat = heat_with(((0, 4), (0, 4), 2.0), ((4, 8), (4, 8), 2.0))
    assert len(find_regions(heat, 1.0, 0.0, anomalous=True)[1]) == 1


def test_specks_are_left_out_but_for_the_peak_of_an_anomalous_image():
    heat = heat_with(((1, 2), (1, 2), 9.0), ((10, 12), (10, 12), 2.0), ((20, 26), (20, 26), 3.0))
    smallest = 5 / heat.size
    mask, regions = find_regions(heat, 1.0, smallest, anomalous=True)
    assert [region.area for region in regions] == [1, 36]
    assert mask.sum() == 37
    mask, regions = find_regions(heat, 1.0, smallest, anomalous=False)
    assert [region.area for region in regions] == [36]
    assert mask.sum() == 36


def test_nothing_above_the_threshold_is_no_region():
    mask, regions = find_regions(heat_with(((0, 5), (0, 5), 1.0)), 1.0, 0.0, anomalous=False)
    assert not mask.any() and regions == []


def test_an_anomalous_image_has_the_region_of_its_peak():
    """Its map at the photograph's size may be a little lower than the one that was scored."""
    heat = heat_with(((3, 8), (2, 7), 0.99), ((20, 24), (5, 9), 0.5))
    mask, (region,) = find_regions(heat, 1.0, 0.1, anomalous=True)
    assert region.area == mask.sum() == 25 and region.peak == np.float32(0.99)


def test_where_no_pixel_is_above_the_threshold_the_region_is_half_as_high_as_the_peak():
    heat = ndimage.gaussian_filter(heat_with(((20, 21), (12, 13), 100.0)), 3).astype(np.float32)
    heat[5:8, 30:33] = 0.7 * heat.max()
    mask, (region,) = find_regions(heat, 10.0, 0.0, anomalous=True)
    assert region.peak == heat.max() and region.peak_at == (12, 20)
    expected = heat >= heat.max() / 2
    expected[5:8, 30:33] = False
    np.testing.assert_array_equal(mask, expected)
    # A Gaussian is half as high at 1.18 standard deviations.
    assert region.width == region.height == 7


def test_a_map_below_zero_still_has_a_region():
    heat = heat_with(((3, 8), (2, 7), 1.0)) - 5.0
    mask, (region,) = find_regions(heat, 1.0, 0.0, anomalous=True)
    assert region.area == mask.sum() == 25


def test_regions_are_those_of_a_count_by_hand():
    rng = np.random.default_rng(0)
    heat = ndimage.gaussian_filter(rng.standard_normal((80, 60)), 2).astype(np.float32)
    threshold = float(np.quantile(heat, 0.9))
    mask, regions = find_regions(heat, threshold, 0.0, anomalous=True)
    np.testing.assert_array_equal(mask, heat > threshold)
    assert sum(region.area for region in regions) == mask.sum()
    assert [region.peak for region in regions] == sorted((r.peak for r in regions), reverse=True)
    for region in regions:
        column, row = region.peak_at
        assert heat[row, column] == region.peak
        assert region.left <= column < region.left + region.width
        assert region.top <= row < region.top + region.height
