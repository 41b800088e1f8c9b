"""Random folders of what users have: every file is used, or named with its reason.

`DDAD_FUZZ=<seed>,<folders>` chooses others than the 500 of seed 0, such as `DDAD_FUZZ=7,2000`.
"""

import io
import logging
import os
import random
import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ddad_jax.data.files import readable
from ddad_jax.data.folder import folder_source
from ddad_jax.data.mvtec import mvtec_source
from ddad_jax.data.prepare import examine
from ddad_jax.data.preprocessing import Preprocessing
from ddad_jax.errors import UserError
from tests.data.pictures import picture, square_mask

SEED, FOLDERS = map(int, os.environ.get("DDAD_FUZZ", "0,500").split(","))
SHARES = 20
STEMS = (
    "a", "part 7", "Teil-ü", "部品", "x.y", "#1", "100%", "it's", "line\nbreak", "n" * 240,
    os.fsdecode(b"Gr\xfcn"), "-dash", "[1]", "~tilde", "IMG_0001", "e\u0301",
)  # fmt: skip
GOOD_WORDS = ("good", "Good", "OK", "ok", "pass", "PASS", "normal", "Non-Defective", "defect_free")
BAD_WORDS = ("scratch", "dent", "NG", "bad", "Defekt 3", "broken_large", "部品", "crack.v2")
BYSTANDERS = ("Thumbs.db", "notes.txt", "labels.json", "model.pt", "clip.mp4", "raw.svg")


def encoded(pixels, kind, mode="RGB"):
    image, file = Image.fromarray(pixels).convert(mode), io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


# suffix -> the bytes of a picture that can be read.
READABLE = {
    ".png": lambda pixels: encoded(pixels, "PNG"),
    ".PNG": lambda pixels: encoded(pixels, "PNG", "P"),
    ".jpg": lambda pixels: encoded(pixels, "JPEG"),
    ".JPEG": lambda pixels: encoded(pixels, "JPEG", "CMYK"),
    ".jfif": lambda pixels: encoded(pixels, "JPEG", "L"),
    ".bmp": lambda pixels: encoded(pixels, "BMP"),
    ".tif": lambda pixels: encoded(pixels, "TIFF"),
    ".gif": lambda pixels: encoded(pixels, "GIF"),
    ".webp": lambda pixels: encoded(pixels, "WEBP"),
    ".jp2": lambda pixels: encoded(pixels, "JPEG2000"),
    ".pgm": lambda pixels: encoded(pixels, "PPM", "L"),
    ".tiff": lambda pixels: encoded(pixels[..., 0].astype(np.uint16) * 256, "TIFF", "I;16"),
}


def pages(pixels):
    file = io.BytesIO()
    others = [Image.fromarray(picture(9000 + number)) for number in range(2)]
    Image.fromarray(pixels).save(file, "TIFF", save_all=True, append_images=others)
    return file.getvalue()


# suffix and the bytes of what cannot be used as a photograph.
BROKEN = (
    (".png", lambda pixels: b""),
    (".jpg", lambda pixels: encoded(pixels, "JPEG")[:150]),
    (".bmp", lambda pixels: b"this is text"),
    (".heic", lambda pixels: b"\0\0\0\x18ftypheic" + b"\0" * 99),
    (".png", lambda pixels: encoded(pixels[:4, :4], "PNG")),
    (".tif", pages),
)


@dataclass
class Made:
    """What was put into a folder, by path."""

    used: dict[Path, str] = field(default_factory=dict)
    broken: set[Path] = field(default_factory=set)
    bystanders: set[Path] = field(default_factory=set)
    copies: dict[Path, Path] = field(default_factory=dict)
    masks: dict[Path, str] = field(default_factory=dict)
    passed_folders: set[str] = field(default_factory=set)

    def put(self, path, data):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return path


