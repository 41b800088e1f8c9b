from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import roc_auc_score

from ddad_jax import pretrained
from ddad_jax.detection.calibration import calibrate
from ddad_jax.detection.detector import Settings
from ddad_jax.detection.evidence import Evidence, evidence_weights, score_evidence
from ddad_jax.errors import UserError
from ddad_jax.experiment import fitting
from ddad_jax.experiment.ablation import _adapted, variants
from ddad_jax.experiment.asking import evaluate_detector
from ddad_jax.experiment.category import Category
from ddad_jax.experiment.choosing import (
    Choice,
    can_drop_reconstruction,
    choose,
    outranks,
    patches_alone,
)
from ddad_jax.experiment.fitting import build, fitted_detector
from ddad_jax.experiment.schema import Config
from ddad_jax.experiment.trained import load_networks

SIZE = 16
SETTINGS = Settings(image_size=SIZE, blur=0.0, latent_weight=1.0, patch_weight=0.65)
PHOTOGRAPHS, OTHERS, DEFECTS = 20, 20, 8
ROWS = np.arange(PHOTOGRAPHS).repeat(DEFECTS).tolist()


def evidence(latent, patch):
    """Of one noise level: maps that are dark but for one pixel, which has these values."""
    maps = np.zeros((2, len(latent), SIZE, SIZE))
    maps[:, :, 5, 7] = latent, patch
    return Evidence(
        maps={"latent": jnp.asarray(maps[0]), "patch": jnp.asarray(maps[1])},
        extremes={},
        noise_level=jnp.full(len(latent), 80),
        knn_distance=None,
        reconstructed_knn_distance=None,
        reconstruction=None,
        kind=None,
    )


def drawn(seed, latent, patch, noise=1.0):
    """Good images and defects, that much higher in either map; `noise` is the latent map's own."""
    rng = np.random.default_rng(seed)
    good = evidence(*(10 + rng.normal(0, each, PHOTOGRAPHS + OTHERS) for each in (noise, 1.0)))
    planted = evidence(
        *(10 + by + rng.normal(0, each, len(ROWS)) for by, each in ((latent, noise), (patch, 1.0)))
    )
    return good, planted


