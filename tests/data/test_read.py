import zlib

import numpy as np
import pytest
from PIL import Image

from ddad_jax.data import read
from ddad_jax.data.read import read_image, read_mask
from ddad_jax.errors import UserError
from tests.data.pictures import picture, save, square_mask


@pytest.mark.parametrize(
    "suffix", ["png", "bmp", "dib", "tif", "tiff", "webp", "ppm", "pnm", "jp2", "PNG"]
)
def test_lossless_kinds_are_read_exactly(tmp_path, suffix):
    options = {"lossless": True} if suffix == "webp" else {}
    path = save(picture(), tmp_path / f"a.{suffix}", **options)
    np.testing.assert_array_equal(read_image(path), picture())


@pytest.mark.parametrize("suffix", ["jpg", "jfif", "avif"])
def test_lossy_kinds_are_read_closely(tmp_path, suffix):
    subsampling = "4:4:4" if suffix == "avif" else 0
    path = save(picture(), tmp_path / f"a.{suffix}", quality=98, subsampling=subsampling)
    assert np.abs(read_image(path).astype(int) - picture()).mean() < 3


def test_grey_is_repeated_in_three_channels(tmp_path):
    grey = picture()[:, :, 0]
    read = read_image(save(grey, tmp_path / "a.png"))
    np.testing.assert_array_equal(read, np.stack([grey] * 3, axis=2))


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bit_grey_is_scaled_by_its_range_not_its_content(tmp_path, suffix):
    values = np.array([0, 257 * 7, 257 * 100, 32768] * 16, np.uint16).reshape(8, 8)
    read = read_image(save(values, tmp_path / f"a.{suffix}"))
    assert read[0, :4, 0].tolist() == [0, 7, 100, 128]


def test_white_level_of_a_12_bit_camera(tmp_path):
    values = np.array([0, 2048, 4095, 5000] * 16, np.uint16).reshape(8, 8)
    read = read_image(save(values, tmp_path / "a.png"), white_level=4095)
    assert read[0, :4, 1].tolist() == [0, 128, 255, 255]


def test_float_runs_from_black_to_white(tmp_path):
    values = np.array([0, 0.5, 0.75, 1] * 16, np.float32).reshape(8, 8)
    read = read_image(save(values, tmp_path / "a.tif"))
    assert read[0, :4, 2].tolist() == [0, 128, 191, 255]


def test_values_without_a_known_range_are_refused(tmp_path):
    path = save(np.full((8, 8), 300.0, np.float32), tmp_path / "a.tif")
    with pytest.raises(
        UserError, match=r"a\.tif: grey values run from 300 to 300; expected 0 to 1"
    ):
        read_image(path)


def test_palette_is_looked_up(tmp_path):
    path = tmp_path / "a.png"
    indexed = Image.fromarray(picture()).quantize(64)
    indexed.save(path)
    np.testing.assert_array_equal(read_image(path), np.asarray(indexed.convert("RGB")))


def test_transparency_is_composited_on_white(tmp_path):
    rgba = np.dstack([np.full((8, 8, 3), 100, np.uint8), np.full((8, 8), 255, np.uint8)])
    rgba[0, 0, 3], rgba[0, 1, 3] = 0, 51
    read = read_image(save(rgba, tmp_path / "a.png"))
    assert (read[0, 0] == 255).all()
    assert (np.abs(read[0, 1].astype(int) - (0.8 * 255 + 0.2 * 100)) <= 1).all()
    assert (read[1:] == 100).all()


def test_palette_with_a_transparent_colour_is_composited_on_white(tmp_path):
    path = tmp_path / "a.png"
    indexed = Image.fromarray(np.zeros((8, 8), np.uint8)).convert("P")
    indexed.save(path, transparency=0)
    assert (read_image(path) == 255).all()


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_turned_upright(tmp_path, suffix, orientation):
    upright = picture(width=24, height=16)
    turned = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright),
        7: upright.transpose(1, 0, 2)[::-1, ::-1],
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(np.ascontiguousarray(turned), tmp_path / f"a.{suffix}", exif=exif)
    read = read_image(path)
    assert read.shape == upright.shape
    assert np.abs(read.astype(int) - upright).mean() < 12


def test_cmyk_becomes_rgb(tmp_path):
    path = tmp_path / "a.jpg"
    Image.fromarray(picture()).convert("CMYK").save(path, quality=98, subsampling=0)
    assert np.abs(read_image(path).astype(int) - picture()).mean() < 5


@pytest.mark.parametrize("name", ["a.gif", "a.webp"])
def test_of_several_frames_the_first_counts(tmp_path, name):
    frames = [Image.fromarray(picture(seed)) for seed in range(2)]
    frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], lossless=True)
    with Image.open(tmp_path / name) as animation:
        first = np.asarray(animation.convert("RGB"))
    np.testing.assert_array_equal(read_image(tmp_path / name), first)


def test_pages_that_may_each_be_a_photograph_are_refused(tmp_path):
    pages = [Image.fromarray(picture(seed)) for seed in range(3)]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    with pytest.raises(UserError, match=r"a\.tif: has 3 pages of 24×20 pixels; save each"):
        read_image(tmp_path / "a.tif")


def test_a_thumbnail_beside_the_photograph_is_passed_over(tmp_path):
    photograph = Image.fromarray(picture())
    small = photograph.resize((8, 8))
    photograph.save(tmp_path / "a.tif", save_all=True, append_images=[small])
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), picture())


@pytest.mark.parametrize("name", ["a.heic", "a.HEIF"])
def test_photographs_of_phones(tmp_path, name):
    photograph = picture(width=64, height=48)
    Image.fromarray(photograph).save(tmp_path / name, "HEIF", quality=100)
    assert np.abs(read_image(tmp_path / name).astype(int) - photograph).mean() < 3


