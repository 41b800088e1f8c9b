from types import SimpleNamespace

import numpy as np
import pytest

from ddad_jax.data.folder import folder_source
from ddad_jax.data.prepare import prepare
from ddad_jax.data.preprocessing import Preprocessing
from ddad_jax.detection.build import BuildSettings
from ddad_jax.detection.threshold import fit_threshold
from ddad_jax.evaluation.evaluate import calibrate_on_photographs, evaluate
from tests.data.pictures import picture, save

SIZES = {"good/e.png": (64, 64), "hole/d.png": (100, 170)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three good images to learn from, and a good and a defective one to test."""
    home = tmp_path_factory.mktemp("large")
    for index, (width, height) in enumerate(((64, 64), (130, 100), (200, 70))):
        save(picture(index, width, height), home / f"good/{index}.png")
    for index, (name, (height, width)) in enumerate(SIZES.items()):
        save(picture(7 + index, width, height), home / "test" / name)
    mask = np.zeros((100, 170), np.uint8)
    mask[30:38, 90:98] = 255
    save(mask, home / "masks/d.png")
    return home


@pytest.fixture
def whole(folder):
    return folder_source(folder / "good", test=folder / "test", masks=folder / "masks")


@pytest.fixture
def reddest(monkeypatch):
    """Lets every detector find what is red, as it is."""

    def detect(detector, images):
        assert images.shape == (1, 64, 64, 3)
        heat = images[..., 0].astype(np.float32)
        score = heat.max((1, 2))
        return SimpleNamespace(
            score=score,
            calibrated_score=score / 255,
            decision=score > 100,
            noise_level=score.astype(int),
            knn_distance=-score,
            reconstructed_knn_distance=2 * score,
            anomaly_map=heat,
            reconstruction=images,
            kind=None,
        )

    monkeypatch.setattr("ddad_jax.evaluation.find.compiled", lambda *_: detect)


TILED = Preprocessing(64, tile=64, overlap=16)


def prepared(source, folder, preprocessing=TILED):
    return prepare(source, preprocessing, folder / "cache")


def found_by(detector, source, folder, batch_size, preprocessing=TILED):
    test = prepared(source, folder, preprocessing)["test"]
    return evaluate(detector, preprocessing, source, test, batch_size)


@pytest.mark.parametrize("batch_size", [1, 5])
def test_maps_are_put_together_where_their_tiles_were(detector, whole, folder, reddest, batch_size):
    found = found_by(detector, whole, folder, batch_size)
    assert [sample.name for sample in found.samples] == [f"test/{name}" for name in SIZES]
    for row, sample in enumerate(found.samples):
        image = whole.read_image(sample)
        np.testing.assert_allclose(found.maps[row], image[..., 0], rtol=1e-5)
        np.testing.assert_array_equal(found.reconstructions[row], image)
        np.testing.assert_array_equal(found.images[row], image)
        assert found.scores[row] == found.maps[row].max()
    assert [mask.sum() for mask in found.masks] == [0, 64]
    assert found.masks[1][30:38, 90:98].all() and found.has_mask.all()
    np.testing.assert_array_equal(found.decisions, found.scores > found.threshold)


def test_figures_are_those_of_the_tile_with_the_highest_score(detector, whole, folder, reddest):
    found = found_by(detector, whole, folder, 5)
    np.testing.assert_array_equal(found.noise_levels, found.scores.round())
    np.testing.assert_allclose(found.knn_distances, -found.scores, rtol=1e-5)
    np.testing.assert_allclose(found.reconstructed_knn_distances, 2 * found.scores, rtol=1e-5)


@pytest.mark.parametrize("tile", [32, 50])
def test_tiles_of_another_size_than_the_networks(detector, whole, folder, reddest, tile):
    found = found_by(detector, whole, folder, 4, Preprocessing(64, tile=tile, overlap=8))
    assert [each.shape for each in found.maps] == list(SIZES.values())
    red = whole.read_image(found.samples[1])[..., 0]
    # Twice resized, the picture's noise is smoothed, but nothing has moved.
    assert np.corrcoef(found.maps[1].ravel(), red.ravel())[0, 1] > 0.9


def test_the_threshold_is_of_images(detector, whole, folder, reddest):
    train = prepared(whole, folder)["train"]
    build = BuildSettings(batch_size=8, false_alarm_rate=0.4)
    calibration = calibrate_on_photographs([(detector, train)], TILED, build)
    scores = [whole.read_image(sample)[..., 0].max() for sample in whole.samples[:3]]
    threshold, spread = fit_threshold(np.array(scores, np.float64), 0.4)
    assert float(calibration.threshold) == pytest.approx(threshold, rel=1e-5)
    assert float(calibration.spread) == pytest.approx(spread, rel=1e-4)
    assert calibration.scale == detector.calibration.scale


def test_an_image_of_one_tile_is_seen_as_it_is_whole(detector, whole, folder):
    test = prepared(whole, folder)["test"].take(np.array([0]))
    alone = evaluate(detector, Preprocessing(64), whole, test, 1)
    found = evaluate(detector, TILED, whole, test, 1)
    np.testing.assert_allclose(found.maps[0], alone.maps[0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.reconstructions[0], alone.reconstructions[0], atol=1)
    for name in ("scores", "calibrated_scores", "noise_levels", "knn_distances"):
        np.testing.assert_allclose(getattr(found, name), getattr(alone, name), rtol=1e-4)
