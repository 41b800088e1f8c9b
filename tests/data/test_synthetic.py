import numpy as np
import pytest
from scipy import ndimage

from ddad_jax.data.defects import DEFECTS
from ddad_jax.data.mvtec import mvtec_source
from ddad_jax.data.synthetic import synthetic_source, write_mvtec
from ddad_jax.errors import UserError


def small(**settings):
    counts = {"num_train": 4, "num_test_good": 3, "num_test_per_defect": 6}
    return synthetic_source(**{"image_size": 96, **counts, **settings})


def of(source, defect, split="test"):
    return [s for s in source.samples if s.defect == defect and s.split == split]


def test_counts_and_labels():
    source = small()
    assert len(of(source, "good", "train")) == 4 and len(of(source, "good")) == 3
    assert all(len(of(source, defect)) == 6 for defect in DEFECTS)
    assert all((sample.label == 1) == (sample.defect in DEFECTS) for sample in source.samples)
    assert len({sample.name for sample in source.samples}) == len(source.samples)


def test_an_image_depends_on_its_seed_and_name_alone():
    one, other = small(), small(num_train=9, num_test_good=1, num_test_per_defect=8)
    for sample in reversed(one.samples):
        if sample in other.samples:
            np.testing.assert_array_equal(one.read_image(sample), other.read_image(sample))
    sample = one.samples[0]
    assert (one.read_image(sample) != small(seed=1).read_image(sample)).any()


def test_no_two_images_are_alike():
    source = small()
    images = {source.read_image(sample).tobytes() for sample in source.samples}
    assert len(images) == len(source.samples)


@pytest.mark.parametrize("size", [64, 96, 200])
@pytest.mark.parametrize("defect", DEFECTS)
def test_every_defect_is_marked_where_the_picture_differs(defect, size):
    source = small(image_size=size, num_test_per_defect=12)
    for sample in of(source, defect):
        image, faultless = source._draw(sample)
        mask = source.read_mask(sample)
        difference = np.abs(image.astype(int) - faultless).max(axis=2)
        assert mask.any(), sample.name
        assert mask[difference >= 6].all()
        # Only gaps of up to two pixels between differing ones are marked besides.
        reach = ndimage.binary_dilation(difference >= 6, np.ones((3, 3)))
        assert not (mask & ~reach).any()


def test_normal_parts_have_no_mask():
    source = small()
    assert source.read_mask(of(source, "good")[0]) is None


@pytest.mark.slow
def test_scales_differ_as_their_names_say():
    source = small(image_size=256, num_test_per_defect=12)
    area = {d: np.median([source.read_mask(s).sum() for s in of(source, d)]) for d in DEFECTS}
    assert area["small"] < area["large"] / 4
    for sample in of(source, "hairline"):
        mask = source.read_mask(sample)
        rows, columns = np.nonzero(mask)
        extent = np.hypot(np.ptp(rows), np.ptp(columns))
        assert mask.sum() / extent < 3.5, "a hairline with its shadow is about three pixels wide"


def test_hairlines_stand_out_of_the_texture():
    source = small(image_size=128, num_test_per_defect=20)
    for sample in of(source, "hairline"):
        image, faultless = (picture.mean(axis=2) for picture in source._draw(sample))
        mask = source.read_mask(sample)
        contrast = np.abs(image - faultless)[mask].mean()
        texture = (faultless - ndimage.median_filter(faultless, 3))[mask].std()
        assert contrast > 2 * texture


def test_pose_and_light_vary_as_much_as_told():
    def deviation(variation):
        source = small(variation=variation, num_train=8)
        images = np.stack([source.read_image(s) for s in of(source, "good", "train")])
        return images.astype(float).std(axis=0).mean()

    assert deviation(0.0) < deviation(0.5) < deviation(1.0)


@pytest.mark.slow
def test_written_parts_are_read_back_as_mvtec(tmp_path):
    source = small(image_size=48, category="flange")
    assert write_mvtec(source, tmp_path) == tmp_path / "flange"
    written = mvtec_source(tmp_path, "flange")
    by_name = {f"flange/{sample.name}.png": sample for sample in source.samples}
    assert {sample.name for sample in written.samples} == set(by_name)
    for sample in written.samples:
        drawn = by_name[sample.name]
        assert (sample.label, sample.defect, sample.split) == (
            drawn.label,
            drawn.defect,
            drawn.split,
        )
        np.testing.assert_array_equal(written.read_image(sample), source.read_image(drawn))
        mask = source.read_mask(drawn)
        if mask is not None:
            np.testing.assert_array_equal(written.read_mask(sample), mask)


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file/machined_part: cannot be written"):
        write_mvtec(small(), tmp_path / "file")


def test_digest_follows_the_settings():
    sources = [small(), small(seed=1), small(image_size=64), small(variation=0.5)]
    assert len({source.digest(source.samples[0]) for source in sources}) == 4


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"num_train": 0}, "data.settings.num_train: 0 good parts to train on"),
        ({"num_test_good": -1}, "data.settings.num_test_good: -1 is negative"),
        ({"image_size": 16}, "data.settings.image_size: 16 pixels show no part"),
    ],
)
def test_settings_out_of_range(settings, message):
    with pytest.raises(UserError, match=message):
        small(**settings)
