import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from ddad_jax.data.image_set import joined
from ddad_jax.deploy.fitted import load_detector
from ddad_jax.detection.detect import detect
from ddad_jax.detection.threshold import fit_threshold
from ddad_jax.errors import UserError
from ddad_jax.experiment.asking import validate_detector
from ddad_jax.experiment.category import SPLIT
from ddad_jax.experiment.fitting import build, detector_to_evaluate, fitted_detector
from ddad_jax.experiment.scoring import score
from ddad_jax.experiment.trained import Trained
from tests.tiny import drawn

NAMES = ["blue", "green", "red"]


@pytest.fixture(scope="module")
def unified(open_colours, tmp_path_factory):
    (subject,) = open_colours(tmp_path_factory.mktemp("run"), "data.unified=True")
    return subject


@pytest.fixture(scope="module")
def networks(unified):
    """Networks of the three, drawn."""
    return Trained(
        unified,
        pretrained_extractor=drawn(unified.networks.extractor, 0),
        autoencoder={},
        denoiser=drawn(unified.networks.denoiser, 2),
        extractor=drawn(unified.networks.extractor, 0),
    )


@pytest.fixture(scope="module")
def fitted(networks):
    """A detector of the three, each calibrated on what is held out of it."""
    config = networks.subject.config
    return build(networks, config.detector, config.build)


def test_each_category_holds_out_what_it_would_alone(unified, open_colours, tmp_path):
    alone = open_colours(tmp_path)
    assert [each.name for each in unified.categories] == [each.name for each in alone] == NAMES
    for together, by_itself in zip(unified.categories, alone, strict=True):
        for one, other in zip(together.division, by_itself.division, strict=True):
            assert one.contents == other.contents
        assert (together.workdir / SPLIT).exists()
    for part in (0, 1):
        contents = [c for each in alone for c in each.division[part].contents]
        assert list(unified.division[part].contents) == contents
        squares = np.concatenate([each.division[part].squares for each in alone])
        np.testing.assert_array_equal(unified.division[part].squares, squares)


def test_training_draws_pictures_of_every_category(unified):
    drawn_ones = {int(each.mean((0, 1)).argmax()) for each in unified.sampled_images}
    assert drawn_ones == {0, 1, 2}


def test_sets_are_joined_photograph_by_photograph(unified):
    """Of photographs in two squares each: those of the second set follow the first's."""
    sets = [each.images["test"] for each in unified.categories[:2]]
    tiled = [replace(each, squares=each.squares.repeat(2, axis=0), starts=2 * each.starts)
             for each in sets]  # fmt: skip
    both = joined(tiled)
    assert both.starts.tolist() == [0, 2, 4, 6, 8, 10, 12]
    for row, sample in enumerate(both.samples):
        own = next(each for each in sets if sample in each.samples)
        place = own.samples.index(sample)
        for square in both.squares[both.starts[row] : both.starts[row + 1]]:
            np.testing.assert_array_equal(square, own.squares[place])
        assert both.contents[row] == own.contents[place]
        np.testing.assert_array_equal(both.masks[row], own.masks[place])


@pytest.mark.slow
def test_the_banks_are_of_all_and_say_which_kind_each_row_is(unified, fitted):
    counts = [len(each.division[0]) for each in unified.categories]
    kinds = np.asarray(fitted.detector.bank_kind)
    np.testing.assert_array_equal(kinds, np.repeat([0, 1, 2], counts))
    assert fitted.detector.kind_names == ("blue", "green", "red")
    assert fitted.made_of["categories"] == NAMES
    # A photograph of the bank is of the kind of its row.
    found = detect(fitted.detector, unified.train_images)
    np.testing.assert_array_equal(found.kind, kinds)


@pytest.mark.slow
def test_each_category_is_calibrated_on_what_is_held_out_of_it(unified, fitted):
    """So it scores as in calibration, times what brings its threshold to that of the first."""
    d = fitted.detector
    scores = [fitted.scores, *(np.array(each["scores"]) for each in fitted.made_of["kinds"])]
    factors = [1.0, *(float(kind.factor) for kind in d.kinds)]
    rate = unified.config.build.false_alarm_rate
    for category, own, factor in zip(unified.categories, scores, factors, strict=True):
        found = detect(d, category.heldout_images).score
        np.testing.assert_allclose(found, factor * own, rtol=1e-4)
        threshold = factor * fit_threshold(own, rate)[0]
        assert threshold == pytest.approx(fitted.threshold, rel=1e-4)
    assert len({round(factor, 4) for factor in factors}) == 3


