import io
import json
import pickle
from dataclasses import replace
from itertools import count

import jax
import numpy as np
import pytest
from PIL import Image

import ddad_jax
from ddad_jax.data.synthetic import synthetic_source
from ddad_jax.deploy.fitted import load_detector
from ddad_jax.detection.detector import with_reconstruct
from ddad_jax.detection.threshold import fit_threshold
from ddad_jax.errors import UserError


@pytest.fixture(scope="module")
def blue_parts():
    """Good parts of another design."""
    source = synthetic_source(
        image_size=64, num_train=16, num_test_good=0, num_test_per_defect=0, design="anodised"
    )
    return [source.read_image(sample) for sample in source.samples]


@pytest.fixture(scope="module")
def strict(fitted):
    """The detector with a low threshold."""
    return fitted.with_false_alarm_rate(0.3)


@pytest.fixture(scope="module")
def extended(strict, blue_parts):
    return strict.extend(blue_parts[:12])


def scores(detector, photographs):
    return np.array([each.score for each in detector.predict(photographs)])


@pytest.mark.slow
def test_predictions_come_one_by_one_from_an_endless_source(fitted, part_images):
    endless = (part_images[number % 20] for number in count())
    found = fitted.predict_iter(endless)
    first = [next(found) for _ in range(3)]
    assert [each.name for each in first] == ["photograph 0", "photograph 1", "photograph 2"]
    expected = fitted.predict(list(part_images[:3]))
    assert [each.score for each in first] == [each.score for each in expected]
    found.close()


def test_a_broken_photograph_ends_it_or_stands_in_its_place(fitted, part_images):
    photographs = [part_images[0], b"no image", part_images[1]]
    with pytest.raises(UserError, match="photograph 1: is not an image"):
        list(fitted.predict_iter(photographs))
    first, broken, last = fitted.predict_iter(photographs, on_unreadable="return")
    assert isinstance(broken, UserError) and broken.name == "photograph 1"
    assert (first.name, last.name) == ("photograph 0", "photograph 2")


def test_a_prediction_says_where_it_is_defective(fitted, part_images):
    photograph = part_images[0].repeat(2, axis=0).repeat(3, axis=1)
    photograph[20:40, 60:100] = (255, 0, 255)
    found = fitted.with_threshold(0.5 * fitted.predict(photograph).score).predict(photograph)
    assert found.decision and found.regions
    assert found.anomaly_map.shape == found.mask.shape == photograph.shape[:2]
    assert found.reconstruction.shape == photograph.shape
    assert sum(region.area for region in found.regions) == found.mask.sum()
    assert found.regions[0].peak == found.anomaly_map.max()
    assert "photograph 0: anomalous, score" in repr(found) and "peak" in repr(found)
    with Image.open(io.BytesIO(found._repr_png_())) as drawn:
        assert drawn.size == found.draw().size and drawn.width > 3 * photograph.shape[1]


@pytest.mark.slow
@pytest.mark.parametrize("tile", [0, 64])
def test_a_reconstruction_is_made_where_it_is_asked_for(fitted, part_images, tile):
    full = replace(fitted, preprocessing=replace(fitted.preprocessing, tile=tile))
    fast = replace(full, detector=with_reconstruct(full.detector, False))
    photograph = part_images[0].repeat(2, axis=0).repeat(3, axis=1)
    expected, found = full.predict(photograph), fast.predict(photograph)
    assert found.score == pytest.approx(expected.score, rel=1e-5)
    assert found.reconstructed_knn_distance is None
    assert expected.reconstructed_knn_distance is not None
    assert found.draw().size == expected.draw().size
    sent = pickle.loads(pickle.dumps(fast.predict(photograph)))
    for each in (found, sent):
        np.testing.assert_array_equal(each.reconstruction, expected.reconstruction)
    np.testing.assert_array_equal(
        found.as_shown().shown_reconstruction, expected.shown_reconstruction
    )


def test_an_image_called_anomalous_has_a_region_and_no_other_has(strict, part_images, blue_parts):
    predicted = strict.predict([*part_images, *blue_parts])
    decisions = [each.decision for each in predicted]
    assert any(decisions) and not all(decisions)
    assert [bool(each.regions) for each in predicted] == decisions


