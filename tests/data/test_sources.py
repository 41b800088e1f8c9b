import pytest

from ddad_jax.data.sources import SOURCES, build_source, find_categories
from ddad_jax.errors import UserError
from tests.data.pictures import make_mvtec


def test_sources_are_built_by_name(tmp_path):
    source = build_source("mvtec", make_mvtec(tmp_path), "plate", group_pattern="0")
    assert source.category == "plate" and len(source.samples) == 8


def test_an_unknown_source():
    with pytest.raises(UserError, match="data.source: 'mvtech' is not one of .*mvtec"):
        build_source("mvtech", "", "")


@pytest.mark.parametrize("name", sorted(SOURCES))
def test_a_setting_with_a_typo(name):
    with pytest.raises(UserError, match=f"data.settings.grup: source '{name}' has no such setting"):
        build_source(name, "", "", grup=1)


def test_categories_are_the_folders_that_hold_training_images(tmp_path):
    make_mvtec(make_mvtec(tmp_path, "plate"), "gear")
    (tmp_path / "notes").mkdir()
    assert find_categories("mvtec", tmp_path) == ["gear", "plate"]


def test_sources_without_categories_have_one_without_a_name(tmp_path):
    assert find_categories("folder", tmp_path) == [""]
    assert find_categories("mvtec", tmp_path / "missing") == [""]
    assert find_categories("mvtec", tmp_path) == [""]