@pytest.mark.slow
def test_each_category_has_the_pixel_threshold_of_its_own_good_pixels(unified, fitted):
    for category in unified.categories:
        maps = np.float64(detect(fitted.detector, category.heldout_images).anomaly_map)
        expected = maps.mean() + 3.0 * maps.std()
        assert fitted.sigma_threshold_of(category.name) == pytest.approx(expected, rel=1e-4)
        found = validate_detector(category, fitted, category.division[1])
        assert found.sigma_threshold == fitted.sigma_threshold_of(category.name)


@pytest.mark.slow
def test_training_images_that_join_are_hidden_from_their_own_categorys_part(networks):
    """Of each category all of its images are calibrated on, in the banks of all others."""
    config = networks.subject.config
    settings = replace(config.build, calibration_size=100)
    fitted = build(networks, config.detector, settings)
    counts = [sum(map(len, each.division)) for each in networks.subject.categories]
    scores = [fitted.scores, *(each["scores"] for each in fitted.made_of["kinds"])]
    assert [len(each) for each in scores] == counts == [10, 9, 8]


def test_another_rate_gives_each_category_a_threshold_of_its_own(fitted, tmp_path):
    fitted.save(tmp_path / "d.safetensors")
    loaded = load_detector(tmp_path / "d.safetensors")
    assert loaded.detector.kind_names == fitted.detector.kind_names
    other = loaded.with_false_alarm_rate(0.2)
    for kind, of in zip(other.detector.kinds, other.made_of["kinds"], strict=True):
        own = fit_threshold(np.array(of["scores"]), 0.2)[0]
        assert float(kind.factor) * own == pytest.approx(other.threshold, rel=1e-4)
    again = other.with_calibrated_threshold()
    assert again.threshold == pytest.approx(fitted.threshold)
    for kind, first in zip(again.detector.kinds, fitted.detector.kinds, strict=True):
        assert float(kind.factor) == pytest.approx(float(first.factor))


@pytest.mark.slow
def test_a_prediction_says_which_category_a_photograph_is_taken_for(unified, fitted):
    for category in unified.categories:
        prediction = fitted.predict(np.array(category.heldout_images[0]))
        assert prediction.kind == category.name
        assert f"taken for {category.name}" in repr(prediction)


@pytest.mark.slow
def test_it_is_extended_by_a_further_kind_which_can_be_undone(fitted):
    grey = np.random.default_rng(3).normal(200, 4, (4, 32, 32, 3)).clip(0, 255).astype(np.uint8)
    more, _ = fitted.extend(list(grey))
    assert more.detector.kind_names == ("blue", "green", "red", "extension 1")
    assert more.predict(grey[0]).kind == "extension 1"
    for rate in (0.01, 0.2):
        # All kinds have their own scores.
        assert len(more.with_false_alarm_rate(rate).detector.kinds) == 3
    before = more.without_extension()
    assert before.detector.kind_names == fitted.detector.kind_names
    np.testing.assert_array_equal(before.detector.bank, fitted.detector.bank)
    with pytest.raises(UserError, match="never extended"):
        before.without_extension()


@pytest.mark.slow
def test_of_tiled_photographs_each_category_is_calibrated_on_its_own(open_colours, tmp_path):
    (tiled,) = open_colours(tmp_path, "data.unified=True", "data.tiling.tile=16")
    extractor = drawn(tiled.networks.extractor, 0)
    made = Trained(tiled, extractor, {}, drawn(tiled.networks.denoiser, 2), extractor)
    fitted = build(made, tiled.config.detector, tiled.config.build)
    counts = [len(each.division[1]) for each in tiled.categories]
    scores = [fitted.scores, *(each["scores"] for each in fitted.made_of["kinds"])]
    assert [len(each) for each in scores] == counts
    for category, own in zip(tiled.categories, scores, strict=True):
        (sample, *_) = category.division[1].samples
        found = fitted.predict(category.source.read_image(sample))
        assert found.kind == category.name
        share = found.score / fitted.threshold
        assert share == pytest.approx(own[0] / fit_threshold(np.array(own), 0.01)[0], rel=1e-3)
    more, _ = fitted.extend([np.full((32, 32, 3), 200 + 9 * each, np.uint8) for each in range(3)])
    assert len(more.detector.kinds) == 3


