import csv
import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from ddad_jax.data.sample import ANOMALOUS, NORMAL, UNKNOWN
from ddad_jax.evaluation.drawing import heat_overlay
from ddad_jax.evaluation.encode import encode_row
from ddad_jax.evaluation.outputs import picture, write_metrics, write_pictures, write_scores


@pytest.fixture
def predictions(make_predictions):
    masks = np.zeros((3, 16, 16), bool)
    masks[1, 4:8, 4:8] = True
    return make_predictions([NORMAL, ANOMALOUS, UNKNOWN], [0.25, 0.75, 0.5], masks=masks)


def test_scores_have_a_row_an_image(predictions, tmp_path):
    write_scores(tmp_path, predictions)
    with (tmp_path / "scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["path"] for row in rows] == [sample.name for sample in predictions.samples]
    assert [row["label"] for row in rows] == ["normal", "anomalous", ""]
    assert [row["decision"] for row in rows] == ["normal", "anomalous", "normal"]
    assert [float(row["score"]) for row in rows] == [0.25, 0.75, 0.5]
    assert rows[0]["noise_level"] == "40"


def test_metrics_are_plain_json(tmp_path):
    write_metrics(tmp_path, {"aupro": 0.5, "image_auroc": None})
    text = (tmp_path / "metrics.json").read_text()
    assert json.loads(text) == {"aupro": 0.5, "image_auroc": None}
    with pytest.raises(ValueError):
        write_metrics(tmp_path, {"aupro": float("nan")})


def test_pictures_lie_where_the_images_do(predictions, tmp_path):
    write_pictures(tmp_path, predictions)
    for sample in predictions.samples:
        with Image.open(tmp_path / "pictures" / f"{sample.name}.png") as image:
            assert image.width > 16


def test_only_a_known_defect_has_a_ground_truth_panel(predictions):
    widths = [picture(predictions, row).width for row in range(3)]
    assert widths[1] > widths[0] == widths[2]


def test_without_reconstructions_there_is_no_panel_and_no_distance(predictions, tmp_path):
    without = replace(predictions, reconstructions=None, reconstructed_knn_distances=None)
    assert picture(without, 0).width < picture(predictions, 0).width
    assert encode_row(without, 0)["reconstruction"] is None
    write_scores(tmp_path, without)
    with (tmp_path / "scores.csv").open(newline="") as file:
        assert {row["reconstructed_knn_distance"] for row in csv.DictReader(file)} == {""}


def test_heat_is_clear_at_zero_and_bright_at_twice_the_threshold():
    image = np.full((1, 3, 3), 100, np.uint8)
    overlay = heat_overlay(image, np.array([[0.0, 0.5, 1.0]], np.float32), 0.5)
    brightness = overlay.mean(-1)[0]
    assert brightness[0] < brightness[1] < brightness[2]
    np.testing.assert_array_equal(
        overlay[0, 2], heat_overlay(image, np.full((1, 3), 9.0, np.float32), 0.5)[0, 0]
    )


def test_names_as_long_as_a_file_system_takes_have_pictures_too(make_predictions, tmp_path):
    predictions = make_predictions([NORMAL, NORMAL])
    names = [f"test/good/{'ü' * 124}{number}.jpg" for number in (1, 2)]
    samples = [replace(s, name=n) for s, n in zip(predictions.samples, names, strict=True)]
    predictions = replace(predictions, samples=tuple(samples))
    assert len(names[0].rpartition("/")[2].encode()) == 253
    write_scores(tmp_path, predictions)
    write_pictures(tmp_path, predictions)
    assert len(list((tmp_path / "pictures/test/good").iterdir())) == 2


def test_pictures_of_images_that_are_gone_are_removed_and_nothing_else(
    make_predictions, predictions, tmp_path
):
    write_scores(tmp_path, predictions)
    write_pictures(tmp_path, predictions)
    (tmp_path / "pictures/mine.png").touch()
    fewer = make_predictions([NORMAL])
    write_scores(tmp_path, fewer)
    write_pictures(tmp_path, fewer)
    left = {path.relative_to(tmp_path / "pictures") for path in tmp_path.rglob("*.png")}
    assert {path.as_posix() for path in left} == {"mine.png", f"{fewer.samples[0].name}.png"}
