import io

import numpy as np
import pytest
from PIL import Image

from ddad_jax.data.preprocessing import Preprocessing
from ddad_jax.data.resize import fit_image, restore_map
from ddad_jax.data.tiling import tile_positions
from ddad_jax.errors import UserError
from tests.data.pictures import picture, save


def encoded(image, kind="PNG"):
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.parametrize("white_level", [65535, 4095])
@pytest.mark.parametrize("depth", ["grey 8", "colour 8", "grey 16", "float"])
def test_a_photograph_is_the_same_whatever_it_comes_as(tmp_path, depth, white_level):
    how = Preprocessing(white_level=white_level)
    colour = picture(3, 40, 30)
    pixels = {
        "grey 8": colour[..., 0],
        "colour 8": colour,
        "grey 16": colour[..., 0].astype(np.uint16) * 16,
        "float": colour[..., 0].astype(np.float32) / 255,
    }[depth]
    image = Image.fromarray(pixels)
    kind = "TIFF" if depth == "float" else "PNG"
    path = tmp_path / f"a.{kind.lower()}"
    image.save(path)
    expected = how.read(path)
    brightest = float(pixels.max())
    assert expected.shape == (30, 40, 3) and expected.dtype == np.uint8
    ways = [str(path), path.read_bytes(), Image.open(path), image, pixels]
    if pixels.ndim == 2:
        ways.append(pixels[:, :, None])
    for photograph in ways:
        np.testing.assert_array_equal(how.read(photograph), expected)
    white = {"grey 16": white_level, "float": 1}.get(depth, 255)
    assert expected.max() == pytest.approx(brightest / white * 255, abs=1)


def test_colour_of_sixteen_bits_in_an_array_follows_the_white_level():
    values = np.full((10, 10, 3), 4095, np.uint16)
    assert (Preprocessing(white_level=4095).read(values) == 255).all()


def test_a_turned_photograph_is_upright_in_every_way(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    path = save(picture(0, 40, 20), tmp_path / "a.png", exif=exif)
    for photograph in (path, path.read_bytes(), Image.open(path)):
        assert Preprocessing().read(photograph).shape == (40, 20, 3)


@pytest.mark.parametrize(
    ("photograph", "message"),
    [
        (np.zeros((4, 40, 3), np.uint8), r"part 7: is an array of shape \(4, 40, 3\)"),
        (np.zeros((40, 40, 4), np.uint8), r"part 7: .*1 or 3 colours"),
        (np.zeros((2, 40, 40, 3), np.uint8), "part 7: .*expected height, width"),
        (np.zeros((40, 40), bool), "part 7: is an array of bool"),
        (np.full((40, 40), -1.0), "part 7: grey values run from -1 to -1; expected 0 to 1"),
        (np.full((40, 40), np.nan), "part 7: grey values"),
        (np.full((40, 40), 70000, np.int32), "part 7: grey values .*expected 0 to 65535"),
        (b"nothing", "part 7: is not an image"),
        (b"", "part 7: is empty"),
        ("/nowhere/a.png", "/nowhere/a.png: cannot be read"),
    ],
)
def test_what_cannot_be_read_is_named(photograph, message):
    with pytest.raises(UserError, match=message):
        Preprocessing().read(photograph, "part 7")


@pytest.mark.parametrize("resize", ["stretch", "pad", "crop"])
def test_a_whole_image_is_one_square_and_its_map_finds_back(resize):
    how, image = Preprocessing(32, resize), picture(1, 70, 50)
    squares = how.squares(image)
    np.testing.assert_array_equal(squares, fit_image(image, 32, resize)[None])
    heat = squares[..., 0].astype(np.float32)
    expected = restore_map(heat[0], 50, 70, resize)
    np.testing.assert_array_equal(how.restore(heat, 50, 70), expected)
    layers = how.restore(np.stack([heat, heat + 1], axis=-1), 50, 70)
    np.testing.assert_allclose(layers[..., 1], expected + 1, rtol=1e-5)


@pytest.mark.parametrize("resize", ["stretch", "pad", "crop"])
def test_tiles_are_pixels_of_their_image_and_blend_into_it(resize):
    how, image = Preprocessing(32, resize, tile=32, overlap=8), picture(1, 100, 70)
    squares = how.squares(image)
    positions = tile_positions(70, 100, 32, 8)
    assert len(squares) == len(positions) == 12
    for square, (top, left) in zip(squares, positions, strict=True):
        np.testing.assert_array_equal(square, image[top : top + 32, left : left + 32])
    back = how.restore(squares.astype(np.float32), 70, 100)
    np.testing.assert_allclose(back, image, rtol=1e-5)


def test_tiles_of_another_size_than_the_networks():
    how, image = Preprocessing(16, tile=32, overlap=8), picture(1, 100, 70)
    squares = how.squares(image)
    assert squares.shape == (12, 16, 16, 3)
    back = how.restore(squares[..., 0].astype(np.float32), 70, 100)
    assert np.corrcoef(back.ravel(), image[..., 0].ravel())[0, 1] > 0.9


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": 0}, "size: 0 must be at least 1"),
        ({"white_level": 70000}, "white_level: 70000 must be .*at most 65535"),
        ({"reading": 2}, "rules of version 2, but this ddad_jax has those of version 1"),
    ],
)
def test_settings_are_checked(settings, message):
    with pytest.raises(UserError, match=message):
        Preprocessing(**settings)