def test_a_stored_detector_is_used_as_it_is_unless_it_is_of_other_categories(
    networks, open_colours, unified
):
    first = fitted_detector(networks)
    config, workdir = unified.config, unified.workdir
    later = replace(networks, subject=unified.variant(config, workdir))
    assert fitted_detector(later).made_of == first.made_of
    (two,) = open_colours(workdir, "data.unified=True", "data.category=green,red")
    with pytest.raises(UserError, match="made with other settings: categories differ: 1 gone"):
        detector_to_evaluate(two)


@pytest.mark.slow
def test_what_is_found_is_measured_category_by_category(unified, fitted):
    parts = score(unified, fitted)
    assert [part.name for part in parts] == NAMES
    for category, part in zip(unified.categories, parts, strict=True):
        counts = part.metrics["counts"]
        assert (counts["normal"], counts["anomalous"]) == (2, 1)
        assert part.metrics["taken_for"] == {}
        written = json.loads((category.workdir / "metrics.json").read_text())
        assert written["image_auroc"] == part.metrics["image_auroc"]


@pytest.mark.slow
def test_images_that_are_taken_for_another_category_are_counted(unified, fitted):
    """All rows of the bank are said to be of green parts."""
    d = fitted.detector
    mistaken = replace(fitted, detector=d.replace(bank_kind=np.ones_like(d.bank_kind)))
    blue, green, red = score(unified, mistaken)
    assert blue.metrics["taken_for"] == red.metrics["taken_for"] == {"green": 3}
    assert green.metrics["taken_for"] == {}


@pytest.mark.slow
def test_evidence_of_a_category_alone_is_as_by_the_same_banks(networks, fitted):
    """A calibration is that which `calibrate` makes of the category's own evidence."""
    category = networks.subject.categories[2]
    config, d = category.config, fitted.detector
    plain = d.replace(kinds=(), kind_names=())
    found = detect(plain, category.heldout_images)
    for name, location in d.kinds[1].location.items():
        assert float(location[0, 0, 0]) == pytest.approx(float(np.median(found.maps[name])))
    assert config.data.category == "red"


@pytest.mark.parametrize(
    "assignments, message",
    [
        (["data.category=red"], "data.unified: is for several categories, but there is only 'red'"),
        (["data.category=red,red"], "data.category: 'red,red' has an empty or a repeated name"),
        (["data.category=red,"], "data.category: 'red,' has an empty or a repeated name"),
        (["data.category=red,pink"], "data.category: 'pink' is not in .*; there are blue, green"),
        (
            ["data.category_augmentation={'red': {'max_rotation': 5.0}}"],
            "data.category_augmentation: is for networks of one category",
        ),
    ],
)
def test_what_cannot_be_unified_is_said(open_colours, tmp_path, assignments, message):
    with pytest.raises(UserError, match=message):
        open_colours(tmp_path, "data.unified=True", *assignments)


def test_several_may_be_named_one_after_the_other(open_colours, tmp_path):
    found = open_colours(tmp_path, "data.category=red, blue")
    assert [each.name for each in found] == ["red", "blue"]
    assert [each.workdir for each in found] == [tmp_path / "red", tmp_path / "blue"]


def test_one_folder_holds_detectors_of_one_way_alone(open_colours, tmp_path):
    (tmp_path / "red").mkdir()
    (tmp_path / "red/detector.safetensors").touch()
    with pytest.raises(UserError, match="holds a detector of red alone, but with data.unified"):
        open_colours(tmp_path, "data.unified=True")
    (tmp_path / "red/detector.safetensors").rename(tmp_path / "detector.safetensors")
    open_colours(tmp_path, "data.unified=True")
    with pytest.raises(UserError, match="holds one detector, but 3 categories get one each"):
        open_colours(tmp_path)


def test_categories_that_share_an_image_are_refused(open_colours, tmp_path):
    for name in ("nut", "bolt"):
        home = tmp_path / "data" / name / "train/good"
        home.mkdir(parents=True)
        for number in range(3):
            grey = 9 if number == 0 else 50 * number + len(name)
            Image.fromarray(np.full((32, 32, 3), grey, np.uint8)).save(home / f"{number}.png")
    root = f"data.root={tmp_path}/data"
    (subject,) = open_colours(tmp_path / "run", root, "data.unified=True")
    with pytest.raises(UserError, match="bolt and nut have a good image in common"):
        _ = subject.division
