import dataclasses

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from ddad_jax.evaluation.bootstrap import draw_counts, image_figures, pixel_figures, resample
from tests.evaluation.conftest import aupro


@pytest.fixture
def truth():
    return np.arange(20) >= 12


def test_as_many_of_each_kind_are_drawn(truth):
    counts = draw_counts(truth, 50, 0)
    assert (counts[:, truth].sum(1) == 8).all()
    assert (counts[:, ~truth].sum(1) == 12).all()
    assert len(np.unique(counts, axis=0)) == 50


def test_image_figures_are_those_of_the_drawn_images(truth):
    rng = np.random.default_rng(0)
    scores = np.round(rng.normal(truth, 1.0), 1)
    counts = draw_counts(truth, 5, 0)
    found = image_figures(truth, scores, counts)
    for row, count in enumerate(counts):
        drawn = np.repeat(np.arange(20), count)
        assert found["image_auroc"][row] == pytest.approx(
            roc_auc_score(truth[drawn], scores[drawn]), abs=1e-12
        )
        assert found["image_ap"][row] == pytest.approx(
            average_precision_score(truth[drawn], scores[drawn]), abs=1e-12
        )


def test_pixel_figures_are_those_of_the_drawn_images(truth):
    rng = np.random.default_rng(0)
    masks = np.zeros((20, 48, 48), bool)
    for row in np.flatnonzero(truth):
        masks[row, 5 : 6 + row, 8:20] = True
        masks[row, 40:43, 40:44] = True
    maps = (rng.random(masks.shape) + rng.random((20, 1, 1)) * masks).astype(np.float32)
    counts = draw_counts(truth, 5, 0)
    found = pixel_figures(maps, masks, counts, 0.3)
    for row, count in enumerate(counts):
        drawn = np.repeat(np.arange(20), count)
        assert found["aupro"][row] == pytest.approx(aupro(maps[drawn], masks[drawn]), abs=2e-4)
        assert found["pixel_auroc"][row] == pytest.approx(
            roc_auc_score(masks[drawn].ravel(), maps[drawn].ravel()), abs=2e-4
        )


def test_the_same_images_are_drawn_whatever_the_scores(make_predictions):
    labels = np.arange(30) % 2
    first = make_predictions(labels, np.random.default_rng(0).normal(labels))
    second = dataclasses.replace(first, scores=first.scores + 0.25)
    same, other = resample(first), resample(second)
    np.testing.assert_array_equal(same["image_auroc"], other["image_auroc"])
    samples = tuple(dataclasses.replace(sample, category="other") for sample in first.samples)
    apart = resample(dataclasses.replace(first, samples=samples))["image_auroc"]
    assert abs(np.corrcoef(same["image_auroc"], apart)[0, 1]) < 0.2
