import json
import threading
from pathlib import Path

import pytest

from ddad_jax.errors import UserError
from ddad_jax.machine import copies
from ddad_jax.machine.copies import (
    INDEX,
    PENDING,
    Copy,
    copy_folder,
    fetched,
    needs_all,
    obtain_beside,
    versions_in,
)
from ddad_jax.machine.objects import Store
from ddad_jax.machine.storage import LOCK
from tests.machine.stores import allow_requests


def contents(folder):
    """By name, of the files that are no matter of the copy alone."""
    files = [path for path in Path(folder).rglob("*") if path.is_file()]
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in files
        if not path.name.startswith(".")
    }


def copy_of(bucket, folder, leaves_out=needs_all):
    folder.mkdir(parents=True, exist_ok=True)
    return Copy(Store(bucket, "--workdir"), folder, leaves_out)


def write(folder, **files):
    for name, text in files.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_what_one_machine_publishes_another_has(bucket, tmp_path):
    here, there = copy_of(bucket, tmp_path / "here"), copy_of(bucket, tmp_path / "there")
    with here.held():
        here.refresh()
        write(tmp_path / "here", report="1", steps__1__data="a", steps__2__data="b", empty="")
        here.publish()
        there.refresh()
        assert contents(tmp_path / "there") == contents(tmp_path / "here")
        write(tmp_path / "here", report="22", steps__3__data="c", ünicode_und_leer="é")
        (tmp_path / "here/steps/1/data").unlink()
        here.publish()
        there.refresh()
        assert contents(tmp_path / "there") == contents(tmp_path / "here")
        assert "steps/1/data" not in contents(tmp_path / "there")
    names = Store(bucket, "").versions()
    assert {name for name in names if name != INDEX} == set(contents(tmp_path / "here"))


def test_what_is_of_one_machine_stays_there(bucket, tmp_path):
    copy, folder = copy_of(bucket, tmp_path), tmp_path
    write(folder, cache__images="1", of_all="1")
    write(folder / "1.orbax-checkpoint-tmp", data="half")
    (folder / LOCK).touch()
    with copy.held():
        copy.publish()
        copy.refresh()
    assert set(Store(bucket, "").versions()) == {INDEX, "of_all"}
    assert (folder / "cache/images").exists()


class Cut(Exception):
    """The moment at which a machine is gone."""


@pytest.mark.parametrize("cut_at", range(9))
def test_cut_off_at_any_moment_what_counts_is_whole(bucket, tmp_path, monkeypatch, cut_at):
    before = {"record": b"old", "steps/1/data": b"1" * 100, "steps/1/more": b"1", "log": b"line"}
    after = {"record": b"new", "steps/2/data": b"2" * 100, "steps/2/more": b"2", "log": b"line"}
    first = copy_of(bucket, tmp_path / "first")

    def put(files):
        for name in contents(tmp_path / "first"):
            (tmp_path / "first" / name).unlink()
        for name, content in files.items():
            (tmp_path / "first" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "first" / name).write_bytes(content)

    with first.held():
        put(before)
        first.publish()
        put(after)
        done = []

        def counted(action):
            def one(*arguments):
                if len(done) == cut_at:
                    raise Cut
                done.append(arguments)
                return action(*arguments)

            return one

        with monkeypatch.context() as patch:
            for name in ("put_file", "pipe_file", "cp_file", "rm_file"):
                patch.setattr(
                    first._store._files, name, counted(getattr(first._store._files, name))
                )
            if cut_at < 9:
                try:
                    first.publish()
                    was_cut = False
                except UserError:
                    was_cut = True
    second = copy_of(bucket, tmp_path / "second")
    second.refresh()
    found = contents(tmp_path / "second")
    assert found in (before, after)
    assert was_cut or found == after
    # Who holds it next clears up, and nothing of it is lost.
    with second.held():
        second.refresh()
        assert contents(tmp_path / "second") == found
        write(tmp_path / "second", record="newest")
        second.publish()
    left = set(Store(bucket, "").versions()) - {INDEX}
    assert left == {*found, "record"}
    third = copy_of(bucket, tmp_path / "third")
    third.refresh()
    assert contents(tmp_path / "third") == found | {"record": b"newest"}


