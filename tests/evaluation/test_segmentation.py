from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage
from sklearn.metrics import f1_score, precision_recall_curve

from ddad_jax.data.sample import ANOMALOUS, NORMAL
from ddad_jax.evaluation.segmentation import count_pixels, region_figures
from tests.evaluation.conftest import compute_metrics

NAMES = ("pixel_f1", "region_recall", "false_regions", "seg_f1")


@pytest.fixture
def predictions(make_predictions):
    """Two good images, one with a false region, and two of two defects each."""
    rng = np.random.default_rng(3)
    maps = rng.uniform(0.0, 0.4, (4, 16, 16)).astype(np.float32)
    masks = np.zeros(maps.shape, bool)
    masks[2, 2:6, 2:6] = masks[2, 10:12, 10:14] = True
    masks[3, 0:3, 0:3] = masks[3, 8:14, 8:14] = True
    maps[1, 5:7, 5:7] = 0.9
    maps[2, 3:8, 3:8] = 0.8
    maps[3, 8:12, 8:12] = 0.7
    labels = [NORMAL, NORMAL, ANOMALOUS, ANOMALOUS]
    return replace(make_predictions(labels, maps=maps, masks=masks), sigma_threshold=0.3)


def by_hand(p):
    """The same figures, pixel by pixel."""
    found = [heat > p.pixel_threshold for heat in p.maps]
    beyond = [heat > p.sigma_threshold for heat in p.maps]

    def f1(marked):
        pairs = list(zip(marked, p.masks, strict=True))
        hits = sum((a & b).sum() for a, b in pairs)
        wrong = sum((a & ~b).sum() for a, b in pairs)
        missed = sum((~a & b).sum() for a, b in pairs)
        return hits / (hits + 0.5 * (wrong + missed))

    met = total = 0
    for marked, mask in zip(found, p.masks, strict=True):
        labels, count = ndimage.label(mask, np.ones((3, 3)))
        total += count
        met += sum(marked[labels == number].any() for number in range(1, count + 1))
    good = [ndimage.label(m, np.ones((3, 3)))[1] for m in found[:2]]
    return dict(zip(NAMES, (f1(found), met / total, np.mean(good), f1(beyond)), strict=True))


def test_figures_are_those_of_a_count_by_hand(predictions):
    metrics = compute_metrics(predictions)
    expected = by_hand(predictions)
    assert expected["region_recall"] == 0.5 and expected["false_regions"] == 0.5
    for name in NAMES:
        assert metrics[name] == pytest.approx(expected[name])
    (defect,) = metrics["per_defect"].values()
    assert defect["pixel_f1"] == pytest.approx(expected["pixel_f1"])


def test_images_whose_pixels_do_not_count_are_left_out(predictions):
    known = replace(predictions, has_mask=np.array([True, True, True, False]))
    counts = count_pixels(known)
    assert np.isnan(counts[3]).all() and not np.isnan(counts[:3]).any()
    figures = region_figures(counts, known.labels == NORMAL, known.labels == ANOMALOUS)
    assert figures["region_recall"] == 0.5


def test_without_masks_or_good_images_it_is_said_why(predictions):
    bare = replace(predictions, has_mask=np.array([True, True, False, False]))
    metrics = compute_metrics(bare)
    assert metrics["pixel_f1"] is None and metrics["false_regions"] == 0.5
    assert "no mask" in metrics["undefined"]["pixel_f1"]
    only = replace(predictions, labels=np.full(4, ANOMALOUS))
    metrics = compute_metrics(only)
    assert metrics["false_regions"] is None
    assert "no normal image" in metrics["undefined"]["false_regions"]


@pytest.mark.parametrize("seed", range(3))
def test_f1_of_pixels_agrees_with_scikit_learn_on_random_maps(make_predictions, seed):
    """At both thresholds from good images, and at the best of all."""
    rng = np.random.default_rng(seed)
    masks = ndimage.binary_dilation(rng.random((5, 16, 16)) < 0.02, np.ones((1, 3, 3)))
    masks[:2] = False
    maps = (rng.random(masks.shape) + 0.4 * masks).astype(np.float32)
    p = make_predictions([0, 0, 1, 1, 1], maps=maps, masks=masks)
    found = compute_metrics(replace(p, pixel_threshold=0.8, sigma_threshold=0.9))
    truth, heat = masks.ravel(), maps.ravel()
    assert found["pixel_f1"] == pytest.approx(f1_score(truth, heat > 0.8), abs=1e-6)
    assert found["seg_f1"] == pytest.approx(f1_score(truth, heat > 0.9), abs=1e-6)
    precision, recall, _ = precision_recall_curve(truth, heat)
    best = np.max(2 * precision * recall / np.maximum(precision + recall, 1e-12))
    assert found["pixel_f1_max"] == pytest.approx(best, abs=1e-6)