def test_a_threshold_of_another_rate_is_that_of_the_scores(fitted, tmp_path):
    other = fitted.with_false_alarm_rate(0.2)
    expected = fit_threshold(fitted.scores, 0.2)[0]
    assert other.threshold == pytest.approx(expected) and other.threshold < fitted.threshold
    assert float(other.detector.calibration.pixel_threshold) == other.threshold
    other.save(tmp_path / "other.safetensors")
    stored = ddad_jax.load(tmp_path / "other.safetensors")
    assert stored.threshold == other.threshold
    assert stored.wish["false_alarm_rate"] == 0.2 and stored.wish["by"] and stored.wish["at"]
    assert stored.calibrated["false_alarm_rate"] == 0.2
    assert stored.with_calibrated_threshold().threshold == fitted.threshold
    assert stored.with_calibrated_threshold().wish == {}


def test_a_threshold_of_ones_own(fitted, tmp_path):
    other = fitted.with_threshold(0.75)
    assert other.threshold == 0.75 and other.calibrated == {}
    other.save(tmp_path / "other.safetensors")
    assert ddad_jax.load(tmp_path / "other.safetensors").wish["threshold"] == 0.75
    for value in (float("nan"), float("inf"), 0.0, -1.0):
        with pytest.raises(UserError, match="must be a finite number above 0"):
            fitted.with_threshold(value)
    for rate in (0.0, 1.0, -1.0):
        with pytest.raises(UserError, match="must be above 0 and below 1"):
            fitted.with_false_alarm_rate(rate)


def test_a_pixel_rate_of_its_own(fitted):
    settings = fitted.made_of["settings"] | {"build.pixel_alarm_rate": 0.3}
    other = replace(fitted, made_of={**fitted.made_of, "settings": settings}).recalibrated()
    assert other.threshold == fitted.threshold
    expected = fit_threshold(fitted.scores, 0.3)[0]
    assert float(other.detector.calibration.pixel_threshold) == pytest.approx(expected)


@pytest.mark.slow
def test_where_the_score_is_of_a_share_the_pixel_threshold_is_that_of_the_peaks(
    fitted, part_images, blue_parts
):
    d = fitted.detector
    peaks = 2.0 * fitted.scores
    calibration = d.calibration.replace(peaks=peaks.astype(np.float32))
    settings = replace(d.settings, score_share=0.01)
    of_share = replace(fitted, detector=d.replace(settings=settings, calibration=calibration))
    other = of_share.with_false_alarm_rate(0.2)
    pixel_threshold = float(other.detector.calibration.pixel_threshold)
    assert other.threshold == pytest.approx(fit_threshold(fitted.scores, 0.2)[0])
    assert pixel_threshold == pytest.approx(fit_threshold(peaks, 0.2)[0])
    own = other.with_threshold(other.predict(part_images[0]).score - 1e-3)
    of_fitted = fit_threshold(peaks, fitted.false_alarm_rate)[0]
    assert float(own.detector.calibration.pixel_threshold) == pytest.approx(of_fitted)
    found = own.predict(part_images[0])
    assert found.decision and found.regions[0].peak == found.anomaly_map.max()
    with pytest.raises(UserError, match="detection.score_share: the detector has 0.01"):
        other.extend(blue_parts)


def test_a_score_by_the_cosine_cannot_be_extended(fitted, blue_parts):
    d = fitted.detector
    detector = d.replace(settings=replace(d.settings, score_metric="cosine"))
    with pytest.raises(UserError, match=r"the detector has cosine.*score_metric=map"):
        replace(fitted, detector=detector).extend(blue_parts)


@pytest.mark.slow
def test_of_a_tiled_photograph_the_share_is_of_its_whole_map(fitted, part_images):
    d = fitted.detector
    settings = replace(d.settings, score_share=0.03)
    tiled = replace(
        fitted,
        detector=d.replace(settings=settings),
        preprocessing=replace(fitted.preprocessing, tile=64),
    )
    found = tiled.predict(part_images[0].repeat(2, axis=0).repeat(3, axis=1))
    ordered = np.sort(found.anomaly_map.astype(np.float64), axis=None)
    assert found.score == pytest.approx(ordered[-round(0.03 * ordered.size) :].mean(), rel=1e-5)
    assert found.score < ordered[-1]


def test_a_detector_of_an_older_format_says_that_it_has_no_scores(fitted):
    d = fitted.detector
    calibration = d.calibration.replace(scores=np.zeros(0))
    older = replace(fitted, detector=d.replace(calibration=calibration))
    assert older.calibrated == {}
    with pytest.raises(UserError, match="does not hold the scores of its good images"):
        older.with_false_alarm_rate(0.1)
    with pytest.raises(UserError, match="does not hold the scores"):
        older.extend([])
    other = older.with_threshold(2.0).with_threshold(3.0)
    assert other.threshold == 3.0
    assert other.with_calibrated_threshold().threshold == fitted.threshold


