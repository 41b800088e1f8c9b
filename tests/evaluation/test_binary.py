import numpy as np
import pytest
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

from ddad_jax.evaluation.binary import binary_figures


@pytest.mark.parametrize("levels", [2, 20, 100000])
def test_agrees_with_scikit_learn_also_with_ties(levels):
    rng = np.random.default_rng(levels)
    truth = rng.random(3000) < 0.1
    scores = np.round(rng.normal(truth, 1.0) * levels) / levels
    found = binary_figures("pixel", np.sort(scores[~truth]), scores[truth])
    precision, recall, thresholds = precision_recall_curve(truth, scores)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    assert found["pixel_auroc"] == pytest.approx(roc_auc_score(truth, scores), abs=1e-12)
    assert found["pixel_ap"] == pytest.approx(average_precision_score(truth, scores), abs=1e-12)
    assert found["pixel_f1_max"] == pytest.approx(f1.max(), abs=1e-12)
    assert found["pixel_f1_max_threshold"] == thresholds[f1.argmax()]
