import json
from dataclasses import replace

import numpy as np
import pytest

from ddad_jax.data.sample import ANOMALOUS, NORMAL, UNKNOWN
from ddad_jax.errors import UserError
from ddad_jax.evaluation.bootstrap import resample
from ddad_jax.evaluation.intervals import share
from ddad_jax.evaluation.measures import keys
from ddad_jax.evaluation.outputs import write_metrics
from tests.evaluation.conftest import compute_metrics


def test_agrees_with_the_reference(golden, make_predictions):
    tensors = np.load(golden / "metrics.npz")
    expected = json.loads((golden / "metrics.json").read_text())
    labels = tensors["labels"].astype(int)
    masks = tensors["masks"]
    found = compute_metrics(
        make_predictions(labels, tensors["scores"], tensors["anomaly_maps"], masks > 0),
        resized_masks=masks.astype(np.float32),
    )
    for name in ("image_auroc", "image_ap", "image_f1_max",
                 "pixel_auroc", "pixel_ap", "pixel_f1_max", "pro_d3ad"):  # fmt: skip
        assert found[name] == pytest.approx(expected[name], abs=1e-6), name
    assert found["aupro"] == pytest.approx(expected["aupro_exact_0p30"], abs=1e-4)
    assert found["aupro_0.05"] == pytest.approx(expected["aupro_exact_0p05"], abs=1e-4)
    assert found["undefined"] == {}


def test_normality_restored(make_predictions):
    predictions = make_predictions([NORMAL] * 3 + [ANOMALOUS] * 3, [0.1, 0.2, 0.3, 0.7, 0.8, 0.9])
    distances = np.array([1.0, 1.1, 0.9, 3.0, 3.1, 2.9], np.float32)

    def restored(reconstructed):
        changed = replace(
            predictions,
            knn_distances=distances,
            reconstructed_knn_distances=np.asarray(reconstructed, np.float32),
        )
        return compute_metrics(changed)["normality_restored"]

    assert restored(distances) == pytest.approx(0.0)
    assert restored([1.0] * 6) == pytest.approx(1.0)
    assert restored(distances + 0.5) == pytest.approx(0.0)
    assert restored([1.0] * 3 + [2.0] * 3) == pytest.approx(0.5)


def test_normality_restored_needs_reconstructions(make_predictions):
    p = replace(
        make_predictions([NORMAL, ANOMALOUS]),
        reconstructions=None,
        reconstructed_knn_distances=None,
    )
    metrics = compute_metrics(p)
    assert metrics["normality_restored"] is None
    assert "detection.reconstruct" in metrics["undefined"]["normality_restored"]
    assert metrics["knn_distance"] == {"normal": {"image": 1.0}, "anomalous": {"image": 3.0}}


def test_normality_restored_needs_distant_defects(make_predictions):
    predictions = make_predictions([NORMAL, ANOMALOUS], [0.1, 0.9])
    near = replace(predictions, knn_distances=np.ones(2, np.float32))
    found = compute_metrics(near)
    assert found["normality_restored"] is None
    assert "not farther from the training images" in found["undefined"]["normality_restored"]


@pytest.mark.parametrize(("label", "missing"), [(NORMAL, "anomalous"), (ANOMALOUS, "normal")])
def test_one_kind_of_image_alone(make_predictions, label, missing):
    found = compute_metrics(make_predictions([label] * 3, [0.1, 0.2, 0.9]))
    assert found["image_auroc"] is None
    assert missing in found["undefined"]["image_auroc"]
    assert found["counts"][missing] == 0


def test_no_masks(make_predictions):
    found = compute_metrics(make_predictions([NORMAL, ANOMALOUS], [0.1, 0.9]))
    assert found["image_auroc"] == 1.0
    assert found["counts"]["with_mask"] == 0
    for name in keys("pixel"):
        assert found[name] is None
        assert "no test image has a mask" in found["undefined"][name]


def test_masks_that_mark_nothing(make_predictions):
    empty = np.zeros((2, 16, 16), bool)
    found = compute_metrics(make_predictions([NORMAL, ANOMALOUS], [0.1, 0.9], masks=empty))
    assert (found["counts"]["with_mask"], found["counts"]["mask_lost"]) == (0, 1)
    assert "the masks are empty" in found["undefined"]["pixel_auroc"]


def test_images_whose_mask_was_lost_count_in_no_pixel_figure(make_predictions, tmp_path):
    """One mask of many is left; every resample holds it, and the file can be written."""
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], 12)
    masks = np.zeros((24, 16, 16), bool)
    masks[20, 3:6, 3:6] = True
    maps = (rng.random(masks.shape) + masks).astype(np.float32)
    found = compute_metrics(make_predictions(labels, maps=maps, masks=masks))
    assert (found["counts"]["with_mask"], found["counts"]["mask_lost"]) == (1, 11)
    kept = np.append(np.arange(12), 20)
    expected = compute_metrics(make_predictions(labels[kept], maps=maps[kept], masks=masks[kept]))
    for name in keys("pixel"):
        assert found[name] == expected[name]
    assert np.isfinite(found["intervals"]["aupro"]).all()
    write_metrics(tmp_path, found)


def test_an_infinite_threshold_of_the_paper_is_none(make_predictions, tmp_path):
    """Where all defects look better than all good parts, nothing is best called anomalous."""
    maps = np.linspace(0.9, 0.1, 4, dtype=np.float32)[:, None, None] * np.ones((1, 16, 16))
    predictions = make_predictions([0, 0, 1, 1], maps=maps.astype(np.float32))
    predictions = replace(predictions, test_normalised_maps=predictions.maps)
    found = compute_metrics(predictions, np.zeros((4, 16, 16), np.float32))
    assert found["threshold_d3ad"] is None and found["recall_d3ad"] == 0.0
    assert "threshold_d3ad" in found["undefined"]
    write_metrics(tmp_path, found)


