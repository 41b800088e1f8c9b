import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from ddad_jax.data.synthetic import synthetic_source
from ddad_jax.evaluation.d3ad import d3ad_figures, resized_masks


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
    assert d3ad_figures(maps, masks)["pixel_auroc_d3ad"] == pytest.approx(expected, abs=1e-12)


def test_only_whole_pixels_count_for_the_overlap(masks):
    whole = (masks == 1).astype(np.float32)
    maps = np.random.default_rng(0).random(masks.shape).astype(np.float32) + masks
    found = d3ad_figures(maps, masks)["pro_d3ad"]
    assert found == d3ad_figures(maps, whole)["pro_d3ad"]


def test_where_the_official_code_has_nothing_to_divide_by():
    masks = np.zeros((1, 8, 8), np.float32)
    maps = np.zeros((1, 8, 8), np.float32)
    assert d3ad_figures(maps, masks) == {"pro_d3ad": None, "pixel_auroc_d3ad": None}
    masks[0, 2, 2] = 1.0
    assert d3ad_figures(maps, masks) == {"pro_d3ad": 0.0, "pixel_auroc_d3ad": 0.5}