class Maker:
    """Makes a random folder and notes what was meant."""

    def __init__(self, home, seed):
        self.home, self.random, self.made = home, random.Random(seed), Made()
        self.pictures = 0

    def stems(self, count):
        stems = self.random.sample(STEMS, min(count, len(STEMS)))
        return stems + [f"{number:03d}" for number in range(count - len(stems))]

    def picture(self):
        self.pictures += 1
        return picture(1000 * self.random.randrange(1000) + self.pictures)

    def images(self, folder, count, label):
        """Pictures that can be read, and now and then one that cannot, or a bystander."""
        for stem in self.stems(count):
            suffix = self.random.choice(sorted(READABLE))
            path = self.made.put(folder / f"{stem}{suffix}", READABLE[suffix](self.picture()))
            self.made.used[path] = label
        for number in range(self.random.choice((0, 0, 1, 3))):
            suffix, data = self.random.choice(BROKEN)
            path = folder / f"broken {number}{suffix}"
            self.made.broken.add(self.made.put(path, data(self.picture())))
        for name in self.random.sample(BYSTANDERS, self.random.choice((0, 0, 1, 4))):
            self.made.bystanders.add(self.made.put(folder / name, b"no image"))
        for name in self.random.sample((".DS_Store", "._a.png", ".hidden.jpg"), 1):
            self.made.put(folder / name, b"hidden")

    def copy_one(self, folder):
        originals = sorted(path for path in self.made.used if path.parent == folder)
        original = self.random.choice(originals)
        path = folder / f"zz copy{original.suffix}"
        self.made.copies[self.made.put(path, original.read_bytes())] = original

    def mask(self, image, folder):
        """A mask of one kind or another, or none."""
        kind = self.random.choice(("square", "square", "square", "class", "none", "empty", "size"))
        mask = {
            "square": square_mask(), "class": square_mask(value=3),
            "empty": square_mask(value=0), "size": square_mask(10, 9), "none": square_mask(),
        }[kind]  # fmt: skip
        if kind == "none" or len(image.stem.encode(errors="surrogateescape")) > 200:
            self.made.masks[image] = "none"
            return
        ending = self.random.choice(("_mask", "", "_GT", "_seg"))
        target = folder / f"{image.stem}{ending}.png"
        if self.random.random() < 0.1:
            target = folder / image.stem / "000.png"
        self.made.put(target, encoded(mask, "PNG", "L"))
        self.made.masks[image] = kind


def make_folder(home, seed):
    """A plain folder with test images and masks; the source that reads it, and what it holds."""
    maker = Maker(home, seed)
    draw = maker.random
    maker.images(home / "good", draw.randint(2, 6), "good")
    if draw.random() < 0.3:
        maker.copy_one(home / "good")
    if draw.random() < 0.3:
        maker.made.passed_folders.add("below")
        maker.made.put(home / "good/below/x.png", encoded(maker.picture(), "PNG"))
    settings = {}
    if draw.random() < 0.8:
        settings["test"] = home / "test"
        if draw.random() < 0.8:
            maker.images(home / "test" / draw.choice(GOOD_WORDS), draw.randint(1, 3), "good")
        words = draw.sample(BAD_WORDS, draw.randint(1, 3))
        for word in words:
            maker.images(home / "test" / word, draw.randint(1, 4), word)
        if draw.random() < 0.3:
            maker.images(home / "test", 1, "unknown")
        if draw.random() < 0.6:
            settings["masks"] = home / "masks"
            (home / "masks").mkdir()
            for image, label in list(maker.made.used.items()):
                if label in words:
                    maker.mask(image, home / "masks" / label)
    return maker.made, lambda: folder_source(home / "good", **settings)


def make_mvtec(home, seed):
    """The layout of MVTec AD."""
    maker = Maker(home, seed)
    draw = maker.random
    maker.images(home / "plate/train/good", draw.randint(2, 6), "good")
    maker.images(home / "plate/test" / draw.choice(GOOD_WORDS), draw.randint(1, 3), "good")
    for word in draw.sample(BAD_WORDS, draw.randint(1, 2)):
        maker.images(home / "plate/test" / word, draw.randint(1, 3), word)
    return maker.made, lambda: mvtec_source(home, "plate")


