import pytest

from ddad_jax.data.sources import (
    DATASETS,
    build_source,
    check_recognised,
    find_categories,
    recognise,
)
from ddad_jax.errors import UserError
from ddad_jax.experiment.config import load_config
from tests.data import pictures
from tests.data.pictures import make_mvtec

LAYOUTS = {
    "btad": pictures.make_btad,
    "dagm": pictures.make_dagm,
    "ksdd": pictures.make_ksdd,
    "ksdd2": pictures.make_ksdd2,
    "mvtec": pictures.make_mvtec,
    "mvtec_3d": pictures.make_mvtec_3d,
    "mvtec_ad2": pictures.make_mvtec_ad2,
    "mvtec_loco": pictures.make_mvtec_loco,
    "real_iad": pictures.make_real_iad,
    "visa": pictures.make_visa,
}


def test_sources_are_built_by_name(tmp_path):
    source = build_source("mvtec", make_mvtec(tmp_path), "plate", group_pattern="0")
    assert source.category == "plate" and len(source.samples) == 8


def test_an_unknown_source():
    with pytest.raises(UserError, match="data.source: 'mvtech' is not one of .*mvtec"):
        build_source("mvtech", "", "")


@pytest.mark.parametrize("name", sorted(DATASETS))
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


def test_every_data_set_with_a_layout_is_tried_here():
    assert {name for name, each in DATASETS.items() if each.find} == set(LAYOUTS)


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_folder_is_recognised(tmp_path, name):
    root = LAYOUTS[name](tmp_path)
    for meant in (name, "folder"):
        assert recognise(meant, root) == name
    category = find_categories(name, root)[0]
    assert build_source(name, root, category).samples


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_data_set_has_a_config(name):
    assert load_config(name).data.source == name


def test_layouts_that_several_data_sets_share_are_what_they_are_meant_to_be(tmp_path):
    root = pictures.make_rearranged_visa(tmp_path)
    assert recognise("visa", root) == "visa"
    assert recognise("mvtec", root) == "mvtec"
    assert recognise("mvtec", tmp_path / "candle") == ""


def test_a_folder_of_another_data_set_is_said(tmp_path, caplog):
    make_mvtec(tmp_path / "mvtec")
    pictures.make_mvtec_loco(tmp_path / "loco")
    check_recognised("mvtec", tmp_path / "mvtec")
    assert not caplog.records
    # It can be read so, but without its validation images.
    check_recognised("mvtec", tmp_path / "loco")
    assert "is laid out as MVTec LOCO AD, but data.source is 'mvtec'" in caplog.text
    with pytest.raises(UserError, match="as MVTec AD, but .* use --config.data.source=mvtec"):
        check_recognised("btad", tmp_path / "mvtec")


@pytest.mark.usefixtures("bound_by_permissions")
def test_of_a_folder_that_cannot_be_read_the_source_says_so(tmp_path):
    root = make_mvtec(tmp_path / "data")
    root.chmod(0o300)
    try:
        assert recognise("folder", root) == ""
        with pytest.raises(UserError, match="cannot be read .Permission denied."):
            build_source("folder", root, "")
    finally:
        root.chmod(0o755)
