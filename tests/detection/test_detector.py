import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddad_jax.detection import anomaly_map
from ddad_jax.detection.batching import batched, concatenate
from ddad_jax.detection.detect import detect
from ddad_jax.detection.evidence import gather_evidence, score_evidence


@pytest.fixture(scope="module")
def images(part_images):
    """Parts that are in no bank, where distances are not all rounding."""
    return part_images[14:]


@pytest.fixture(scope="module")
def together(detector, images):
    return jax.device_get(detect(detector, images))


@pytest.fixture(scope="module")
def ranges(together):
    return jax.tree.map(lambda array: max(float(np.ptp(np.float64(array))), 1e-3), together)


def with_settings(detector, **changes):
    return detector.replace(settings=dataclasses.replace(detector.settings, **changes))


def assert_same(found, expected, ranges):
    """Equal to a ten-thousandth of the range over all images; a byte may round to its neighbour."""
    leaves = (jax.tree.leaves(tree) for tree in (found, expected, ranges))
    for a, b, span in zip(*leaves, strict=True):
        allowed = max(1e-4 * span, float(b.dtype == np.uint8))
        np.testing.assert_allclose(np.float64(a), np.float64(b), rtol=0, atol=allowed)


def assert_same_bits(found, expected):
    for a, b in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("row", [0, 5])
def test_an_image_is_judged_alone(detector, images, together, row):
    alone = detect(detector, images[row : row + 1])
    assert_same_bits(alone, jax.tree.map(lambda array: array[row : row + 1], together))


def test_permuting_a_batch_permutes_the_result(detector, images, together):
    order = np.array([3, 0, 5, 1, 4, 2])
    found = detect(detector, images[order])
    assert_same_bits(found, jax.tree.map(lambda array: array[order], together))


def test_the_same_input_gives_the_same_bits(detector, images, together):
    assert_same_bits(detect(detector, images), together)


@pytest.mark.slow
def test_bytes_and_floats_are_the_same_image(detector, images, together, ranges):
    floats = images.astype(np.float32) / 127.5 - 1.0
    assert_same(detect(detector, jnp.asarray(floats)), together, ranges)


@pytest.fixture(scope="module")
def program(detector, images):
    return detect.lower(detector, images[:2]).compile().as_text()


def test_the_program_never_leaves_the_device(program):
    for transfer in ("outfeed", "infeed", "callback", "SendToHost", "RecvFromHost"):
        assert transfer not in program


def test_score_is_the_peak_and_decides(detector, together):
    np.testing.assert_array_equal(together.score, together.anomaly_map.max((1, 2)))
    threshold = detector.calibration.threshold
    np.testing.assert_array_equal(together.decision, together.score > threshold)
    np.testing.assert_array_equal(together.calibrated_score > 0.5, together.decision)


def test_noise_levels_are_those_of_the_method(together):
    assert set(together.noise_level.tolist()) <= {20, 30, 40, 50, 60, 70, 80}


@pytest.mark.slow
def test_static_noise_level_is_one_for_all(detector, images):
    static = with_settings(detector, noise_level="static", max_noise_level=40)
    levels = gather_evidence(static, images[:3]).noise_level
    np.testing.assert_array_equal(levels, [40, 40, 40])


@pytest.mark.slow
def test_paper_scoring_is_the_weighted_sum_of_two_maps(detector, images):
    found = detect(with_settings(detector, scoring="paper"), images[:2])
    calibration = detector.calibration
    parts = {
        kind: anomaly_map.normalise(
            found.maps[kind],
            found.noise_level,
            calibration.location[kind],
            calibration.scale[kind],
        )
        for kind in ("latent", "feature")
    }
    expected = 0.85 * parts["latent"] + 0.15 * parts["feature"]
    np.testing.assert_allclose(found.anomaly_map, expected, atol=1e-4)
    assert set(found.maps) == {"latent", "feature"}


def test_a_planted_defect_is_where_the_map_grows(detector, images):
    defective = images[:1].copy()
    defective[0, 20:30, 40:50] = [255, 0, 255]
    before, after = (detect(detector, each) for each in (images[:1], defective))
    growth = np.asarray(after.anomaly_map[0] - before.anomaly_map[0])
    row, column = np.unravel_index(growth.argmax(), growth.shape)
    assert 16 <= row < 34
    assert 36 <= column < 54
    assert after.score[0] > before.score[0]
    assert after.knn_distance[0] > before.knn_distance[0]


@pytest.mark.slow
def test_compiled_once_it_serves_all_batches(detector, images, together):
    detect(detector, images[:4])
    compilations = []

    def count(event, *_, **__):
        if event == "/jax/core/compile/backend_compile_duration":
            compilations.append(event)

    jax.monitoring.register_event_duration_secs_listener(count)
    try:
        # The last batch has two images only.
        found = concatenate(batched(partial(detect, detector), images, 4, "test"))
        assert not compilations
        jax.jit(lambda x: 3 * x)(np.ones(7))
        assert compilations
    finally:
        jax.monitoring.unregister_event_duration_listener(count)
    assert_same_bits(found, together)


@pytest.mark.slow
@pytest.mark.parametrize("weight", [1.0, 0.85])
def test_without_reconstructions_the_decoder_runs_only_where_its_map_has_weight(
    detector, images, together, program, weight
):
    brief = with_settings(detector, latent_weight=weight, reconstruct=False)
    compiled = detect.lower(brief, images).compile()
    assert "TinyAutoencoder.decode" in program
    assert ("TinyAutoencoder.decode" in compiled.as_text()) == (weight < 1.0)
    found = compiled(brief, images)
    assert found.reconstruction is None
    assert found.reconstructed_knn_distance is None
    evidence = jax.device_put(together)
    _, score = score_evidence(evidence, detector.calibration, brief.settings)
    np.testing.assert_allclose(found.score, score, rtol=1e-4)


@pytest.mark.slow
def test_evidence_without_weight_is_not_made(detector, images):
    for changes, kinds in (
        ({"latent_weight": 1.0}, {"latent", "patch"}),
        ({"patch_weight": 1.0}, {"patch"}),
        ({"scoring": "paper", "latent_weight": 0.0}, {"feature"}),
    ):
        assert set(detect(with_settings(detector, **changes), images[:1]).maps) == kinds
