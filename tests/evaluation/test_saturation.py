from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from scipy import ndimage

from ddad_jax.data.mvtec_loco import mvtec_loco_source
from ddad_jax.data.prepare import prepare
from ddad_jax.data.preprocessing import Preprocessing
from ddad_jax.data.sample import ANOMALOUS, NORMAL
from ddad_jax.evaluation.aupro import area_up_to, pro_curve, tell_apart
from ddad_jax.evaluation.originals import at_original_size
from ddad_jax.evaluation.saturation import Saturating, regions_of, saturated
from tests.data.pictures import make_mvtec, make_mvtec_loco, square_mask
from tests.evaluation.conftest import aupro, compute_metrics


def by_definition(maps, regions, limit):
    """AU-sPRO with the definition spelled out: a loop over thresholds and regions.

    Args:
        maps: one an image.
        regions: of each image its defects, each a mask and how many of its pixels are enough.
        limit: of the false positive rate.
    """
    normal = [~np.any([m for m, _ in of], 0) if of else np.ones_like(h, bool)
              for h, of in zip(maps, regions, strict=True)]  # fmt: skip
    points = [(0.0, 0.0)]
    for threshold in np.unique(maps)[::-1]:
        alarms = sum((h >= threshold)[n].sum() for h, n in zip(maps, normal, strict=True))
        overlap = [
            min((h >= threshold)[mask].sum() / enough, 1.0)
            for h, of in zip(maps, regions, strict=True)
            for mask, enough in of
        ]
        points.append((alarms / sum(n.sum() for n in normal), np.mean(overlap)))
    area = 0.0
    for (left, low), (right, high) in pairwise(points):
        width = min(right, limit) - left
        if width > 0:
            area += width * (low + (high - low) * width / (right - left) / 2)
    return area / limit


def auspro(maps, regions, limit=0.05):
    masks = [np.any([m for m, _ in of], 0) if of else np.zeros(h.shape, bool)
             for h, of in zip(maps, regions, strict=True)]  # fmt: skip
    saturating = [[Saturating(np.flatnonzero(m), float(s)) for m, s in of] for of in regions]
    return area_up_to(*pro_curve(saturated(tell_apart(maps, masks), maps, saturating)), limit)


def draw_regions(rng, count, side):
    """Rectangles, which may overlap, and as many of their pixels as are enough."""
    regions = []
    for _ in range(count):
        top, left = rng.integers(0, side - 4, 2)
        mask = np.zeros((side, side), bool)
        mask[top : top + rng.integers(2, 9), left : left + rng.integers(2, 9)] = True
        regions.append((mask, int(rng.integers(1, mask.sum() + 1))))
    return regions


@pytest.mark.parametrize("limit", [0.05, 0.3])
@pytest.mark.parametrize("levels", [20, 100000])
def test_follows_the_definition_also_with_overlaps_and_ties(limit, levels):
    rng = np.random.default_rng(levels)
    regions = [draw_regions(rng, count, 20) for count in (0, 3, 1, 5)]
    maps = np.round(rng.random((4, 20, 20)) * levels).astype(np.float32) / levels
    for heat, of_map in zip(maps, regions, strict=True):
        for mask, _ in of_map:
            heat[mask] += np.round(0.3 * levels) / levels
    expected = by_definition(maps, regions, limit)
    assert 0.05 < expected < 0.95
    assert auspro(maps, regions, limit) == pytest.approx(expected, abs=1e-6)


def test_where_all_of_a_defect_is_to_be_found_it_is_aupro():
    rng = np.random.default_rng(1)
    masks = ndimage.binary_dilation(rng.random((3, 20, 20)) < 0.02, np.ones((1, 3, 3)))
    maps = (rng.random(masks.shape) + 0.5 * masks).astype(np.float32)
    regions = []
    for mask in masks:
        labels, count = ndimage.label(mask, np.ones((3, 3)))
        parts = [labels == number for number in range(1, count + 1)]
        regions.append([(part, part.sum()) for part in parts])
    assert auspro(maps, regions) == pytest.approx(aupro(maps, masks, 0.05), abs=1e-12)


