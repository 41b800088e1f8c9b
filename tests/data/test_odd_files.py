"""A good folder into which a hundred odd files have fallen."""

import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ddad_jax.data.folder import folder_source
from ddad_jax.data.prepare import examine
from ddad_jax.data.preprocessing import Preprocessing
from tests.data.pictures import picture, save

KINDS = ("png", "jpg", "jpeg", "bmp", "tif", "tiff", "webp", "PNG", "JPG", "Tif")
NAMES = ("with space", "ä ö ü ß", "部品", "деталь", "a.b.c", "100%", "#1", "it's", "[x]", "-dash")


def make_good(folder: Path) -> set[str]:
    """Good images of every kind, depth and colour, and under every sort of name."""
    made = set()

    def keep(path: Path) -> Path:
        made.add(path.name)
        return path

    for kind in KINDS:
        save(picture(1), keep(folder / f"rgb.{kind}"))
        save(picture(2)[:, :, 0], keep(folder / f"grey.{kind}"))
    for kind in ("png", "tif", "tiff"):
        save(picture(3)[:, :, 0].astype(np.uint16) * 257, keep(folder / f"deep.{kind}"))
    for kind in ("png", "tif", "webp"):
        alpha = np.dstack([picture(4), picture(5)[:, :, 0]])
        save(alpha, keep(folder / f"alpha.{kind}"))
    for kind in ("png", "bmp", "tif"):
        palette = Image.fromarray(picture(6)).quantize(16)
        palette.save(keep(folder / f"palette.{kind}"))
        palette.convert("1").save(keep(folder / f"one_bit.{kind}"))
    for kind in ("jpg", "tif"):
        Image.fromarray(picture(7)).convert("CMYK").save(keep(folder / f"cmyk.{kind}"))
    Image.fromarray(picture(8)).convert("LA").save(keep(folder / "grey_alpha.png"))
    save(picture(9)[:, :, 0].astype(np.float32) / 255, keep(folder / "float.tif"))
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        save(picture(10), keep(folder / f"turned_{orientation}.jpg"), exif=exif)
    for name in NAMES:
        save(picture(11), keep(folder / f"{name}.png"))
    (folder / "link.png").symlink_to(folder / "rgb.png")
    made.add("link.png")
    save(picture(12, 8, 8), keep(folder / "smallest.png"))
    save(picture(13, 3000, 8), keep(folder / "longest.png"))
    return made


def make_bad(folder: Path) -> set[str]:
    """Files that look like images and cannot be used."""
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    made = set()
    for kind in KINDS:
        whole = save(noise, folder / f"truncated.{kind}")
        (folder / f"header.{kind}").write_bytes(whole.read_bytes()[:12])
        whole.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
        (folder / f"zero.{kind}").touch()
        (folder / f"text.{kind}").write_text("This is no image.\n")
        made |= {f"{name}.{kind}" for name in ("truncated", "header", "zero", "text")}
    save(picture(0, 1, 1), folder / "one_pixel.png")
    Image.new("1", (20_000, 20_000)).save(folder / "huge.png")
    (folder / "loop.png").symlink_to(folder / "loop.png")
    (folder / "dangling.png").symlink_to(folder / "gone.png")
    save(np.full((8, 8), 1e6, np.float32), folder / "unbounded.tif")
    save(picture(), folder / "forbidden.png").chmod(0)
    return made | {
        *("one_pixel.png", "huge.png", "loop.png", "dangling.png", "unbounded.tif"),
        "forbidden.png",
    }


def make_bystanders(folder: Path) -> None:
    """Things that are not meant as images at all."""
    for name in ("Thumbs.db", ".DS_Store", "._rgb.png", "readme.txt", "labels.json"):
        (folder / name).write_text("not an image")
    (folder / "folder.png").mkdir()
    (folder / "back").symlink_to(folder, target_is_directory=True)


@pytest.fixture
def folder(bound_by_permissions, tmp_path):
    (tmp_path / "good").mkdir()
    return tmp_path / "good"


@pytest.mark.parametrize("recursive", [False, True])
def test_every_good_image_is_used_and_every_bad_one_named_once(folder, tmp_path, caplog, recursive):
    good, bad = make_good(folder), make_bad(folder)
    make_bystanders(folder)
    assert len(good) + len(bad) >= 100
    source = folder_source(folder, recursive=recursive)
    with caplog.at_level(logging.WARNING, "absl"):
        report, sets = examine(source, Preprocessing(16), tmp_path / "cache", "skip")
    used = {sample.image.name for sample in sets["train"].samples}
    assert used == good
    (left_out,) = (r.getMessage() for r in caplog.records if "are left out" in r.getMessage())
    assert f"{len(bad)} images cannot be read" in left_out
    assert_each_named_once(report.unreadable, folder, bad)


def assert_each_named_once(reasons, folder, names):
    """Every reason reads `<path>: <reason>`, one a file."""
    for name in names:
        about = [reason for reason in reasons if f"{folder / name}: " in reason]
        assert len(about) == 1, (name, about)
        assert len(about[0].split(f"{name}: ")[1]) > 5
    assert len(reasons) == len(names)


def test_good_images_are_read_as_what_they_show(folder):
    make_good(folder)
    source = folder_source(folder)
    by_name = {sample.image.name: source.read_image(sample) for sample in source.samples}
    for kind in ("png", "bmp", "tif"):
        np.testing.assert_array_equal(by_name[f"rgb.{kind}"], picture(1))
    np.testing.assert_array_equal(by_name["link.png"], picture(1))
    np.testing.assert_array_equal(by_name["deep.png"], by_name["deep.tif"])
    np.testing.assert_array_equal(by_name["alpha.png"], by_name["alpha.tif"])
    for name in NAMES:
        np.testing.assert_array_equal(by_name[f"{name}.png"], picture(11))