def of_patches_alone(good, planted, seed):
    """What is chosen between both maps and the patch map alone."""
    alone, both = (outranks(good, planted, each) for each in (patches_alone(SETTINGS), SETTINGS))
    return choose(alone, both, ROWS, seed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_a_map_that_only_copies_does_not_count(seed):
    good, planted = drawn(seed, latent=0.0, patch=1.5, noise=4.0)
    found = of_patches_alone(good, planted, seed)
    assert found.taken and found.record["taken"]
    assert found.with_it > found.without + 0.05
    assert str(found).startswith("is used: image AUROC of 160 planted defects")


@pytest.mark.parametrize("seed", range(3))
def test_a_map_that_sees_what_the_other_misses_counts(seed):
    good, planted = drawn(seed, latent=2.0, patch=1.0)
    found = of_patches_alone(good, planted, seed)
    assert not found.taken and not found.record["taken"]
    assert found.without > found.with_it + 0.05
    assert found.gain[1] < 0
    assert "is not used" in str(found)


def test_what_may_be_chance_changes_nothing():
    """Of twenty draws from one distribution for both, 95 % intervals let next to none decide."""
    dropped = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        of_photograph = rng.normal(0, 2.0, PHOTOGRAPHS).repeat(DEFECTS)
        good, planted = drawn(seed, latent=1.0, patch=1.0)
        for maps in planted.maps:
            # What a photograph's defects have in common is seen but once.
            sign = 1 if maps == "patch" else -1
            planted.maps[maps] = planted.maps[maps].at[:, 5, 7].add(sign * of_photograph)
        dropped += of_patches_alone(good, planted, seed).taken
    assert dropped <= 3


def test_both_are_image_auroc_by_scores_that_are_calibrated_alike():
    good, planted = drawn(0, latent=1.0, patch=1.0)
    found = of_patches_alone(good, planted, 0)
    for settings, value in ((SETTINGS, found.without), (patches_alone(SETTINGS), found.with_it)):
        calibration = calibrate(good, settings, 0.01)
        scores = score_evidence(planted, calibration, settings)[1]
        labels = [0] * len(calibration.scores) + [1] * len(scores)
        expected = roc_auc_score(labels, np.concatenate([calibration.scores, scores]))
        assert value == pytest.approx(expected)


def test_the_reconstruction_can_be_dropped_where_two_maps_count():
    assert can_drop_reconstruction(SETTINGS)
    for changed in ({"scoring": "paper"}, {"patch_weight": 1.0}, {"patch_weight": 0.0}):
        assert not can_drop_reconstruction(replace(SETTINGS, **changed))


@pytest.fixture
def planting(made):
    """The networks, with a choice by planted defects of the three held-out pictures."""
    config = made.subject.config
    config = replace(
        config,
        build=replace(config.build, planted=8),
        detection=replace(config.detection, score_metric="map"),
    )
    category = made.subject.variant(config, made.subject.workdir)
    return replace(made, subject=category, extractor=made.pretrained_extractor)


def decided(monkeypatch, drops):
    gain = [0.1, 0.2] if drops else [-0.2, 0.1]
    seen = []

    def choice(with_it, without, rows, *_):
        seen.append((with_it.shape, list(rows)))
        return Choice(len(rows), 0.8, 0.7, gain)

    monkeypatch.setattr(Category, "undecided", "")
    monkeypatch.setattr(fitting, "choose", choice)
    return seen


@pytest.mark.slow
@pytest.mark.parametrize("drops", [False, True])
def test_a_detector_is_of_what_was_chosen(planting, monkeypatch, drops):
    seen = decided(monkeypatch, drops)
    config = planting.subject.config
    fitted = build(planting, config.detector, config.build)
    ((shape, rows),) = seen
    assert shape == (len(rows), 3) and {*rows} <= {0, 1, 2}
    kinds = {"patch"} if drops else {"latent", "feature", "patch"}
    assert evidence_weights(fitted.detector.settings).keys() <= kinds
    assert (
        fitted.detector.calibration.scale.keys()
        == evidence_weights(fitted.detector.settings).keys()
    )
    assert fitted.made_of["choice"] == {
        "patch_map_alone": Choice(len(rows), 0.8, 0.7, [0.1, 0.2] if drops else [-0.2, 0.1]).record
    }
    # The config's own weight is what it was made of.
    assert fitted.made_of["settings"]["detection.patch_weight"] == config.detection.patch_weight


@pytest.mark.slow
@pytest.mark.parametrize("better", [False, True])
def test_scores_compare_patches_by_what_tells_more_defects(planting, monkeypatch, better):
    compared = []

    def choice(with_it, without, rows, seed, clearly=True):
        compared.append((with_it, without, clearly))
        return Choice(len(rows), 0.7 + 0.1 * better, 0.75, [-0.2, 0.2], clearly)

    monkeypatch.setattr(Category, "undecided", "")
    monkeypatch.setattr(fitting, "choose", choice)
    config = planting.subject.config
    asked = replace(config.detector, score_metric="planted")
    fitted = build(planting, asked, config.build)
    # What is no clearer than chance decides between equals, and leaves the maps as they are.
    assert [clearly for *_, clearly in compared] == [False, True]
    assert fitted.made_of["choice"]["score_by_cosine"]["taken"] == better
    taken = replace(asked, score_metric="cosine" if better else "map")
    assert fitted.detector.settings == taken
    expected = build(planting, taken, replace(config.build, planted=0))
    jax.tree.map(np.testing.assert_array_equal, fitted.detector, expected.detector)
    (by_cosine, by_map, _), (_, with_maps, _) = compared
    np.testing.assert_array_equal(with_maps, by_cosine if better else by_map)


@pytest.mark.parametrize("changes", [{"planted": 0}, {"planted": 8}])
def test_the_score_is_of_the_map_where_nothing_can_tell(planting, changes):
    """The three held-out pictures are too few."""
    config = planting.subject.config
    asked = replace(config.detector, score_metric="planted")
    fitted = build(planting, asked, replace(config.build, **changes))
    assert fitted.detector.settings.score_metric == "map"
    assert "choice" not in fitted.made_of


def test_what_is_better_by_chance_is_taken_only_where_that_is_enough():
    assert not Choice(8, 0.8, 0.7, [-0.1, 0.3]).taken
    assert Choice(8, 0.8, 0.7, [-0.1, 0.3], clearly=False).taken
    assert not Choice(8, 0.7, 0.7, [0.0, 0.0], clearly=False).taken


def test_a_stored_detector_is_taken_with_what_was_chosen_for_it(planting, monkeypatch):
    decided(monkeypatch, True)
    first = fitted_detector(planting)
    monkeypatch.setattr(fitting, "choose", None)
    category = planting.subject
    later = replace(planting, subject=category.variant(category.config, category.workdir))
    again = fitted_detector(later)
    assert again.made_of == first.made_of
    assert again.detector.settings.patch_weight == 1.0


def test_the_papers_protocol_needs_the_maps_that_were_dropped(planting, monkeypatch):
    decided(monkeypatch, True)
    config = planting.subject.config
    fitted = build(planting, config.detector, config.build)
    paper = replace(config, evaluation=replace(config.evaluation, protocol="paper"))
    category = planting.subject.variant(paper, planting.subject.workdir)
    with pytest.raises(UserError, match=r"are not used in .*--config.build.planted=0"):
        evaluate_detector(category, fitted)


def test_an_ablation_has_the_weights_that_it_names():
    assert Config().build.planted
    (row,) = variants(Config(), ["detection.patch_weight=0.5"])
    assert not row.config.build.planted
    (row,) = variants(Config(), ["build.planted=16"])
    assert row.config.build.planted == 16


ADAPTING = (
    "data.heldout_fraction=0.5", "detection.patch_weight=1.0", "detection.blur=0.5",
    "detection.score_metric=map", "build.planted=48", "build.calibration_size=9",
)  # fmt: skip


@pytest.fixture(scope="module")
def adapting(made, open_category, tmp_path_factory):
    """Networks of twelve pictures that are alike, six of them held out; the extractor is drawn."""
    folder, rng = tmp_path_factory.mktemp("alike"), np.random.default_rng(0)
    for number in range(12):
        pixels = np.clip(rng.normal(120, 0.5, (32, 32, 3)), 0, 255)
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number:02d}.png")
    category = open_category(f"data.root={folder}", *ADAPTING)
    return replace(made, subject=category, extractor=made.pretrained_extractor)


