import io
import sys

import numpy as np
import pytest
from PIL import Image
from tqdm import tqdm

import ddad_jax
from ddad_jax.deploy.fitted import FittedDetector
from ddad_jax.errors import UserError
from ddad_jax.experiment import modes, photographs
from tests.data.pictures import save


@pytest.fixture
def fitted_with(monkeypatch):
    """What `fit` would be carried out with, in place of doing it."""
    seen = {}

    def run(mode, config, workdir):
        seen.update(mode=mode, config=config, workdir=workdir)

    monkeypatch.setattr(modes, "run", run)
    made = object.__new__(FittedDetector)
    monkeypatch.setattr(photographs, "load_detector", lambda path: made)
    return seen


def names(config):
    from ddad_jax.data.sources import build_source

    source = build_source(
        config.data.source, config.data.root, config.data.category, **config.data.settings
    )
    return source, [sample.name for sample in source.samples]


def test_a_folder_is_taken_as_it_is(fitted_with, part_images, tmp_path):
    for number in range(3):
        save(part_images[number], tmp_path / f"good/below/{number}.png")
    ddad_jax.fit(
        tmp_path / "good", workdir=tmp_path / "run",
        settings={"data.settings.recursive": True, "detection.blur": 2.0},
    )  # fmt: skip
    config = fitted_with["config"]
    assert config.detection.blur == 2.0 and fitted_with["mode"] == "fit"
    assert names(config)[1] == [f"train/below/{number}.png" for number in range(3)]


def test_photographs_of_any_kind_are_good_ones_to_learn_from(fitted_with, part_images, tmp_path):
    path = tmp_path / "a.png"
    save(part_images[0], path)
    deep = part_images[3][..., 0].astype(np.uint16) * 257
    given = [path, path.read_bytes(), Image.open(path), part_images[2], deep]
    ddad_jax.fit(given, workdir=tmp_path / "run", progress=False)
    source, found = names(fitted_with["config"])
    assert len(found) == 5
    assert all(sample.split == "train" and sample.label == 0 for sample in source.samples)
    images = {str(sample.image): source.read_image(sample) for sample in source.samples}
    np.testing.assert_array_equal(images[str(path)], part_images[0])
    saved = [image for name, image in sorted(images.items()) if name != str(path)]
    expected = [
        part_images[0],
        part_images[0],
        part_images[2],
        np.repeat(deep[..., None] // 257, 3, 2),
    ]
    for a, b in zip(saved, expected, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", ["two\nlines.png", "gr\udcfcn.png", "blank.png "])
def test_names_that_no_table_can_hold(fitted_with, part_images, tmp_path, name):
    save(part_images[0], tmp_path / "a.png")
    path = (tmp_path / "a.png").rename(tmp_path / name)
    ddad_jax.fit([path, part_images[1]], workdir=tmp_path / "run", progress=False)
    source, _ = names(fitted_with["config"])
    found = [source.read_image(sample) for sample in source.samples]
    np.testing.assert_array_equal(found, part_images[:2])


@pytest.mark.parametrize("progress", [True, False])
def test_bars_are_drawn_where_progress_is_wanted(
    fitted_with, monkeypatch, part_images, tmp_path, progress
):
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(modes, "run", lambda *_: list(tqdm(range(3), desc="steps", disable=None)))
    ddad_jax.fit(part_images[:2], workdir=tmp_path, progress=progress)
    assert ("steps" in terminal.getvalue()) == progress


def test_what_cannot_be_is_said(fitted_with, tmp_path):
    with pytest.raises(UserError, match="good_images: holds no photograph"):
        ddad_jax.fit([], workdir=tmp_path)
    with pytest.raises(UserError, match="photograph 0: is not an image"):
        ddad_jax.fit([b"nothing"], workdir=tmp_path)
    with pytest.raises(UserError, match="there is no setting"):
        ddad_jax.fit([], workdir=tmp_path, settings={"detection.blurr": 1})
