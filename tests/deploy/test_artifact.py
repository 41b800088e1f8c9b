import jax
import numpy as np
import pytest

from ddad_jax.deploy.artifact import load_detector, save_detector
from ddad_jax.detection.detect import detect
from ddad_jax.errors import UserError


@pytest.fixture(scope="module")
def path(detector, network_description, tmp_path_factory):
    path = tmp_path_factory.mktemp("artifact") / "detector.safetensors"
    save_detector(path, detector, network_description, "fingerprint")
    return path


def test_a_stored_detector_is_the_same_detector(path, detector, part_images):
    stored = load_detector(path)
    assert stored.fingerprint == "fingerprint"
    assert stored.detector.settings == detector.settings
    assert stored.detector.networks == detector.networks
    found, expected = (detect(d, part_images[:3]) for d in (stored.detector, detector))
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(a, b)


def test_nothing_unfinished_is_left(path):
    assert [file.name for file in path.parent.iterdir()] == ["detector.safetensors"]


def test_a_missing_detector_says_how_to_make_one(tmp_path):
    with pytest.raises(UserError, match="nowhere.*--mode=fit"):
        load_detector(tmp_path / "nowhere")


@pytest.mark.parametrize("content", [b"", b"not a detector", b"\xff" * 100])
def test_a_broken_detector_is_refused_by_name(tmp_path, content):
    path = tmp_path / "detector.safetensors"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"detector\.safetensors: is no readable detector"):
        load_detector(path)


def test_a_truncated_detector_is_refused(path, tmp_path):
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(UserError, match="is no readable detector"):
        load_detector(cut)