def blinded(extractor):
    """The same, but it sees the same in every image."""
    return {**extractor, "params": jax.tree.map(jnp.zeros_like, extractor["params"])}


@pytest.mark.slow
@pytest.mark.parametrize("helps", [False, True])
def test_an_adaptation_counts_where_it_helps(adapting, helps, caplog, monkeypatch):
    compared = []

    def noted(with_it, without, *rest):
        compared.extend([with_it.shape, without.shape])
        return choose(with_it, without, *rest)

    monkeypatch.setattr(fitting, "choose", noted)
    seeing, blind = adapting.extractor, blinded(adapting.extractor)
    before, after = (blind, seeing) if helps else (seeing, blind)
    made = replace(adapting, pretrained_extractor=before, extractor=after)
    config = made.subject.config
    with caplog.at_level("INFO"):
        fitted = build(made, config.detector, config.build)
    (choice,) = fitted.made_of["choice"].values()
    assert choice["taken"] == helps
    # Good images from which an extractor may have learnt are calibrated on, and not compared with.
    assert len(fitted.scores) == 9 and {*compared} == {(choice["defects"], 6)}
    # Nothing is told apart where all look the same.
    assert choice["without" if helps else "with_it"] == 0.5
    assert choice["with_it" if helps else "without"] > 0.7
    said = "is used" if helps else "is not used"
    assert f"the adapted extractor {said}: image AUROC of {choice['defects']}" in caplog.text
    # Either way the detector is that of the extractor which is taken, as if there were no other.
    alone = replace(made, pretrained_extractor=seeing, extractor=seeing)
    expected = build(alone, config.detector, config.build)
    assert "choice" not in expected.made_of
    jax.tree.map(np.testing.assert_array_equal, fitted.detector, expected.detector)