def test_more_than_enough_counts_no_more():
    mask = np.zeros((8, 8), bool)
    mask[2:6, 2:6] = True
    heat = np.zeros((8, 8), np.float32)
    heat[3, 3:5] = 1.0
    assert auspro(heat[None], [[(mask, 2)]]) == 1.0
    assert auspro(heat[None], [[(mask, 4)]]) == pytest.approx(0.5125)


def test_figures_of_kinds_of_defect_and_their_mean(make_predictions):
    rng = np.random.default_rng(0)
    labels = [NORMAL, NORMAL, ANOMALOUS, ANOMALOUS]
    regions = [[], [], *(draw_regions(rng, 2, 16) for _ in range(2))]
    masks = np.stack([np.any([m for m, _ in of], 0) if of else np.zeros((16, 16), bool)
                      for of in regions])  # fmt: skip
    maps = (rng.random(masks.shape) + 0.3 * masks).astype(np.float32)
    p = make_predictions(labels, maps=maps, masks=masks)
    kinds = ("good", "good", "logical", "structural")
    p = replace(
        p,
        samples=tuple(replace(s, defect=k) for s, k in zip(p.samples, kinds, strict=True)),
        regions=[[Saturating(np.flatnonzero(m), float(s)) for m, s in of] for of in regions],
    )
    found = compute_metrics(p)
    assert found["auspro_0.05"] == pytest.approx(by_definition(maps, regions, 0.05), abs=1e-6)
    of_kind = []
    for row, kind in ((2, "logical"), (3, "structural")):
        rows = [0, 1, row]
        expected = by_definition(maps[rows], [regions[i] for i in rows], 0.05)
        assert found["per_defect"][kind]["auspro_0.05"] == pytest.approx(expected, abs=1e-6)
        of_kind.append(expected)
    assert found["auspro_0.05_kinds"] == pytest.approx(np.mean(of_kind))
    of_kind = [found["per_defect"][kind]["image_auroc"] for kind in ("logical", "structural")]
    assert found["image_auroc_kinds"] == pytest.approx(np.mean(of_kind))


def test_other_data_sets_have_no_such_figure(make_predictions):
    found = compute_metrics(make_predictions([NORMAL, ANOMALOUS], [0.1, 0.9]))
    assert not {name for name in found if "spro" in name or "kinds" in name}


def test_without_masks_it_is_said_why(make_predictions):
    p = replace(make_predictions([NORMAL, ANOMALOUS], [0.1, 0.9]), regions=[[], []])
    found = compute_metrics(p)
    assert found["auspro_0.05"] is found["auspro_0.05_kinds"] is None
    assert "no test image has a mask" in found["undefined"]["auspro_0.05"]
    assert "has no auspro_0.05" in found["undefined"]["auspro_0.05_kinds"]
    assert found["image_auroc_kinds"] == 1.0


def test_regions_of_a_data_set_at_both_sizes(tmp_path, make_predictions):
    source = mvtec_loco_source(make_mvtec_loco(tmp_path / "loco"), "pushpins")
    images = prepare(source, Preprocessing(size=16), tmp_path / "cache")["test"]
    area = int((square_mask() > 0).sum())
    whole = regions_of(source, images.samples)
    assert [[r.saturation for r in of] for of in whole] == [[], [30, area], [area // 2]]
    np.testing.assert_array_equal(whole[2][0].pixels, np.flatnonzero(square_mask()))
    small = regions_of(source, images.samples, Preprocessing(size=16).fit_mask)
    for large, scaled in zip(sum(whole, []), sum(small, []), strict=True):
        share = large.saturation / len(large.pixels)
        assert scaled.saturation / len(scaled.pixels) == pytest.approx(share)
        assert len(scaled.pixels) == 64
    predictions = replace(
        make_predictions([NORMAL, ANOMALOUS, ANOMALOUS]), samples=images.samples, regions=small
    )
    original = at_original_size(predictions, source, "stretch")
    assert [len(r.pixels) for of in original.regions for r in of] == [area] * 3
    assert regions_of(*_mvtec(tmp_path)) is None


def _mvtec(folder):
    from ddad_jax.data.mvtec import mvtec_source

    source = mvtec_source(make_mvtec(folder / "mvtec"), "plate")
    return source, source.samples
