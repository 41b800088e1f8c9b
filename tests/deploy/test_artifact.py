import json
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

import ddad_jax
from ddad_jax.data.preprocessing import Preprocessing
from ddad_jax.deploy.artifact import FORMAT
from ddad_jax.deploy.fitted import FittedDetector, load_detector
from ddad_jax.detection.detect import detect
from ddad_jax.errors import UserError

# Detectors that earlier versions wrote, and the scores that they gave of `stored_parts`.
STORED = Path(__file__).parent / "artifacts"
MADE_OF = {"settings": {"seed": 0}, "images": {"train": ["a"], "heldout": ["b"]}, "networks": {}}
HOW = Preprocessing(size=64, resize="pad", white_level=4095)


@pytest.fixture(scope="module")
def fitted(detector, network_description):
    return FittedDetector(detector, HOW, network_description, MADE_OF)


@pytest.fixture(scope="module")
def path(fitted, tmp_path_factory):
    path = tmp_path_factory.mktemp("artifact") / "detector.safetensors"
    fitted.save(path)
    return path


def with_header(path, target, **changes):
    """The same file with other entries in its header."""
    with safe_open(path, "numpy") as file:
        header = file.metadata() | changes
    save_file(load_file(path), target, {k: v for k, v in header.items() if v is not None})
    return target


@pytest.mark.slow
def test_a_stored_detector_is_the_same_detector(path, detector, part_images, network_description):
    stored = load_detector(path)
    assert stored.preprocessing == HOW
    assert stored.made_of == MADE_OF
    assert stored.description == network_description
    assert stored.detector.settings == detector.settings
    assert stored.detector.networks == detector.networks
    found, expected = (detect(d, part_images[:3]) for d in (stored.detector, detector))
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_what_patches_are_compared_by_is_stored(otherwise, part_images, tmp_path):
    d = otherwise.detector
    otherwise.save(tmp_path / "detector.safetensors")
    stored = load_detector(tmp_path / "detector.safetensors").detector
    assert stored.settings == d.settings
    np.testing.assert_array_equal(stored.foreground, d.foreground)
    np.testing.assert_array_equal(
        detect(stored, part_images[:2]).score, detect(d, part_images[:2]).score
    )


def test_it_is_loaded_from_the_top_of_the_package(path, monkeypatch):
    monkeypatch.setenv("HOME", str(path.parent))
    assert ddad_jax.load("~/detector.safetensors").preprocessing == HOW


def test_the_header_says_what_made_it(path):
    with safe_open(path, "numpy") as file:
        header = file.metadata()
    assert header["format"] == f"ddad_jax detector {FORMAT}"
    assert header["version"] == ddad_jax.__version__
    assert json.loads(header["preprocessing"])["white_level"] == 4095


def test_nothing_unfinished_is_left(path):
    assert [file.name for file in path.parent.iterdir()] == ["detector.safetensors"]


@pytest.fixture
def shared(fitted, tmp_path):
    """Two detectors in folders of their own that share what was not trained with them."""
    networks = {
        "autoencoder": {"digest": "1"},
        "denoiser": {"digest": "2", "trained_on": ["a"]},
        "extractor": {"digest": "3"},
    }
    of = replace(fitted, made_of=MADE_OF | {"networks": networks})
    for name in ("one", "other"):
        of.save(tmp_path / "run" / name / "detector.safetensors", tmp_path / "run/networks")
    return tmp_path / "run"


@pytest.mark.slow
def test_published_networks_are_stored_once_for_several_detectors(
    shared, path, detector, part_images, tmp_path
):
    files = sorted(file.name.partition("-")[0] for file in (shared / "networks").iterdir())
    assert files == ["autoencoder", "extractor"]
    shared.rename(tmp_path / "moved")
    one = tmp_path / "moved/one/detector.safetensors"
    published = sum(file.stat().st_size for file in (tmp_path / "moved/networks").iterdir())
    assert one.stat().st_size == pytest.approx(path.stat().st_size - published, rel=0.01)
    assert {name.partition("|")[0] for name in load_file(one)} & {
        "autoencoder",
        "extractor",
    } == set()
    np.testing.assert_array_equal(
        detect(load_detector(one).detector, part_images[:2]).anomaly_map,
        detect(detector, part_images[:2]).anomaly_map,
    )
    whole = tmp_path / "whole/detector.safetensors"
    load_detector(one).save(whole)
    assert whole.stat().st_size == pytest.approx(path.stat().st_size, rel=0.01)


def test_links_to_detectors_that_share_networks(shared, tmp_path):
    link = tmp_path / "links/current.safetensors"
    link.parent.mkdir()
    link.symlink_to(shared / "one/detector.safetensors")
    one = load_detector(link)
    one.save(link, shared / "networks")
    assert not link.is_symlink() and load_detector(link).made_of == one.made_of