def test_all_scores_equal(make_predictions):
    masks = np.zeros((4, 16, 16), bool)
    masks[2:, 3:5, 3:5] = True
    found = compute_metrics(make_predictions([0, 0, 1, 1], [0.3] * 4, masks=masks))
    assert found["image_auroc"] == 0.5
    assert found["image_ap"] == 0.5
    assert found["pixel_auroc"] == 0.5
    assert found["aupro"] == pytest.approx(0.15)


def test_one_pixel_defect(make_predictions):
    maps = np.random.default_rng(0).random((2, 16, 16)).astype(np.float32)
    masks = np.zeros((2, 16, 16), bool)
    masks[1, 7, 8] = True
    maps[1, 7, 8] = 2.0
    found = compute_metrics(make_predictions([0, 1], maps=maps, masks=masks))
    assert found["pixel_auroc"] == found["aupro"] == found["pixel_f1_max"] == 1.0


def test_a_score_that_is_no_number_is_refused(make_predictions):
    with pytest.raises(UserError, match="test/scratch/001.png: its score is not a finite number"):
        make_predictions([NORMAL, ANOMALOUS], [0.1, float("nan")])


def test_what_the_threshold_does(make_predictions):
    found = compute_metrics(
        make_predictions([0, 0, 0, 0, 1, 1, UNKNOWN], [0.1, 0.2, 0.3, 0.6, 0.4, 0.9, 5.0])
    )
    assert found["decision"] == {
        "true_positives": 1,
        "false_negatives": 1,
        "false_positives": 1,
        "true_negatives": 3,
        "recall": 0.5,
        "false_alarm_rate": 0.25,
    }
    assert found["counts"]["unlabelled"] == 1
    assert found["image_auroc"] == pytest.approx(7 / 8)


def test_each_defect_is_held_against_all_normal_images(make_predictions):
    found = compute_metrics(make_predictions([0, 0, 1, 1], [0.1, 0.8, 0.7, 0.9]))
    assert found["per_defect"]["scratch"]["images"] == 2
    assert found["per_defect"]["scratch"]["recall"] == 1.0
    assert found["per_defect"]["scratch"]["image_auroc"] == pytest.approx(0.75)


def test_intervals_hold_the_figure_and_narrow_with_more_images(make_predictions):
    widths = []
    for copies in (1, 4):
        rng = np.random.default_rng(0)
        labels = np.repeat([0, 1], 30 * copies)
        masks = np.zeros((len(labels), 16, 16), bool)
        masks[labels == 1, 3:6, 3:6] = True
        maps = (rng.random(masks.shape) + 0.3 * masks).astype(np.float32)
        scores = rng.normal(labels, 1.0)
        found = compute_metrics(make_predictions(labels, scores, maps, masks))
        figures = found | found["decision"]
        assert set(found["intervals"]) == {
            "image_auroc", "image_ap", "pixel_auroc", "aupro", "recall", "false_alarm_rate",
        }  # fmt: skip
        for name, (low, high) in found["intervals"].items():
            assert low <= figures[name] <= high, name
        widths.append(np.diff(found["intervals"]["image_auroc"]).item())
    assert widths[1] < 0.7 * widths[0]


def test_quarters_by_size_of_the_defect(make_predictions):
    masks = np.zeros((6, 16, 16), bool)
    for row, side in enumerate((2, 4, 8, 16)):
        masks[row + 2, :side, : min(side, 15)] = True
    maps = masks.astype(np.float32) * np.array([0, 0, 0.4, 0.6, 0.7, 0.9]).reshape(-1, 1, 1)
    found = compute_metrics(
        make_predictions([0, 0, 1, 1, 1, 1], maps=maps.astype(np.float32), masks=masks)
    )
    assert [part["images"] for part in found["per_size"]] == [1, 1, 1, 1]
    assert [part["recall"] for part in found["per_size"]] == [0, 1, 1, 1]
    assert found["per_size"][0]["size"] == "1.6 to 1.6 % of the image"


def test_the_protocol_is_named(make_predictions):
    predictions = make_predictions([NORMAL, ANOMALOUS], [0.1, 0.9])
    exact = compute_metrics(predictions)
    assert exact["protocol"] == "exact"
    assert "pro_d3ad" not in exact
    paper = compute_metrics(predictions, np.zeros((2, 16, 16), np.float32))
    assert paper["protocol"] == "paper"
    assert paper["pro_d3ad"] is None


def test_recall_is_of_the_defects_and_not_of_the_alarms(make_predictions):
    """Three of four defects found, among five called so: recall 3/4, precision 3/5."""
    labels = [0] * 6 + [1] * 4
    scores = [0.1, 0.2, 0.3, 0.4, 0.6, 0.7, 0.4, 0.6, 0.8, 0.9]
    predictions = make_predictions(labels, scores)
    found = compute_metrics(predictions)
    assert found["decision"]["recall"] == 0.75
    assert found["decision"]["false_alarm_rate"] == pytest.approx(2 / 6)
    (scratch,) = found["per_defect"].values()
    assert scratch["recall"] == 0.75
    # What is resampled is centred on it, and holds it in its interval.
    values = resample(predictions)
    assert values["recall"].mean() == pytest.approx(0.75, abs=0.03)
    assert values["false_alarm_rate"].mean() == pytest.approx(2 / 6, abs=0.03)
    for name, count, total in (("recall", 3, 4), ("false_alarm_rate", 2, 6)):
        assert found["intervals"][name] == share(count, total)