def test_a_copy_that_has_more_than_the_bucket_loses_it(bucket, tmp_path):
    copy = copy_of(bucket, tmp_path)
    with copy.held():
        write(tmp_path, kept="1")
        copy.publish()
    write(tmp_path, step__20="never published", kept="changed here alone")
    copy_of(bucket, tmp_path).refresh()
    assert contents(tmp_path) == {"kept": b"1"}


@pytest.mark.slow
def test_what_is_left_out_stays_in_the_bucket(bucket, tmp_path):
    with copy_of(bucket, tmp_path / "a").held():
        pass
    copy = copy_of(bucket, tmp_path / "a")
    with copy.held():
        write(tmp_path / "a", denoiser__checkpoints__9="big", detector="1")
        copy.publish()
    small = copy_of(bucket, tmp_path / "b", lambda name: "checkpoints" in name)
    with small.held():
        small.refresh()
        assert contents(tmp_path / "b") == {"detector": b"1"}
        write(tmp_path / "b", scores="1")
        small.publish()
    copy.refresh()
    assert set(contents(tmp_path / "a")) == {"denoiser/checkpoints/9", "detector", "scores"}


def test_a_damaged_object_is_named(bucket, tmp_path, monkeypatch):
    monkeypatch.setattr(copies, "PAUSE", 0.0)
    copy = copy_of(bucket, tmp_path / "a")
    with copy.held():
        write(tmp_path / "a", detector="right")
        copy.publish()
    Store(bucket, "").write("detector", b"wrong")
    other = copy_of(bucket, tmp_path / "b")
    with pytest.raises(UserError, match=r"^--workdir=\w+://.*: detector is damaged: its checksum"):
        other.refresh()
    # As it says.
    Store(bucket, "").remove(["detector"])
    with other.held():
        other.refresh()
        assert contents(tmp_path / "b") == {}
        write(tmp_path / "b", detector="made anew")
        other.publish()
    copy.refresh()
    assert contents(tmp_path / "a") == {"detector": b"made anew"}


def test_a_folder_that_was_copied_there_by_other_means_is_read_and_taken_over(bucket, tmp_path):
    Store(bucket, "").write("detector", b"1")
    Store(bucket, "").write("figures/roc", b"2")
    assert contents(fetched(bucket, "--images")) == {"detector": b"1", "figures/roc": b"2"}
    copy = copy_of(bucket, tmp_path / "a")
    with copy.held():
        copy.refresh()
        write(tmp_path / "a", detector="new")
        copy.publish()
    assert contents(fetched(bucket, "--images")) == {"detector": b"new", "figures/roc": b"2"}


def test_files_are_read_once_and_again_when_they_change(bucket, monkeypatch):
    store = Store(bucket, "")
    for name in ("good/1.png", "good/2.png", "bad/1.png"):
        store.write(name, name.encode())
    read = []
    monkeypatch.setattr(
        Store,
        "download",
        lambda self, files, real=Store.download: (read.extend(files.values()), real(self, files)),
    )
    folder = fetched(bucket, "--images")
    assert sorted(read) == ["bad/1.png", "good/1.png", "good/2.png"]
    store.write("good/1.png", b"another")
    store.remove(["bad/1.png"])
    read.clear()
    assert contents(fetched(bucket, "--images")) == {
        "good/1.png": b"another",
        "good/2.png": b"good/2.png",
    }
    assert read == ["good/1.png"]
    path = fetched(f"{bucket}/good/2.png", "--detector")
    assert path.name == "2.png" and path.read_bytes() == b"good/2.png"
    assert folder == copy_folder(bucket)


