import errno
import os
from pathlib import Path

import pytest

from ddad_jax.data.files import (
    FileSource,
    find_images,
    find_mask,
    group_of,
    masks_in,
    require_root,
    share_of_images,
    subfolders,
)
from ddad_jax.data.sample import Sample
from ddad_jax.errors import UserError
from ddad_jax.machine.storage import only_run
from tests.data.pictures import picture, save, square_mask


def names(folder, **options):
    return [path.relative_to(folder).as_posix() for path in find_images(folder, **options)]


def test_finds_every_kind_sorted_and_nothing_else(tmp_path):
    wanted = ["a.PNG", "b.jpg", "c.JPEG", "d.bmp", "e.tif", "f.TIFF", "g.webp", "ü mit Raum.png"]
    for name in [*wanted, "notes.txt", ".hidden.png", "._a.png", "Thumbs.db"]:
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    assert names(tmp_path) == wanted


def test_processes_divide_images_and_masks_beside_them_are_nobodys():
    there = ["b/2.png", "a/1.jpg", "a/1_mask.png", "b/2.txt", "c.png", ".hidden.png"]
    shares = [share_of_images(there, number, 2) for number in range(2)]
    assert shares == [{"a/1.jpg", "c.png"}, {"b/2.png"}]
    # Who would have none looks at one of the others': a folder without images is a mistake.
    assert share_of_images(["c.png"], 3, 4) == {"c.png"}
    assert share_of_images(["notes.txt"], 0, 2) == set()


def test_looks_into_folders_only_if_told(tmp_path):
    save(picture(), tmp_path / "monday/a.png")
    save(picture(), tmp_path / "b.png")
    assert names(tmp_path) == ["b.png"]
    assert names(tmp_path, recursive=True) == ["b.png", "monday/a.png"]


def test_links_that_lead_in_circles_end(tmp_path):
    save(picture(), tmp_path / "monday/a.png")
    (tmp_path / "monday/back").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "self.png").symlink_to(tmp_path / "self.png")
    assert names(tmp_path, recursive=True) == ["monday/a.png", "self.png"]
    source = FileSource("", (Sample("self", 0, "good", "train", "", image=tmp_path / "self.png"),))
    with pytest.raises(UserError, match=r"self\.png: cannot be read \(Too many levels of symb"):
        source.read_image(source.samples[0])


def test_linked_folders_are_followed(tmp_path):
    save(picture(), tmp_path / "elsewhere/a.png")
    (tmp_path / "data").mkdir()
    (tmp_path / "data/linked").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    assert names(tmp_path / "data", recursive=True) == ["linked/a.png"]


@pytest.mark.parametrize("mask", ["a_mask.png", "a.png", "a.bmp", "a.PNG", "a_mask.TIF"])
def test_masks_are_found_by_stem(tmp_path, mask):
    (tmp_path / mask).touch()
    (tmp_path / "ab.png").touch()
    assert find_mask(masks_in(tmp_path), Path("elsewhere/a.jpg")) == tmp_path / mask


def test_no_mask(tmp_path):
    assert find_mask(masks_in(tmp_path), Path("a.jpg")) is None
    assert find_mask(masks_in(tmp_path / "missing"), Path("a.jpg")) is None


@pytest.mark.parametrize(
    "pattern, expected",
    [("", None), (r"part(\d+)", "12"), (r"part\d+", "part12"), ("camera", None)],
)
def test_groups_are_found_in_file_names(pattern, expected):
    assert group_of(Path("part99/part12_view3.png"), pattern) == expected


def test_a_pattern_that_is_none():
    with pytest.raises(
        UserError, match=r"data.settings.group_pattern: '\(' is not a regular expression"
    ):
        group_of(Path("a.png"), "(")


def test_root_unset_missing_or_a_file(tmp_path):
    with pytest.raises(UserError, match="data.root: is not set. Use --config.data.root=<folder>"):
        require_root("")
    with pytest.raises(UserError, match="data.root: '.*nowhere' does not exist"):
        require_root(tmp_path / "nowhere")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="data.root: '.*file' is a file, not a folder"):
        require_root(tmp_path / "file")


def test_settings_of_decoding_are_checked():
    with pytest.raises(
        UserError, match="data.settings.mask_rule: 'any' is not one of auto, nonzero, half"
    ):
        FileSource("", (), mask_rule="any")
    with pytest.raises(UserError, match="data.settings.white_level: 70000 is outside 1 to 65535"):
        FileSource("", (), white_level=70_000)


def test_digest_follows_content_and_rules_but_not_the_place(tmp_path):
    def digest(folder, seed=0, value=255, **rules):
        sample = Sample(
            "a",
            1,
            "dent",
            "test",
            "",
            image=save(picture(seed), tmp_path / folder / "a.png"),
            mask=save(square_mask(value=value), tmp_path / folder / "a_mask.png"),
        )
        return FileSource("", (sample,), **rules).digest(sample)

    assert digest("one") == digest("two")
    changed = [digest("three", seed=1), digest("four", value=1), digest("five", mask_rule="half")]
    assert len({digest("one"), *changed}) == 4


def test_what_is_passed_over_is_counted_with_examples(tmp_path, caplog):
    for name in ("a.png", "b.svg", "c.txt", "d.txt", "e.txt", ".hidden.txt"):
        (tmp_path / name).touch()
    assert names(tmp_path) == ["a.png"]
    (line,) = (record.getMessage() for record in caplog.records)
    assert line.endswith("4 files without an image suffix are passed over: "
                         "b.svg, c.txt, d.txt and 1 more")  # fmt: skip


def test_masks_beside_images_are_no_images(tmp_path, caplog):
    for name in ("a.png", "a_GT.png", "b.jpg", "b_mask.png", "c_mask.png"):
        (tmp_path / name).touch()
    assert names(tmp_path) == ["a.png", "b.jpg", "c_mask.png"]
    assert "2 files that are masks of images beside them" in caplog.text


def test_a_folder_that_may_not_be_read(tmp_path, monkeypatch, caplog):
    for name in ("a.png", "lost+found/b.png"):
        save(picture(), tmp_path / name)
    scandir = os.scandir

    def forbidden(folder):
        if folder.name in closed:
            raise PermissionError(errno.EACCES, "Permission denied")
        return scandir(folder)

    monkeypatch.setattr("ddad_jax.data.files.os.scandir", forbidden)
    closed = ["lost+found"]
    assert names(tmp_path, recursive=True) == ["a.png"]
    assert "lost+found: cannot be read (Permission denied), and is passed over" in caplog.text
    closed = [tmp_path.name]
    with pytest.raises(UserError, match="cannot be read .Permission denied"):
        find_images(tmp_path)


def test_what_a_run_wrote_among_the_photographs_is_none_of_them(tmp_path):
    save(picture(), tmp_path / "lot/a.png")
    with only_run(tmp_path):
        pass
    (tmp_path / "run").mkdir()
    with only_run(tmp_path / "run"):
        pass
    save(picture(), tmp_path / "run/pictures/test/a.png.png")
    assert find_images(tmp_path, recursive=True) == [tmp_path / "lot/a.png"]
    assert [folder.name for folder in subfolders(tmp_path)] == ["lot"]
