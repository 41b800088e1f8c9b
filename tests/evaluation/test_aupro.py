import json
import time
from itertools import pairwise

import numpy as np
import pytest

from ddad_jax.evaluation.aupro import area_up_to, pro_curve, tell_apart
from tests.evaluation.conftest import aupro


@pytest.mark.parametrize(("limit", "name"), [(0.3, "aupro_exact_0p30"), (0.05, "aupro_exact_0p05")])
def test_agrees_with_the_reference(golden, limit, name):
    tensors = np.load(golden / "metrics.npz")
    expected = json.loads((golden / "metrics.json").read_text())[name]
    found = aupro(tensors["anomaly_maps"], tensors["masks"] > 0, limit)
    assert found == pytest.approx(expected, abs=1e-6)


def by_definition(maps, masks, limit):
    """AUPRO with the definition spelled out: a loop over thresholds and regions."""
    from scipy.ndimage import label

    regions = []
    for row, mask in enumerate(masks):
        labels, count = label(mask, np.ones((3, 3)))
        regions += [(row, labels == index) for index in range(1, count + 1)]
    points = [(0.0, 0.0)]
    for threshold in np.unique(maps)[::-1]:
        found = maps >= threshold
        rate = found[~masks].mean()
        points.append((rate, np.mean([found[row][region].mean() for row, region in regions])))
    area = 0.0
    for (left, low), (right, high) in pairwise(points):
        width = min(right, limit) - left
        if width > 0:
            at_end = low + (high - low) * width / (right - left)
            area += width * (low + at_end) / 2
    return area / limit


@pytest.mark.parametrize("limit", [0.05, 0.3])
@pytest.mark.parametrize("levels", [3, 1000])
def test_follows_the_definition_also_with_ties(levels, limit):
    rng = np.random.default_rng(0)
    masks = rng.random((4, 12, 12)) < 0.15
    maps = np.round(rng.random((4, 12, 12)) * levels + 0.5 * levels * masks).astype(np.float32)
    rates, overlaps = pro_curve(tell_apart(maps, masks))
    assert np.all(np.diff(rates) >= 0)
    assert np.all(np.diff(overlaps) >= 0)
    assert (rates[-1], overlaps[-1]) == (1.0, 1.0)
    expected = by_definition(maps, masks, limit)
    assert aupro(maps, masks, limit) == pytest.approx(expected, abs=1e-9)


def test_perfect_and_constant_maps():
    masks = np.zeros((2, 8, 8), bool)
    masks[0, 2:4, 2:4] = True
    masks[1, 5, 5] = True
    assert aupro(masks.astype(np.float32), masks) == 1.0
    # One threshold finds all or nothing: the curve is the diagonal, half the limit in height.
    assert aupro(np.zeros((2, 8, 8), np.float32), masks) == pytest.approx(0.15)


def test_a_region_counts_as_one_whatever_its_size():
    masks = np.zeros((1, 20, 20), bool)
    masks[0, 0, 0] = True
    masks[0, 10:20, 10:20] = True
    maps = np.zeros((1, 20, 20), np.float32)
    maps[0, 0, 0] = 1.0
    _, overlaps = pro_curve(tell_apart(maps, masks))
    assert overlaps[2] == 0.5


def test_diagonal_neighbours_are_one_region():
    masks = np.eye(4, dtype=bool)[None]
    maps = np.zeros((1, 4, 4), np.float32)
    maps[0, 0, 0] = 1.0
    _, overlaps = pro_curve(tell_apart(maps, masks))
    assert overlaps[2] == 0.25


@pytest.mark.parametrize("fill", [False, True])
def test_masks_without_region_or_without_normal_pixels_are_refused(fill):
    with pytest.raises(ValueError, match="regions and"):
        tell_apart(np.zeros((1, 4, 4), np.float32), np.full((1, 4, 4), fill))


def test_limit_between_points_is_interpolated():
    rate, overlap = np.array([0.0, 0.2, 0.6]), np.array([0.0, 0.5, 1.0])
    assert area_up_to(rate, overlap, 0.4) == pytest.approx((0.05 + 0.125) / 0.4)


def test_160_maps_take_few_seconds():
    rng = np.random.default_rng(0)
    maps = rng.random((160, 256, 256), np.float32)
    masks = np.zeros(maps.shape, bool)
    masks[:, 60:90, 80:140] = True
    started = time.perf_counter()
    aupro(maps, masks)
    # 3 s alone on two cores; twice that where other tests share them.
    assert time.perf_counter() - started < 6.0