def test_a_spoilt_shared_network_is_mended_by_the_next_detector(shared):
    (file,) = (shared / "networks").glob("extractor-*")
    of = load_detector(shared / "one/detector.safetensors")
    whole = file.read_bytes()
    file.write_bytes(whole[:-10])
    of.save(shared / "third.safetensors", shared / "networks")
    assert file.read_bytes() == whole


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda file: file.unlink(), r"cannot be read \(No such file.*copy it along"),
        (lambda file: file.write_bytes(file.read_bytes()[:-4] + b"abcd"), "has changed since"),
    ],
)
def test_a_shared_network_that_is_not_there_is_named(shared, spoil, message):
    (file,) = (shared / "networks").glob("extractor-*")
    spoil(file)
    with pytest.raises(UserError, match=f"its extractor is in .*{file.name}, which {message}"):
        load_detector(shared / "one/detector.safetensors")


def test_a_missing_detector_says_how_to_make_one(tmp_path):
    with pytest.raises(UserError, match="nowhere.*--mode=fit"):
        load_detector(tmp_path / "nowhere")


@pytest.mark.parametrize("content", [b"", b"not a detector", b"\xff" * 100])
def test_a_broken_detector_is_refused_by_name(tmp_path, content):
    path = tmp_path / "detector.safetensors"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"detector\.safetensors: is not a readable detector"):
        load_detector(path)


def test_a_truncated_detector_is_refused(path, tmp_path):
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(UserError, match="is not a readable detector"):
        load_detector(cut)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (None, "holds no detector of ddad_jax"),
        ("something else 4", "holds no detector of ddad_jax"),
        ("ddad_jax detector 2", "is of format 2, from before 0.1"),
        (
            f"ddad_jax detector {FORMAT + 1}",
            ".* made by a newer ddad_jax; .*upgrade it",
        ),
    ],
)
def test_other_formats_are_refused_in_a_line(path, tmp_path, name, message):
    other = with_header(path, tmp_path / "other.safetensors", format=name)
    with pytest.raises(UserError, match=f"other.safetensors: {message}"):
        load_detector(other)


def test_rules_of_reading_that_are_not_known_yet(path, tmp_path):
    how = json.dumps(vars(HOW) | {"reading": 99})
    other = with_header(path, tmp_path / "other.safetensors", preprocessing=how)
    with pytest.raises(UserError, match="rules of version 99"):
        load_detector(other)


def stored_parts(size):
    """Two pictures that every version draws alike."""
    y, x = np.mgrid[:size, :size]
    disc = np.hypot(x - size / 2, y - size / 2) < size / 3
    good = np.where(disc, 190, 60).astype(np.uint8)
    bad = good.copy()
    bad[size // 3 : size // 2, size // 3 : size // 2] = 250
    return [np.repeat(each[..., None], 3, axis=2) for each in (good, bad)]


@pytest.mark.slow
@pytest.mark.parametrize("number", [3, 4])
def test_detectors_of_every_format_are_read(number):
    path = STORED / f"format-{number}.safetensors"
    lacking = {"resize": "stretch", "white_level": 65535} if number == 3 else {}
    stored = load_detector(path, **lacking)
    expected = json.loads((STORED / f"format-{number}.json").read_text())
    found = [each.score for each in stored.predict(stored_parts(64))]
    np.testing.assert_allclose(found, expected["scores"], rtol=1e-4)
    assert bool(stored.made_of) == (number > 3)


def test_format_3_asks_for_what_it_does_not_say():
    path = STORED / "format-3.safetensors"
    message = (
        r"format-3.safetensors: is of format 3, .*give --config.data.resize and "
        r"--config.data.settings.white_level .*data.resize=stretch .*white_level=65535"
    )
    with pytest.raises(UserError, match=message):
        load_detector(path)
    with pytest.raises(UserError, match="give --config.data.settings.white_level as"):
        load_detector(path, resize="pad")


def test_what_contradicts_a_detector_is_refused_by_name(path):
    assert load_detector(path, resize="pad").preprocessing == HOW
    with pytest.raises(UserError, match="--config.data.resize: crop contradicts .*made with pad"):
        load_detector(path, resize="crop")


@pytest.mark.slow
@pytest.mark.parametrize("how", [HOW, replace(HOW, tile=48, overlap=16)])
def test_a_photograph_has_one_answer_whatever_it_comes_as(fitted, how, part_images, tmp_path):
    from PIL import Image

    fitted = replace(fitted, preprocessing=how)
    wide = np.concatenate([part_images[14], part_images[15][:, :32]], axis=1)[..., 0]
    values = wide.astype(np.uint16) * 16
    path = tmp_path / "a.png"
    Image.fromarray(values).save(path)
    alone = fitted.predict(path)
    assert alone.anomaly_map.shape == (64, 96) and alone.reconstruction.shape == (64, 96, 3)
    several = fitted.predict([part_images[16], values, path.read_bytes(), Image.open(path)])
    for each in several[1:]:
        assert each.score == pytest.approx(alone.score, rel=1e-6)
        assert each.decision == alone.decision and each.noise_level == alone.noise_level
        np.testing.assert_allclose(each.anomaly_map, alone.anomaly_map, rtol=0, atol=1e-4)
    assert fitted.predict([]) == []


def test_a_photograph_that_cannot_be_read_is_named(fitted):
    with pytest.raises(UserError, match="photograph 1: is an array of shape"):
        fitted.predict([np.zeros((64, 64)), np.zeros((2, 2))])