@pytest.mark.slow
def test_an_adaptation_at_far_too_high_a_rate_is_not_taken_now_or_later(adapting, caplog):
    """A step of AdamW moves every parameter by about its rate."""
    rng = np.random.default_rng(0)
    far = jax.tree.map(
        lambda leaf: leaf + 1000 * rng.choice([-1, 1], leaf.shape), adapting.extractor["params"]
    )
    made = replace(adapting, extractor={**adapting.extractor, "params": far})
    assert made.is_adapted and not adapting.is_adapted
    fitted = fitted_detector(made)
    assert not fitted.made_of["choice"]["adapted_extractor"]["taken"]
    published = made.pretrained_extractor
    jax.tree.map(np.testing.assert_array_equal, fitted.detector.extractor, published)
    # The next command takes the detector as it is.
    config, category = made.subject.config, made.subject
    later = replace(made, subject=category.variant(config, category.workdir))
    with caplog.at_level("INFO"):
        assert fitted_detector(later).made_of == fitted.made_of
    assert "used as it is" in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{"planted": 0}, {"scoring": "paper"}])
def test_an_adaptation_counts_unasked_in_the_papers_way_and_where_nothing_is_planted(
    adapting, changes
):
    made = replace(adapting, extractor=blinded(adapting.extractor))
    config = made.subject.config
    settings = replace(config.detector, scoring=changes.get("scoring", "fused"))
    asked = replace(config.build, planted=changes.get("planted", 16))
    fitted = build(made, settings, asked)
    assert "choice" not in fitted.made_of
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(fitted.detector.extractor["params"]))


STEPS = ("extractor.training.steps=2", "extractor.training.batch_size=2")


@pytest.mark.parametrize(
    ("assignments", "reason"),
    [
        (("build.planted=8",), "3 held-out photographs are too few (5 are needed)"),
        (("build.planted=8", "data.tiling.tile=16"), "cannot decide for tiled photographs"),
        (("build.planted=8", "data.heldout_fraction=0.5"), ""),
        (("build.planted=0",), ""),
        (("build.planted=8", "detection.scoring=paper"), ""),
        (("build.planted=8", "data.tiling.tile=16", "detection.scoring=paper"), ""),
    ],
)
def test_nothing_is_adapted_where_nothing_can_tell_whether_it_helps(
    made, open_category, tmp_path, caplog, assignments, reason
):
    weights = tmp_path / "extractor.safetensors"
    pretrained.save(made.pretrained_extractor, made.subject.networks.extractor, weights)
    category = open_category(f"extractor.weights={weights}", *STEPS, *assignments)
    loaded = load_networks(category)
    assert (loaded.extractor is loaded.pretrained_extractor) == bool(reason)
    assert loaded.undecided.endswith(reason)
    assert ("the extractor is not adapted" in caplog.text) == bool(reason)


def test_a_row_that_plants_nothing_is_adapted(made, open_category):
    """Whatever the config that is varied says."""
    category = open_category("build.planted=8", *STEPS)
    base = replace(made, subject=category, extractor=made.pretrained_extractor)
    (row,) = variants(category.config, ["detection.blur=1.0"])
    adapted = _adapted(base, row.config)
    assert adapted.extractor is None and adapted.subject.workdir != category.workdir
    (row,) = variants(category.config, ["build.planted=16"])
    assert _adapted(base, row.config).extractor is made.pretrained_extractor
