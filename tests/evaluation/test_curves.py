"""Curves by hand: at each threshold, what is called anomalous is counted."""

import numpy as np
import pytest

from ddad_jax.data.sample import UNKNOWN
from ddad_jax.evaluation import figures
from ddad_jax.evaluation.curves import compute_curves
from ddad_jax.evaluation.figures import write_figures

# Three of eight good parts score above the weakest of four defects.
LABELS = np.array([0] * 8 + [1] * 4 + [UNKNOWN])
SCORES = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.65, 0.75, 0.85, 0.6, 0.7, 0.8, 0.9, 0.95])


def rates(threshold):
    """False-alarm rate, recall and precision where scores from the threshold on are called so."""
    called = SCORES[:12] >= threshold
    found, alarms = called[8:].sum(), called[:8].sum()
    return alarms / 8, found / 4, found / max(found + alarms, 1)


@pytest.fixture
def predictions(make_predictions):
    masks = np.zeros((13, 16, 16), bool)
    masks[8:12, 2:6, 2:6] = True
    maps = SCORES[:, None, None] * np.where(masks | (LABELS != 1)[:, None, None], 1.0, 0.1)
    return make_predictions(LABELS, SCORES, maps.astype(np.float32), masks)


@pytest.fixture
def curves(predictions):
    return compute_curves(predictions)


def test_the_roc_has_false_alarms_across_and_recall_up(curves):
    expected = [(0.0, 0.0)] + [rates(threshold)[:2] for threshold in np.sort(SCORES[:12])[::-1]]
    np.testing.assert_allclose(np.transpose(curves.roc), expected)


def test_the_precision_recall_curve_has_recall_across_and_precision_up(curves):
    across, up = curves.precision_recall
    assert (np.diff(across) >= 0).all() and (across[0], up[0]) == (0.0, 1.0)
    points = {(round(x, 9), round(y, 9)) for x, y in zip(across, up, strict=True)}
    for threshold in SCORES[8:12]:
        _, recall, precision = rates(threshold)
        assert (round(recall, 9), round(precision, 9)) in points


def test_the_pro_curve_has_the_rate_of_normal_pixels_across(curves, predictions):
    across, up = curves.pro
    assert (across[0], up[0]) == (0.0, 0.0) and across[-1] == pytest.approx(0.3)
    assert (np.diff(across) >= 0).all() and (np.diff(up) >= 0).all()
    # Below the weakest region every region is whole: five good parts of eight lie below.
    good = 256 * 8 + 4 * (256 - 16)
    beyond = 3 * 256 / good
    np.testing.assert_allclose(up[across > beyond + 0.01], 1.0)
    assert up[across < beyond / 4].max() < 1.0


def test_papers_are_shown_the_same_axes(predictions, curves, tmp_path, monkeypatch):
    drawn = {}
    monkeypatch.setattr(figures, "_save", lambda figure, path: drawn.update({path.name: figure}))
    write_figures(tmp_path, predictions, curves)
    for name, curve, labels in (
        ("roc", curves.roc, ("false-alarm rate", "recall")),
        ("precision_recall", curves.precision_recall, ("recall", "precision")),
        ("pro", curves.pro, ("pixel false positive rate", "per-region overlap")),
    ):
        (axes,) = drawn[name].axes
        assert (axes.get_xlabel(), axes.get_ylabel()) == labels
        np.testing.assert_array_equal(axes.lines[0].get_xydata(), np.transpose(curve))
    (axes,) = drawn["scores"].axes
    names = [text.get_text() for text in axes.get_legend().get_texts()]
    assert names == ["good", "defective", "unlabelled", "threshold"]
    assert axes.lines[0].get_xdata()[0] == predictions.threshold
    # As many images as there are stand in the bars of each kind.
    counts = [sum(bar.get_height() for bar in kind) for kind in axes.containers]
    assert counts == [8, 4, 1]
