import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from ddad_jax.data.synthetic import synthetic_source
from ddad_jax.evaluation.d3ad import (
    image_figures,
    normalise_by_test_set,
    pixel_figures,
    resized_masks,
)


@pytest.fixture(scope="module")
def masks():
    source = synthetic_source(image_size=96, num_train=1, num_test_good=1, num_test_per_defect=1)
    return resized_masks(source, source.samples[1:], 40, "stretch")


def test_masks_keep_their_soft_edges(masks):
    assert masks.shape == (5, 40, 40)
    assert not masks[0].any()
    assert ((masks > 0) & (masks < 1)).any()
    np.testing.assert_allclose(masks * 255, np.round(masks * 255), atol=1e-4)


def test_any_share_of_defect_counts_for_the_auroc(masks):
    maps = np.random.default_rng(0).random(masks.shape).astype(np.float32)
    expected = roc_auc_score((masks > 0).ravel(), maps.ravel())
    assert pixel_figures(maps, masks)["pixel_auroc_d3ad"] == pytest.approx(expected, abs=1e-12)


def test_only_whole_pixels_count_for_the_overlap(masks):
    whole = (masks == 1).astype(np.float32)
    maps = np.random.default_rng(0).random(masks.shape).astype(np.float32) + masks
    found = pixel_figures(maps, masks)["pro_d3ad"]
    assert found == pixel_figures(maps, whole)["pro_d3ad"]


def test_where_the_official_code_has_nothing_to_divide_by():
    masks = np.zeros((1, 8, 8), np.float32)
    maps = np.zeros((1, 8, 8), np.float32)
    assert pixel_figures(maps, masks) == {"pro_d3ad": None, "pixel_auroc_d3ad": None}
    masks[0, 2, 2] = 1.0
    assert pixel_figures(maps, masks) == {"pro_d3ad": 0.0, "pixel_auroc_d3ad": 0.5}


def test_maps_are_normalised_by_the_extremes_of_the_whole_set_before_the_blur():
    rng = np.random.default_rng(0)
    maps = {kind: rng.random((3, 8, 8)).astype(np.float32) for kind in ("latent", "feature")}
    extremes = {
        "latent": np.array([[0.5, 2.0], [0.25, 1.0], [0.5, 4.25]], np.float32),
        "feature": np.array([[0.0, 1.0], [0.0, 2.0], [-2.0, 1.0]], np.float32),
    }
    found = normalise_by_test_set(maps, extremes, 0.75)
    expected = 0.75 * (maps["latent"] - 0.25) / 4.0 + 0.25 * (maps["feature"] + 2.0) / 4.0
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_the_threshold_is_the_one_that_serves_the_test_labels_best():
    scores = np.array([0.1, 0.2, 0.3, 0.6, 0.4, 0.5, 0.7], np.float32)
    labels = np.array([0, 0, 0, 0, 1, 1, 1])
    found = image_figures(scores, labels)
    assert found["threshold_d3ad"] == pytest.approx(0.4)
    assert (found["recall_d3ad"], found["false_alarm_rate_d3ad"]) == (1.0, 0.25)
    assert found["image_auroc_d3ad"] == pytest.approx(roc_auc_score(labels, scores))
    assert set(image_figures(scores[:4], labels[:4]).values()) == {None}
