import numpy as np
import pytest
from PIL import Image

from ddad_jax.experiment.config import load_config, override, read_config
from ddad_jax.experiment.opening import open_categories
from tests.experiment.conftest import pictures


@pytest.fixture
def categories(tmp_path):
    """Function: names and assignments -> the categories of a folder that has those names."""

    def opened(names, *assignments):
        for name in names:
            folder = tmp_path / "data" / name / "train/good"
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(folder / "0.png")
        config = load_config("mvtec_small")
        override(config, [("data.root", str(tmp_path / "data")), *assignments])
        return open_categories(read_config(config), tmp_path / "run")

    return opened


def test_several_categories_share_networks_in_the_runs_folder(categories, tmp_path):
    found = categories(["nut", "bolt"])
    assert [each.workdir for each in found] == [tmp_path / "run/bolt", tmp_path / "run/nut"]
    assert {each.shared for each in found} == {tmp_path / "run/networks"}


def test_where_it_is_asked_for_each_detector_is_whole(categories):
    found = categories(["nut", "bolt"], ("build.share_networks", "no"))
    assert [each.shared for each in found] == [None, None]


def test_a_single_detector_is_whole(categories, tmp_path):
    (only,) = categories(["nut"])
    assert only.shared is None and only.workdir == tmp_path / "run"
    (chosen,) = categories(["nut", "bolt"], ("data.category", "bolt"))
    assert chosen.shared is None


def test_no_held_out_image_is_a_training_image(open_category):
    category = open_category()
    train, heldout = pictures(category.train_images), pictures(category.heldout_images)
    assert len(train) == 9 and len(heldout) == 3
    assert train | heldout == {*range(12)}
    assert len(category.train_parts) == 9


def test_training_draws_pictures_of_what_it_does_not_learn_from(open_category):
    category = open_category()
    assert pictures(category.sampled_images) <= pictures(category.heldout_images)


def test_a_variant_divides_the_images_alike(open_category, tmp_path):
    category = open_category()
    other = category.variant(open_category("seed=5").config, tmp_path)
    np.testing.assert_array_equal(other.heldout_images, category.heldout_images)
    np.testing.assert_array_equal(other.train_images, category.train_images)
