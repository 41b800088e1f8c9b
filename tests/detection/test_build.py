from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial.distance import cdist

from ddad_jax.detection.build import BuildSettings, fill_banks
from ddad_jax.detection.calibration import calibrate
from ddad_jax.detection.detect import detect
from ddad_jax.detection.evidence import gather_evidence, patch_distances
from ddad_jax.detection.foreground import is_in_foreground
from ddad_jax.detection.patches import compared, describe
from ddad_jax.detection.reconstruction import extract, to_network_range
from tests.conftest import calibrated_detector

PARTS = np.repeat(np.arange(10), 2)


@pytest.fixture(scope="module")
def build(detector, part_images):
    """Function: build settings, what differs -> a detector of the same networks."""
    variables = {
        name: getattr(detector, name)
        for name in ("autoencoder", "denoiser", "extractor", "latent_shift", "latent_scale")
    }
    # Of two images of one part each is the other's nearest neighbour.
    train_images = part_images[:10].repeat(2, axis=0)

    def build(
        settings, make=calibrated_detector, num_neighbours=1, leave_one_out=True, detection=(),
        **changed,
    ):  # fmt: skip
        arguments = {"train_images": train_images, "seed": 0}
        if make is calibrated_detector:
            arguments |= {"train_parts": PARTS, "heldout_images": part_images[14:]}
        return make(
            detector.networks,
            replace(
                detector.settings,
                num_neighbours=num_neighbours,
                leave_one_out=leave_one_out,
                **dict(detection),
            ),
            settings,
            **variables,
            alpha_bar=detector.alpha_bar,
            **arguments | changed,
        )

    return build


SETTINGS = BuildSettings(patch_bank_size=4096, batch_size=4)


@pytest.mark.slow
def test_a_training_image_is_calibrated_on_as_if_it_were_held_out(build, part_images):
    """Beside one held-out image, all others are fitted to: the scores must not show it."""
    fitted = build(SETTINGS, heldout_images=part_images[14:15])
    evidence = jax.tree.map(jnp.asarray, gather_evidence(fitted, part_images[:10]))
    naive = calibrate(evidence, fitted.settings, SETTINGS.false_alarm_rate)
    fresh = calibrate(
        gather_evidence(fitted, part_images[10:]), fitted.settings, SETTINGS.false_alarm_rate
    )
    # An image that is in the bank is at no distance of it.
    assert naive.scale["patch"][0] < 0.2 * fresh.scale["patch"][0]
    # Each scale is a median of ten peaks, which differ by a factor of ten among themselves.
    assert 1 / 1.6 < fitted.calibration.scale["patch"][0] / fresh.scale["patch"][0] < 1.6


@pytest.mark.slow
def test_the_banks_of_the_detector_hold_every_image(build):
    fitted, plain = build(SETTINGS), build(replace(SETTINGS, calibration_size=0))
    np.testing.assert_array_equal(fitted.bank, plain.bank)
    np.testing.assert_array_equal(fitted.patch_bank, plain.patch_bank)
    assert np.isfinite(fitted.patch_bank).all()
    assert float(fitted.calibration.threshold) != float(plain.calibration.threshold)


@pytest.mark.slow
def test_enough_held_out_images_are_calibrated_on_alone(build):
    enough = build(replace(SETTINGS, calibration_size=6))
    plain = build(replace(SETTINGS, calibration_size=0))
    assert float(enough.calibration.threshold) == float(plain.calibration.threshold)


def test_banks_of_photographs_in_several_squares_leave_out_whole_photographs(build, detector):
    """Ten photographs of two squares each, as tiles are; two of them show one part."""
    banks = build(SETTINGS, make=partial(fill_banks, train_latents=None))
    parts = np.array([0, 0, *range(1, 9)])
    seen = []
    for fold, chosen in banks.cross_fitted(
        parts, 10, 0, calibration=detector.calibration, counts=2
    ):
        missing = np.isnan(np.asarray(fold.bank)).all(axis=1)
        assert (missing.reshape(10, 2).all(axis=1) == missing.reshape(10, 2).any(axis=1)).all()
        left_out = np.flatnonzero(missing.reshape(10, 2).all(axis=1))
        assert {*chosen} == {*left_out} and (0 in left_out) == (1 in left_out)
        gone = np.isnan(np.asarray(fold.patch_bank)).all(axis=1)
        np.testing.assert_array_equal(gone, missing[banks.origins])
        seen += chosen.tolist()
    assert sorted(seen) == list(range(10))


