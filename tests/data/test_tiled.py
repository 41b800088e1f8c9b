import numpy as np
import pytest
from PIL import Image

from ddad_jax.data.folder import folder_source
from ddad_jax.data.prepare import prepare
from ddad_jax.data.report import inspect
from ddad_jax.data.split import split_normals
from ddad_jax.data.synthetic import synthetic_source
from ddad_jax.data.tiled import TiledSource, cut_into_tiles
from ddad_jax.data.tiling import Blend
from ddad_jax.errors import UserError
from tests.data.pictures import picture, save


@pytest.fixture
def source(tmp_path):
    save(picture(0, 100, 70), tmp_path / "good/a.png")
    save(picture(1, 32, 32), tmp_path / "good/b.png")
    save(picture(2, 80, 40), tmp_path / "test/bad/c.png")
    mask = np.zeros((40, 80), np.uint8)
    mask[34:38, 70:74] = 255
    save(mask, tmp_path / "masks/c.png")
    return folder_source(tmp_path / "good", test=tmp_path / "test", masks=tmp_path / "masks")


def test_tiles_are_pixels_of_their_images(source):
    tiled = TiledSource(source, tile=32, overlap=8)
    whole = {sample.name: source.read_image(sample) for sample in source.samples}
    for sample in tiled.samples:
        origin = tiled.origins[sample.name]
        expected = whole[origin.sample.name][
            origin.top : origin.top + 32, origin.left : origin.left + 32
        ]
        np.testing.assert_array_equal(tiled.read_image(sample), expected)
    assert [s.name for s in tiled.samples if "b.png" in s.name] == ["train/b.png@0,0"]
    assert sum("a.png" in s.name for s in tiled.samples) == 3 * 4


def test_tiled_maps_blend_into_the_whole(source):
    tiled = TiledSource(source, tile=32, overlap=8)
    test = prepare_at(tiled, 32)["test"]
    blend = Blend(40, 80, overlap=8)
    for sample, tile in zip(test.samples, test.images, strict=True):
        origin = tiled.origins[sample.name]
        blend.add(origin.top, origin.left, tile[..., 0].astype(np.float32))
    expected = source.read_image(source.samples[-1])[..., 0]
    np.testing.assert_allclose(blend.mean(), expected, rtol=1e-5)


def test_masks_are_cut_alike(source, tmp_path):
    test = prepare_at(TiledSource(source, tile=32, overlap=8), 32)["test"]
    assert test.has_mask.all() and (test.labels == 1).all()
    showing = [s.name for s, mask in zip(test.samples, test.masks, strict=True) if mask.any()]
    assert showing == ["test/bad/c.png@8,48"]
    assert test.masks.sum() == 16


def prepare_at(tiled, size):
    cache = tiled.samples[0].image.parent.parent / "cache"
    return prepare(tiled, size, cache)


def test_no_split_divides_an_image(source):
    train = [s for s in TiledSource(source, 32, 8).samples if s.split == "train"]
    kept, heldout = split_normals(train, 0.1, seed=0)
    assert {train[i].image.name for i in heldout} == {"b.png"}
    assert {train[i].image.name for i in kept} == {"a.png"}


def test_turned_images_are_tiled_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    save(picture(0, 100, 40), tmp_path / "good/a.jpg", exif=exif)
    tiled = TiledSource(folder_source(tmp_path / "good"), 40, 0)
    shapes = {tiled.read_image(sample).shape for sample in tiled.samples}
    assert shapes == {(40, 40, 3)} and len(tiled.samples) == 3


def test_digests_follow_place_and_content(source):
    tiled, finer = TiledSource(source, 32, 8), TiledSource(source, 24, 8)
    digests = {t.digest(sample) for t in (tiled, finer) for sample in t.samples}
    assert len(digests) == len(tiled.samples) + len(finer.samples)


def test_broken_images_are_named_once(source, tmp_path):
    (tmp_path / "good/empty.png").touch()
    broken = save(picture(5, 100, 100), tmp_path / "good/broken.bmp")
    broken.write_bytes(broken.read_bytes()[:2000])
    source = folder_source(tmp_path / "good")
    found = inspect(TiledSource(source, 32, 8), size=32)
    assert sorted("broken.bmp" in reason for reason in found.unreadable) == [False, True]
    sets = prepare(TiledSource(source, 32, 8), 32, tmp_path / "cache", on_unreadable="skip")
    assert {sample.image.name for sample in sets["train"].samples} == {"a.png", "b.png"}


def test_a_mask_of_another_size_than_its_image(source, tmp_path):
    save(np.zeros((90, 90), np.uint8), tmp_path / "masks/c.png")
    with pytest.raises(UserError, match="the mask is 90×90 pixels, but its image .* is 80×40"):
        prepare_at(TiledSource(source, 32, 8), 32)


def test_generated_parts_are_tiled_too():
    source = synthetic_source(image_size=64, num_train=1, num_test_good=0, num_test_per_defect=1)
    tiled = cut_into_tiles(source, 32, 0)
    first = source.read_image(source.samples[0])
    np.testing.assert_array_equal(tiled.read_image(tiled.samples[3]), first[32:, 32:])
    assert cut_into_tiles(source, 0, 0) is source


def test_images_smaller_than_a_tile(source):
    message = r"b\.png: data.tiling.tile: tiles of 48×48 do not fit an image of 32×32"
    with pytest.raises(UserError, match=message):
        _ = TiledSource(source, 48, 8).samples
