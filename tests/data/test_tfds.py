import subprocess
import sys

import numpy as np
import pytest

from ddad_jax.data.btad import btad_source
from ddad_jax.data.mvtec import mvtec_source
from ddad_jax.data.tfds import tfds_source
from ddad_jax.data.tfds_builders import write_tfds
from ddad_jax.data.visa import visa_source
from ddad_jax.errors import UserError
from tests.data.pictures import make_btad, make_mvtec, make_rearranged_visa, make_visa

DATASETS = {
    "mvtec_ad": (make_mvtec, mvtec_source, "plate"),
    "visa": (make_visa, visa_source, "candle"),
    "btad": (make_btad, btad_source, "03"),
}


@pytest.mark.parametrize("dataset", DATASETS)
def test_the_same_samples_in_the_same_order_as_from_the_folder(tmp_path, dataset):
    make, open_folder, category = DATASETS[dataset]
    make(tmp_path / "manual")
    write_tfds(dataset, category, tmp_path / "manual", tmp_path / "tfds")
    folder = open_folder(tmp_path / "manual", category)
    source = tfds_source(tmp_path / "tfds", category, dataset)
    assert source.category == category
    assert len(source.samples) == len(folder.samples)
    for ours, theirs in zip(source.samples, folder.samples, strict=True):
        facts = ("name", "label", "defect", "split", "category")
        assert [getattr(ours, fact) for fact in facts] == [getattr(theirs, fact) for fact in facts]
        np.testing.assert_array_equal(source.read_image(ours), folder.read_image(theirs))
        np.testing.assert_equal(source.read_mask(ours), folder.read_mask(theirs))
    assert len({source.digest(sample) for sample in source.samples}) == len(
        {folder.digest(sample) for sample in folder.samples}
    )


def test_file_names_tell_the_parts_as_in_the_folder(tmp_path):
    make_mvtec(tmp_path / "manual")
    write_tfds("mvtec_ad", "plate", tmp_path / "manual", tmp_path / "tfds")
    folder = mvtec_source(tmp_path / "manual", "plate", group_pattern=r"^\d\d(\d)")
    source = tfds_source(tmp_path / "tfds", "plate", group_pattern=r"^\d\d(\d)")
    groups = [sample.group for sample in source.samples]
    assert groups == [sample.group for sample in folder.samples] and set(groups[:3]) == set("012")


def test_rearranged_visa(tmp_path):
    make_rearranged_visa(tmp_path / "manual")
    write_tfds("visa", "candle", tmp_path / "manual", tmp_path / "tfds")
    assert len(tfds_source(tmp_path / "tfds", "candle", "visa").samples) == 6


def test_the_newest_version_counts(tmp_path):
    make_mvtec(tmp_path / "manual")
    folder = write_tfds("mvtec_ad", "plate", tmp_path / "manual", tmp_path / "tfds")
    folder.rename(folder.parent / "0.9.0")
    make_mvtec(tmp_path / "manual")
    (tmp_path / "manual/plate/train/good/000.png").unlink()
    newest = write_tfds("mvtec_ad", "plate", tmp_path / "manual", tmp_path / "tfds")
    assert newest.name == "1.0.0"
    assert len(tfds_source(tmp_path / "tfds", "plate").samples) == 7


def test_neither_writing_nor_reading_needs_tensorflow(tmp_path):
    make_mvtec(tmp_path / "manual")
    script = f"""
import sys
from ddad_jax.data.sources import build_source
from ddad_jax.data.tfds_builders import write_tfds
write_tfds("mvtec_ad", "plate", r"{tmp_path}/manual", r"{tmp_path}/tfds")
source = build_source("tfds", r"{tmp_path}/tfds", "plate", dataset="mvtec_ad")
assert [source.read_image(sample).shape for sample in source.samples] == [(20, 24, 3)] * 8
assert "tensorflow" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", script], check=True)


def test_nothing_written_yet(tmp_path):
    with pytest.raises(
        UserError, match="data.category: 'plate' of mvtec_ad is not in .*holds none"
    ):
        tfds_source(tmp_path, "plate")
    (tmp_path / "mvtec_ad/plate").mkdir(parents=True)
    with pytest.raises(UserError, match="data.category: 'cog' of .*; there are plate"):
        tfds_source(tmp_path, "cog")
    with pytest.raises(UserError, match="plate' holds no finished version"):
        tfds_source(tmp_path, "plate")
    with pytest.raises(UserError, match="data.root: is not set"):
        tfds_source("", "plate")


@pytest.mark.parametrize(
    "call",
    [
        lambda path: tfds_source(path, "a", "mnist"),
        lambda path: write_tfds("mnist", "a", path, path),
    ],
)
def test_an_unknown_data_set(tmp_path, call):
    with pytest.raises(UserError, match="data.settings.dataset: 'mnist' is not one of"):
        call(tmp_path)


def test_a_manual_folder_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match="data.root: .*nowhere"):
        write_tfds("btad", "01", tmp_path / "nowhere", tmp_path / "tfds")