def test_several_are_given_as_several(fitted):
    with pytest.raises(UserError, match="expected several, such as a list of paths"):
        next(fitted.predict_iter("a.png"))


def test_a_broken_detector_says_so(fitted, part_images):
    d = fitted.detector
    broken = replace(fitted, detector=d.replace(patch_scale=d.patch_scale * np.float32("nan")))
    with pytest.raises(UserError, match="photograph 0: its score is not a finite number"):
        broken.predict([part_images[0]])


def test_a_large_photograph_is_kept_as_it_is_shown(fitted, part_images):
    large = part_images[0].repeat(30, axis=0).repeat(20, axis=1)
    found = fitted.predict(large)
    small = found.as_shown()
    assert found.mask.shape == (1920, 1280) and small.mask.shape == small.image.shape[:2]
    assert max(small.anomaly_map.shape) == 1024
    assert small.anomaly_map.max() == pytest.approx(found.anomaly_map.max(), rel=0.01)
    assert small.draw().size == found.draw().size


@pytest.mark.slow
def test_a_new_kind_is_learnt_and_the_old_one_stays(strict, extended, part_images, blue_parts):
    more, change = extended
    assert change.added == 12 and change.new_alarms[0] >= 10 and change.new_alarms[1] <= 4
    assert change.known == len(strict.scores) and change.known_alarms <= 2
    factor = float(more.detector.kinds[0].factor)
    assert change.new_threshold * factor == pytest.approx(more.threshold)
    assert more.threshold == strict.threshold
    known, new = list(part_images), blue_parts[12:]
    assert np.median(scores(strict, new)) > strict.threshold
    assert np.median(scores(more, new)) < more.threshold
    # Banks that grew make no distance larger; the noise level may fall with it.
    before, after = scores(strict, known), scores(more, known)
    assert (after <= before + 0.05).all()
    assert "12 good photographs added" in str(change)


@pytest.mark.slow
def test_defects_of_either_kind_are_still_found(extended, part_images, blue_parts):
    more, _ = extended
    for part in (part_images[0], blue_parts[14]):
        broken = part.copy()
        broken[20:44, 20:44] = (255, 0, 255)
        assert more.predict(broken).decision


@pytest.mark.slow
def test_an_extension_is_stored_and_can_be_undone(strict, extended, tmp_path, part_images):
    more, _ = extended
    more.save(tmp_path / "more.safetensors")
    stored = load_detector(tmp_path / "more.safetensors")
    np.testing.assert_array_equal(scores(stored, part_images[:3]), scores(more, part_images[:3]))
    undone = stored.without_extension()
    assert json.dumps(undone.made_of) == json.dumps(dict(strict.made_of))
    pairs = zip(jax.tree.leaves(undone.detector), jax.tree.leaves(strict.detector), strict=True)
    for a, b in pairs:
        np.testing.assert_array_equal(a, b)
    with pytest.raises(UserError, match="nothing to undo"):
        undone.without_extension()


@pytest.mark.slow
def test_it_can_be_extended_twice(extended, part_images):
    more, _ = extended
    dark = [(part * 0.4).astype(np.uint8) for part in part_images[:8]]
    twice, change = more.extend(dark)
    assert len(twice.detector.kinds) == 2 and change.added == 8
    once = twice.without_extension()
    assert len(once.detector.kinds) == 1 and len(once.made_of["extensions"]) == 1


@pytest.mark.slow
def test_what_is_known_is_no_extension(extended, blue_parts):
    more, _ = extended
    with pytest.raises(UserError, match="1 of 13 photographs are new"):
        more.extend(blue_parts[:13])
    older = replace(more, made_of={})
    with pytest.raises(UserError, match="does not say what it was made of"):
        older.extend(blue_parts)


@pytest.mark.slow
def test_a_detector_of_tiles_is_extended_by_photographs(fitted, part_images, blue_parts):
    tiled = replace(fitted, preprocessing=replace(fitted.preprocessing, tile=48, overlap=16))
    more, change = tiled.extend(blue_parts[:8])
    assert change.added == 8 and len(more.made_of["extensions"][0]["scores"]) == 8
    assert more.made_of["extensions"][0]["bank"] == 32
    assert (scores(more, blue_parts[8:12]) <= more.threshold).all()
