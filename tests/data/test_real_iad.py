import json

import numpy as np
import pytest

from ddad_jax.data.real_iad import real_iad_source
from ddad_jax.data.sources import find_categories
from ddad_jax.errors import UserError
from tests.data.pictures import make_real_iad, square_mask


@pytest.mark.parametrize("nested", [True, False])
def test_the_split_says_what_each_image_is(tmp_path, nested):
    make_real_iad(tmp_path, "usb", nested)
    make_real_iad(tmp_path, "audiojack", nested)
    assert find_categories("real_iad", tmp_path) == ["audiojack", "usb"]
    source = real_iad_source(tmp_path, "audiojack")
    facts = [(s.group, s.image.stem[-17:-15], s.defect, s.label, s.split) for s in source.samples]
    assert facts == [
        ("OK/S0001", "C1", "good", 0, "train"),
        ("OK/S0001", "C2", "good", 0, "train"),
        ("OK/S0002", "C1", "good", 0, "train"),
        ("OK/S0002", "C2", "good", 0, "train"),
        ("NG/BX/S0004", "C1", "BX", 1, "test"),
        ("NG/BX/S0004", "C2", "good", 0, "test"),
        ("OK/S0003", "C1", "good", 0, "test"),
        ("OK/S0003", "C2", "good", 0, "test"),
    ]
    assert source.samples[0].name.startswith("realiad_1024/audiojack/OK/S0001/audiojack_0001_OK_C1")
    np.testing.assert_array_equal(source.read_mask(source.samples[4]), square_mask() > 0)
    assert source.samples[5].mask is None


def test_images_and_splits_of_other_names(tmp_path):
    make_real_iad(tmp_path)
    (tmp_path / "realiad_1024").rename(tmp_path / "realiad_256")
    splits = tmp_path / "realiad_jsons"
    (splits / "realiad_jsons").rename(splits / "realiad_jsons_sv")
    settings = {"images": "realiad_256", "split": "realiad_jsons_sv"}
    assert len(real_iad_source(tmp_path, "audiojack", **settings).samples) == 8
    with pytest.raises(
        UserError, match="data.settings.images: '.*realiad_1024/audiojack' does not"
    ):
        real_iad_source(tmp_path, "audiojack", split="realiad_jsons_sv")
    with pytest.raises(UserError, match="there is no realiad_jsons/<category>.json"):
        real_iad_source(tmp_path, "audiojack")


def change_split(folder, change):
    path = folder / "realiad_jsons/realiad_jsons/audiojack.json"
    table = json.loads(path.read_text())
    change(table)
    path.write_text(json.dumps(table))


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda t: t["test"][0].update(image_path="OK/x.jpg"), "OK/x.jpg: does not exist, but"),
        (
            lambda t: t["test"][0].pop("anomaly_class"),
            "is not a split of .*KeyError: 'anomaly_class'",
        ),
        (lambda t: t.pop("test"), "is not a split of .*KeyError: 'test'"),
        (
            lambda t: t["train"][0].update(anomaly_class="BX"),
            "has the defect BX and is a training image",
        ),
    ],
)
def test_splits_that_cannot_be(tmp_path, change, message):
    change_split(make_real_iad(tmp_path), change)
    with pytest.raises(UserError, match=message):
        real_iad_source(tmp_path, "audiojack")


def test_an_unknown_category(tmp_path):
    make_real_iad(tmp_path)
    with pytest.raises(UserError, match="data.category: 'usb' is not in .*; there is audiojack"):
        real_iad_source(tmp_path, "usb")