@pytest.mark.slow
def test_a_single_part_cannot_be_left_out(build):
    fitted = build(SETTINGS, train_parts=np.zeros(20, int))
    assert np.isfinite(float(fitted.calibration.threshold))


@pytest.mark.parametrize("leave_one_out", [True, False])
def test_bins_span_what_each_training_image_is_away_from_the_others(build, leave_one_out):
    """Every image is there twice: left out, it has its twin; counted, it has itself besides."""
    banks = build(
        replace(SETTINGS, patch_candidates=20),
        make=partial(fill_banks, train_latents=None),
        num_neighbours=3, leave_one_out=leave_one_out,
    )  # fmt: skip
    bank = np.asarray(banks.detector.bank, np.float64)
    distances = cdist(bank, bank, "cityblock")
    if leave_one_out:
        np.fill_diagonal(distances, np.inf)
    nearest = np.sort(distances, axis=1)[:, :3].mean(axis=1)
    edges = np.linspace(nearest.min(), nearest.max(), 11)
    np.testing.assert_allclose(banks.detector.bin_edges, edges, rtol=1e-4)


def test_the_seed_draws_the_patches_and_every_image_gives_as_many(build):
    few = replace(SETTINGS, patch_candidates=60)
    first, again, other = (
        build(few, make=partial(fill_banks, train_latents=None), seed=seed) for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first.origins, np.repeat(np.arange(20), 3))
    np.testing.assert_array_equal(first.detector.patch_bank, again.detector.patch_bank)
    assert np.any(np.asarray(first.detector.patch_bank) != other.detector.patch_bank)


def test_patches_of_turned_images_may_join_the_bank(build, part_images):
    turned = jnp.asarray(np.rot90(part_images[:2], axes=(1, 2)))
    all_patches = replace(SETTINGS, patch_bank_size=2**14)
    furthest = []
    for settings in (all_patches, replace(all_patches, quarter_turns=True)):
        banks = build(settings, fill_banks, train_images=part_images[:2], train_latents=None)
        d = banks.detector
        pixels = to_network_range(turned, d.settings.image_size)
        features = extract(d.networks.extractor, d.extractor, pixels)
        furthest.append(float(patch_distances(d, features)["patch"].max()))
        assert banks.origins.max() == 1 and len(d.bank) == 2
    assert furthest[1] < 1e-2 < furthest[0]


def features_of(d, images):
    pixels = to_network_range(jnp.asarray(images), d.settings.image_size)
    return extract(d.networks.extractor, d.extractor, pixels)


def described_by(d, images):
    return describe([features_of(d, images)[stage - 1] for stage in d.settings.patch_stages])


