from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from ddad_jax.detection.calibration import calibrate
from ddad_jax.detection.detector import Settings
from ddad_jax.detection.evidence import Evidence, evidence_weights, score_evidence
from ddad_jax.errors import UserError
from ddad_jax.experiment import fitting
from ddad_jax.experiment.ablation import variants
from ddad_jax.experiment.choosing import Choice, can_choose, choose
from ddad_jax.experiment.fitting import build, evaluate_detector, fitted_detector
from ddad_jax.experiment.schema import Config

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


@pytest.mark.parametrize("seed", range(3))
def test_a_map_that_only_copies_does_not_count(seed):
    good, planted = drawn(seed, latent=0.0, patch=1.5, noise=4.0)
    found = choose(good, planted, ROWS, SETTINGS, seed)
    assert found.drops_reconstruction
    assert found.patches_alone > found.with_reconstruction + 0.05
    assert "do not count" in str(found)


@pytest.mark.parametrize("seed", range(3))
def test_a_map_that_sees_what_the_other_misses_counts(seed):
    good, planted = drawn(seed, latent=2.0, patch=1.0)
    found = choose(good, planted, ROWS, SETTINGS, seed)
    assert not found.drops_reconstruction
    assert found.with_reconstruction > found.patches_alone + 0.05
    assert found.gain[1] < 0


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
        dropped += choose(good, planted, ROWS, SETTINGS, seed).drops_reconstruction
    assert dropped <= 3


def test_both_are_image_auroc_by_scores_that_are_calibrated_alike():
    good, planted = drawn(0, latent=1.0, patch=1.0)
    found = choose(good, planted, ROWS, SETTINGS, 0)
    for settings, value in (
        (SETTINGS, found.with_reconstruction),
        (replace(SETTINGS, patch_weight=1.0), found.patches_alone),
    ):
        calibration = calibrate(good, settings, 0.01)
        scores = score_evidence(planted, calibration, settings)[1]
        labels = [0] * len(calibration.scores) + [1] * len(scores)
        expected = roc_auc_score(labels, np.concatenate([calibration.scores, scores]))
        assert value == pytest.approx(expected)


def test_there_is_a_choice_between_two_maps_on_enough_photographs():
    assert can_choose(SETTINGS, 5) and not can_choose(SETTINGS, 4)
    for changed in ({"scoring": "paper"}, {"patch_weight": 1.0}, {"patch_weight": 0.0}):
        assert not can_choose(replace(SETTINGS, **changed), 100)


@pytest.fixture
def planting(made):
    """The networks, with a choice by planted defects of the three held-out pictures."""
    config = made.category.config
    config = replace(config, build=replace(config.build, planted=8))
    return replace(made, category=made.category.variant(config, made.category.workdir))


def decided(monkeypatch, drops):
    gain = [0.1, 0.2] if drops else [-0.2, 0.1]
    seen = []

    def choice(good, planted, rows, *_):
        seen.append((len(good.noise_level), len(planted.noise_level), list(rows)))
        return Choice(len(rows), 0.7, 0.8, gain)

    monkeypatch.setattr(fitting, "can_choose", lambda *_: True)
    monkeypatch.setattr(fitting, "choose", choice)
    return seen


@pytest.mark.parametrize("drops", [False, True])
def test_a_detector_is_of_what_was_chosen(planting, monkeypatch, drops):
    seen = decided(monkeypatch, drops)
    config = planting.category.config
    fitted = build(planting, config.detector, config.build)
    ((good, planted, rows),) = seen
    assert good == 3 and planted == len(rows) and {*rows} <= {0, 1, 2}
    kinds = {"patch"} if drops else {"latent", "feature", "patch"}
    assert evidence_weights(fitted.detector.settings).keys() <= kinds
    assert (
        fitted.detector.calibration.scale.keys()
        == evidence_weights(fitted.detector.settings).keys()
    )
    assert fitted.made_of["choice"]["patches_alone"] == 0.8
    # The config's own weight is what it was made of.
    assert fitted.made_of["settings"]["detection.patch_weight"] == config.detection.patch_weight


def test_a_stored_detector_is_taken_with_what_was_chosen_for_it(planting, monkeypatch):
    decided(monkeypatch, True)
    first = fitted_detector(planting)
    monkeypatch.setattr(fitting, "choose", None)
    category = planting.category
    later = replace(planting, category=category.variant(category.config, category.workdir))
    again = fitted_detector(later)
    assert again.made_of == first.made_of
    assert again.detector.settings.patch_weight == 1.0


def test_the_papers_protocol_needs_the_maps_that_were_dropped(planting, monkeypatch):
    decided(monkeypatch, True)
    config = planting.category.config
    fitted = build(planting, config.detector, config.build)
    paper = replace(config, evaluation=replace(config.evaluation, protocol="paper"))
    category = planting.category.variant(paper, planting.category.workdir)
    with pytest.raises(UserError, match=r"do not count in .*--config.build.planted=0"):
        evaluate_detector(category, fitted)


def test_an_ablation_has_the_weights_that_it_names():
    assert Config().build.planted
    (row,) = variants(Config(), ["detection.patch_weight=0.5"])
    assert not row.config.build.planted
    (row,) = variants(Config(), ["build.planted=16"])
    assert row.config.build.planted == 16