def assert_all_told(home, made, build, cache, skip, caplog):
    """Builds the source, prepares it, and holds what is said against what was put in."""
    caplog.clear()
    try:
        source = build()
        report, sets = examine(source, Preprocessing(16), cache, "skip" if skip else "error")
    except UserError as error:
        # Nothing at all could be used: one line says so, of a file or setting that is there.
        assert "\n" not in re.sub(r"line\nbreak", "", str(error))
        assert_justified(str(error), made, home)
        return "refused"
    said = " ".join(record.getMessage() for record in caplog.records)
    samples = {sample.image: sample for sample in source.samples}
    expected = {*made.used, *made.broken, *made.copies}
    assert {*samples} == expected, "each image is a sample, and nothing else is"
    for path, label in made.used.items():
        assert samples[path].defect == label
        assert (samples[path].label == 0) == (label == "good")
    reasons = "\n".join(report.unreadable)
    for path in made.broken:
        assert f"{path}: " in reasons
    assert len(report.unreadable) == len(made.broken)
    counted = sum(map(int, re.findall(r"(\d+) files without an image suffix", said)))
    assert counted == len(made.bystanders)
    for name in made.passed_folders:
        assert f"({name}" in said
    told = {name for pair in report.copies for name in pair}
    assert told == {samples[path].name for path in {*made.copies, *made.copies.values()}}
    assert_masks(report, sets, samples, made)
    usable = not report.bad_masks and (skip or not made.broken)
    assert (sets is not None) == usable
    assert report.is_spoiled or usable
    if sets is not None:
        used = {sample.image for split in sets.values() for sample in split.samples}
        assert used == expected - made.broken
    return "spoiled" if report.is_spoiled else "sound"


def assert_masks(report, sets, samples, made):
    names = {kind: set() for kind in ("square", "class", "none", "empty", "size")}
    for image, kind in made.masks.items():
        names[kind].add(samples[image].name)
    assert {*report.empty_masks} == names["empty"]
    assert len(report.bad_masks) == len(names["size"])
    if any(names[kind] for kind in ("square", "class", "empty", "size")):
        assert {*report.missing_masks} == names["none"]
    if sets is not None:
        for row, sample in enumerate(sets["test"].samples):
            marked = sample.name in names["square"] | names["class"]
            assert sets["test"].masks[row].any() == marked
            if marked:
                assert sets["test"].masks[row, :8, :8].all()
                assert sets["test"].masks[row].sum() == 64


def assert_justified(message, made, home):
    """A refusal names what is there, and there is a reason for it."""
    if "holds no mask of any image" in message:
        assert all(kind == "none" for kind in made.masks.values())
    elif "images can be read" in message:
        assert made.broken
    else:
        pytest.fail(f"refused without a reason: {message}")
    assert str(home) in message or readable(str(home)) in message


@pytest.mark.slow
@pytest.mark.parametrize("share", range(SHARES))
def test_every_file_is_used_or_named(tmp_path, caplog, share):
    caplog.set_level(logging.INFO, "absl")
    ends = {"sound": 0, "spoiled": 0, "refused": 0}
    for number in range(share, FOLDERS, SHARES):
        seed = SEED * 1_000_003 + number
        home = tmp_path / str(number)
        choice = random.Random(-seed)
        made, build = choice.choice((make_mvtec, make_folder, make_folder))(home, seed)
        skip = choice.random() < 0.5
        try:
            ends[assert_all_told(home, made, build, tmp_path / "cache", skip, caplog)] += 1
        except AssertionError as error:
            raise AssertionError(f"folder {number} of seed {SEED}, in {home}: {error}") from error
    assert FOLDERS < 500 or (ends["sound"] and ends["spoiled"])