def test_without_the_extra_it_is_named(tmp_path, monkeypatch):
    (tmp_path / "a.heic").write_bytes(b"no image at all")
    monkeypatch.setattr(read, "READS_HEIF", False)
    with pytest.raises(UserError, match=r"a\.heic: is HEIC, .* pip install 'ddad_jax\[heic\]'"):
        read_image(tmp_path / "a.heic")


def test_missing_file(tmp_path):
    with pytest.raises(UserError, match=r"a\.png: cannot be read \(No such file"):
        read_image(tmp_path / "a.png")


def test_empty_file(tmp_path):
    (tmp_path / "a.png").touch()
    with pytest.raises(UserError, match=r"a\.png: is empty \(0 bytes\)"):
        read_image(tmp_path / "a.png")


def test_text_under_an_image_suffix(tmp_path):
    (tmp_path / "a.png").write_text("not an image")
    with pytest.raises(UserError, match=r"a\.png: is not an image of a known kind"):
        read_image(tmp_path / "a.png")


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "tif", "webp"])
def test_truncated_files_are_named_with_a_reason(tmp_path, suffix):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    path = save(noise, tmp_path / f"a.{suffix}")
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=rf"a\.{suffix}: (cannot be decoded|is not an image)"):
        read_image(path)


def test_too_small_to_show_anything(tmp_path):
    path = save(picture(width=1, height=1), tmp_path / "a.png")
    with pytest.raises(UserError, match="is 1×1 pixels; at least 8×8 are needed"):
        read_image(path)


@pytest.mark.slow
def test_what_pillow_takes_for_an_attack_is_refused_unless_it_is_allowed(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    Image.new("1", (20_000, 10_000)).save(path)
    with pytest.raises(UserError, match=r"a\.png: is larger than Pillow is set to read"):
        read_image(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)
    read.allow_large_images()
    assert read_image(path).shape == (10_000, 20_000, 3)


def test_what_would_not_fit_the_memory_is_refused_before_it_is_decoded(tmp_path, monkeypatch):
    monkeypatch.setattr(read, "LARGEST", 400)
    path = save(picture(width=24, height=20), tmp_path / "a.png")
    with pytest.raises(UserError, match=r"a\.png: is 24×20 pixels; at most 400 are read; cut it"):
        read_image(path)


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif"])
@pytest.mark.parametrize("rule", ["auto", "half", "nonzero"])
def test_black_and_white_masks(tmp_path, suffix, rule):
    path = save(square_mask(), tmp_path / f"m.{suffix}")
    np.testing.assert_array_equal(read_mask(path, rule), square_mask() > 0)


@pytest.mark.parametrize(
    "rule, read_as_defect", [("auto", True), ("nonzero", True), ("half", False)]
)
def test_class_numbers(tmp_path, rule, read_as_defect):
    path = save(square_mask(value=1), tmp_path / "m.png")
    assert read_mask(path, rule)[0, 0] == read_as_defect
    assert not read_mask(path, rule)[-1, -1]


@pytest.mark.parametrize("rule, expected", [("auto", 4), ("half", 4), ("nonzero", 7)])
def test_smoothed_masks_are_cut_at_half_unless_every_value_counts(tmp_path, rule, expected):
    mask = np.zeros((8, 16), np.uint8)
    mask[0, :8] = [0, 32, 64, 96, 128, 160, 192, 224]
    found = read_mask(save(mask, tmp_path / "few.png"), rule)
    assert found.sum() == (7 if rule == "auto" else expected)
    mask[1, :9] = 200 + np.arange(9)
    assert read_mask(save(mask, tmp_path / "m.png"), rule)[0].sum() == expected


def test_grey_levels_and_colours_of_classes_all_count(tmp_path):
    grey, colours = np.zeros((8, 8), np.uint8), np.zeros((8, 8, 3), np.uint8)
    grey[0, :4] = [60, 120, 180, 240]
    colours[0, :4] = [[255, 0, 0], [0, 0, 64], [0, 64, 0], [64, 64, 0]]
    palette = tmp_path / "p.png"
    Image.fromarray(colours).quantize(8).save(palette)
    for path in (save(grey, tmp_path / "g.png"), save(colours, tmp_path / "c.png"), palette):
        assert read_mask(path).sum() == 4, path.name


def test_deep_and_coloured_masks(tmp_path):
    deep = save(square_mask().astype(np.uint16) * 257, tmp_path / "deep.png")
    red = save(np.dstack([square_mask(), np.zeros((20, 24, 2), np.uint8)]), tmp_path / "red.png")
    drawn = np.dstack([np.full((20, 24, 3), 255, np.uint8), square_mask()])
    clear = save(drawn, tmp_path / "clear.png")
    one_bit = tmp_path / "one_bit.png"
    Image.fromarray(square_mask()).convert("1").save(one_bit)
    for path in (deep, red, clear, one_bit):
        np.testing.assert_array_equal(read_mask(path), square_mask() > 0, err_msg=path.name)


def test_16_bit_colour_has_no_white_level(tmp_path):
    # Pillow cannot write it: a PNG of one pixel value, 1000 of 65535, by hand.
    rows = b"".join(b"\0" + (1000).to_bytes(2, "big") * 3 * 8 for _ in range(8))
    header = (8).to_bytes(4, "big") * 2 + bytes([16, 2, 0, 0, 0])
    parts = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    chunks = (
        len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")
        for kind, data in parts
    )
    path = tmp_path / "a.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))
    assert read_image(path).max() == 1000 // 256
    with pytest.raises(UserError, match="a.png: is 16-bit colour, .* white_level 4095 is for grey"):
        read_image(path, 4095)