def test_a_bank_may_hold_every_candidate(build, part_images):
    whole = replace(SETTINGS, patch_bank_size=0)
    banks = build(whole, fill_banks, train_images=part_images[:2], train_latents=None)
    d = banks.detector
    described = described_by(d, part_images[:2])
    rows = np.asarray(described * d.patch_scale).reshape(-1, described.shape[-1])
    assert d.patch_bank.shape == rows.shape
    assert cdist(rows, d.patch_bank).min(1).max() < 1e-4
    np.testing.assert_array_equal(np.bincount(banks.origins), [len(rows) // 2] * 2)
    assert whole.most_patches == whole.patch_candidates
    assert replace(whole, quarter_turns=True).most_patches == 4 * whole.patch_candidates


def test_a_bank_by_the_cosine_has_rows_of_length_one(build, part_images):
    few = replace(SETTINGS, patch_bank_size=50)
    banks = build(few, fill_banks, train_latents=None, detection={"patch_metric": "cosine"})
    d = banks.detector
    np.testing.assert_allclose(np.linalg.norm(d.patch_bank, axis=1), 1.0, rtol=1e-5)
    found = patch_distances(d, features_of(d, part_images[14:16]))["patch"]
    points = np.asarray(compared(described_by(d, part_images[14:16]), d.patch_scale, d.settings))
    expected = cdist(points.reshape(-1, points.shape[-1]), d.patch_bank, "cosine").min(1)
    np.testing.assert_allclose(np.ravel(found), expected, atol=1e-5)


def test_a_score_by_the_cosine_compares_with_the_same_bank_as_the_map(build, part_images):
    few = replace(SETTINGS, patch_bank_size=50)
    banks = build(few, fill_banks, train_latents=None, detection={"score_metric": "cosine"})
    by_map = build(few, fill_banks, train_latents=None)
    np.testing.assert_array_equal(banks.detector.patch_bank, by_map.detector.patch_bank)
    # Of a bank whose rows are hidden, the others are the nearest.
    hidden = np.arange(50) < 20
    none = np.zeros(len(banks.detector.bank), bool)
    features = features_of(by_map.detector, part_images[14:16])
    for d in (banks.detector, banks.hiding(none, hidden)):
        found = patch_distances(d, features)
        points = compared(described_by(d, part_images[14:16]), d.patch_scale, d.settings)
        points = np.asarray(points).reshape(-1, points.shape[-1])
        bank = np.asarray(d.patch_bank)
        bank = bank[~np.isnan(bank).any(1)]
        assert len(bank) == (50 if d is banks.detector else 30)
        for name, metric in (("patch", "euclidean"), ("cosine", "cosine")):
            expected = cdist(points, bank, metric).min(1)
            np.testing.assert_allclose(np.ravel(found[name]), expected, atol=2e-4)
    assert patch_distances(by_map.detector, features).keys() == {"patch"}


@pytest.mark.slow
def test_the_background_is_in_no_bank_and_at_no_distance(build, part_images, monkeypatch):
    """The drawn features of these parts know no middle: here the upper half is the part."""

    def upper_half(described, _):
        rows = np.arange(described.shape[1])[None, :, None, None]
        points = described.reshape(-1, described.shape[-1])
        side = np.broadcast_to(np.where(rows < 4, 1.0, -1.0), (*described.shape[:3], 1)).ravel()
        weights = np.linalg.lstsq(np.c_[points, np.ones(len(points))], side, rcond=None)[0]
        return weights.astype(np.float32)

    monkeypatch.setattr("ddad_jax.detection.build.find_foreground", upper_half)
    whole = replace(SETTINGS, patch_bank_size=0, patch_candidates=2**14)
    banks = build(
        whole, fill_banks, train_images=part_images[:8], train_latents=None,
        detection={"foreground": True},
    )  # fmt: skip
    d = banks.detector
    masks = np.asarray(is_in_foreground(described_by(d, part_images[:8]), d.foreground))
    assert 0.2 < masks.mean() < 0.95
    np.testing.assert_array_equal(np.bincount(banks.origins), masks.sum((1, 2)))
    fresh = part_images[14:]
    shown = np.asarray(is_in_foreground(described_by(d, fresh), d.foreground))
    found, everywhere = (
        np.asarray(patch_distances(each, features_of(each, fresh))["patch"])
        for each in (d, d.replace(settings=replace(d.settings, foreground=False)))
    )
    assert (~shown).any() and (found[~shown] == 0).all()
    np.testing.assert_array_equal(found[shown], everywhere[shown])


@pytest.mark.slow
@pytest.mark.parametrize("by_cosine", ["patch_metric", "score_metric"])
def test_patches_of_all_settings_together_are_judged_alone(build, part_images, by_cosine):
    settings = {by_cosine: "cosine", "foreground": True, "score_share": 0.02}
    d = build(replace(SETTINGS, patch_bank_size=200), detection=settings)
    together = jax.device_get(detect(d, part_images[14:18]))
    alone = jax.device_get(detect(d, part_images[16:17]))
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[0], b[2]), alone, together)
    heat = np.sort(together.anomaly_map.reshape(4, -1).astype(np.float64), axis=1)
    is_of_map = np.isclose(together.score, heat[:, -82:].mean(1), rtol=1e-5, atol=0)
    assert is_of_map.all() if by_cosine == "patch_metric" else not is_of_map.any()


def test_banks_of_some_images_hide_those_alone(build, detector):
    """Of twenty images the last six: no row of the others is ever hidden."""
    banks = build(SETTINGS, make=partial(fill_banks, train_latents=None)).of_images(14, 6)
    hidden = set()
    for fold, chosen in banks.cross_fitted(np.arange(6), 6, 0, calibration=detector.calibration):
        missing = np.flatnonzero(np.isnan(np.asarray(fold.bank)).all(axis=1))
        assert {*chosen + 14} == {*missing}
        gone = np.isnan(np.asarray(fold.patch_bank)).all(axis=1)
        np.testing.assert_array_equal(gone, np.isin(banks.origins + 14, missing))
        hidden |= {*missing}
    assert hidden == {*range(14, 20)}


def test_rows_of_the_bank_are_of_the_kinds_that_are_given(build):
    kinds = np.repeat([0, 1, 2], [5, 5, 10])
    banks = build(SETTINGS, make=partial(fill_banks, train_latents=None), train_kinds=kinds)
    np.testing.assert_array_equal(banks.detector.bank_kind, kinds)