def test_what_lies_beside_a_copy_is_read_from_where_it_lies(bucket, tmp_path):
    store = Store(bucket, "")
    store.write("part/detector.safetensors", b"1")
    store.write("networks/shared", b"2")
    for url in (f"{bucket}/part", f"{bucket}/part/detector.safetensors"):
        found = fetched(url, "--detector")
        path = (found if found.is_file() else found / "detector.safetensors").resolve()
        place = (path.parent / "../networks/shared").resolve()
        assert not place.exists()
        obtain_beside(place)
        assert place.read_bytes() == b"2"
        place.unlink()
    obtain_beside(tmp_path / "elsewhere")
    assert not (tmp_path / "elsewhere").exists()


def test_nothing_there_is_one_line(bucket):
    with pytest.raises(UserError, match=r"^data.root=.*/none: nothing is there; name a file or"):
        fetched(f"{bucket}/none", "data.root")


def test_an_object_cannot_lie_outside_of_the_copy(bucket, tmp_path):
    store = Store(bucket, "")
    store.write("fine", b"1")
    store.write(
        INDEX,
        json.dumps({"files": {"../outside": "0", "a/../../outside": "0"}, "stray": []}).encode(),
    )
    copy_of(bucket, tmp_path / "in/side").refresh()
    assert not contents(tmp_path)


def test_a_file_may_grow_while_it_is_published(bucket, tmp_path, monkeypatch):
    copy, upload = copy_of(bucket, tmp_path / "a"), Store.upload

    def grow(self, files):
        with (tmp_path / "a/log").open("a") as file:
            file.write("more")
        upload(self, files)

    with copy.held(), monkeypatch.context() as patch:
        patch.setattr(Store, "upload", grow)
        for written in ("begun", "begunmore"):
            write(tmp_path / "a", **({"log": "begun"} if written == "begun" else {}))
            copy.publish()
            other = copy_of(bucket, tmp_path / "b")
            other.refresh()
            assert contents(tmp_path / "b") == {"log": written.encode()}
    assert not list((tmp_path / "a").glob(".publish-*"))


def test_two_threads_publish_one_after_the_other(bucket, tmp_path):
    copy = copy_of(bucket, tmp_path)
    with copy.held():
        write(tmp_path, **{f"file{number}": "1" for number in range(20)})
        threads = [threading.Thread(target=copy.publish) for _ in range(3)]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
    assert set(Store(bucket, "").versions()) == {INDEX, *contents(tmp_path)}
    assert not [name for name in Store(bucket, "").versions() if name.startswith(PENDING)]


def test_a_bucket_that_vanishes_is_one_line_and_what_is_here_stays(bucket, tmp_path):
    url = f"{bucket[:4]}/gone-{bucket[:2]}/run"
    store = Store(url, "--workdir")
    store._files.mkdir(f"gone-{bucket[:2]}")
    here = copy_of(url, tmp_path / "here")
    with pytest.raises(UserError, match=f"^--workdir={url}: cannot be"), here.held():
        here.refresh()
        write(tmp_path / "here", report="1")
        here.publish()
        store._files.rm(f"gone-{bucket[:2]}", recursive=True)
        write(tmp_path / "here", report="22")
        here.publish()
    assert contents(tmp_path / "here") == {"report": b"22"}
    # The same command, when there is a bucket again.
    store._files.mkdir(f"gone-{bucket[:2]}")
    here = copy_of(url, tmp_path / "here")
    with here.held():
        here.refresh()
    assert contents(tmp_path / "here") == {}
    assert contents(next(tmp_path.glob("gone-here-*"))) == {"report": b"22"}


@pytest.mark.slow
@pytest.mark.parametrize("allowed", [0, 1, 2, 4])
def test_permission_that_is_taken_away_is_one_line_and_what_counted_is_whole(
    reach, servers, tmp_path, allowed
):
    reach("s3")
    url = f"s3://runs/permission-{allowed}"
    here, there = copy_of(url, tmp_path / "here"), copy_of(url, tmp_path / "there")
    with pytest.raises(UserError, match=rf"^--workdir={url}: cannot be .*; check"), here.held():
        here.refresh()
        write(tmp_path / "here", old="1", report="1")
        here.publish()
        write(tmp_path / "here", new="2", report="22")
        allow_requests(servers["s3"], allowed)
        try:
            here.publish()
        finally:
            allow_requests(servers["s3"], "inf")
    there.refresh()
    assert contents(tmp_path / "there") == {"old": b"1", "report": b"1"}
    assert contents(tmp_path / "here") == {"old": b"1", "new": b"2", "report": b"22"}
    # With permission, the same files are published.
    with here.held():
        here.publish()
    there.refresh()
    assert contents(tmp_path / "there") == contents(tmp_path / "here")


def test_files_that_become_alike_are_all_replaced(bucket, tmp_path):
    here, there = copy_of(bucket, tmp_path / "here"), copy_of(bucket, tmp_path / "there")
    with here.held():
        write(tmp_path / "here", a="1", b="2", c="black")
        here.publish()
        write(tmp_path / "here", a="black", b="black")
        here.publish()
    there.refresh()
    assert contents(tmp_path / "there") == dict.fromkeys("abc", b"black")


@pytest.mark.parametrize("fails", [False, True])
def test_what_lies_there_without_an_index_is_taken_over_whole(bucket, tmp_path, monkeypatch, fails):
    write(tmp_path / "hand", detector="1", checkpoints__1="2")
    Store(bucket, "").upload({n: tmp_path / "hand" / n for n in contents(tmp_path / "hand")})
    here = copy_of(bucket, tmp_path / "here", leaves_out=lambda n: n.startswith("checkpoints"))
    with here.held():
        here.refresh()
        write(tmp_path / "here", rows="3", detector="4")
        if fails:
            with monkeypatch.context() as patch, pytest.raises(UserError):
                patch.setattr(here._store._files, "put_file", None)
                here.publish()
        else:
            here.publish()
    there = copy_of(bucket, tmp_path / "there")
    with there.held():
        there.refresh()
    added = {} if fails else {"rows": b"3", "detector": b"4"}
    assert contents(tmp_path / "there") == contents(tmp_path / "hand") | added


def test_what_is_left_out_is_neither_written_nor_read_again(bucket, tmp_path, monkeypatch):
    def leaves_out(name):
        return name.startswith("checkpoints")

    first = copy_of(bucket, tmp_path / "first")
    with first.held():
        write(tmp_path / "first", checkpoints__1="old", checkpoints__2="same")
        first.publish()
    second = copy_of(bucket, tmp_path / "second")
    with second.held():
        second.refresh()
        write(tmp_path / "second", checkpoints__1="new")
        second.publish()
    # An older copy that leaves them out, in a command that writes something else.
    first = copy_of(bucket, tmp_path / "first", leaves_out)
    with first.held():
        first.refresh()
        write(tmp_path / "first", rows="1")
        first.publish()
    read = []
    first = copy_of(bucket, tmp_path / "first")
    download = first._store.download
    monkeypatch.setattr(
        first._store, "download", lambda files: [read.extend(files.values()), download(files)]
    )
    first.refresh()
    assert contents(tmp_path / "first")["checkpoints/1"] == b"new"
    assert read == ["checkpoints/1"]


def test_of_a_former_share_nothing_stays(bucket, tmp_path):
    write(tmp_path / "from", a="1", b="2", c="3")
    Store(bucket, "").upload({n: tmp_path / "from" / n for n in "abc"})
    for own in ("ab", "bc", "abc"):
        folder = fetched(bucket, "--images", lambda name, own=own: name not in own, clears=True)
        assert {*contents(folder)} == {*own} == {path.name for path in versions_in(folder)}


def test_an_object_that_vanishes_while_it_is_read_is_looked_for_again(
    bucket, tmp_path, monkeypatch
):
    monkeypatch.setattr(copies, "PAUSE", 0.0)
    here = copy_of(bucket, tmp_path / "here")
    with here.held():
        write(tmp_path / "here", old="1", steady="2")
        here.publish()
        there = copy_of(bucket, tmp_path / "there")
        download = there._store.download

        def late(files):
            if (tmp_path / "here/old").exists():
                (tmp_path / "here/old").unlink()
                here.publish()
            download(files)

        monkeypatch.setattr(there._store, "download", late)
        there.refresh()
    assert contents(tmp_path / "there") == {"steady": b"2"}
