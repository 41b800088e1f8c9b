import io
import os
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from ddad_jax.data.read import decode_image
from ddad_jax.deploy import watch
from ddad_jax.deploy.watch import PAUSE, Watch, stamp_of
from ddad_jax.errors import UserError


def picture(number):
    """Bytes of a PNG whose grey level says which it is."""
    file = io.BytesIO()
    noise = np.random.default_rng(number).integers(0, 255, (24, 24, 3), dtype=np.uint8)
    noise[0, 0] = number % 256, number // 256, 0
    Image.fromarray(noise).save(file, "png")
    return file.getvalue()


def score(eye, scored, broken):
    """Takes what a watch gives until it ends."""
    for name, content in eye.appearing():
        try:
            image = decode_image(content, name)
        except UserError:
            if eye.fail(name):
                broken.append(name)
                eye.finish(name)
            continue
        eye.finish(name)
        scored.append((name, int(image[0, 0, 0]) + 256 * int(image[0, 0, 1])))


class Days:
    """Time as a watch sees it: it passes where the watch pauses, and nowhere else.

    In each pause the next thing happens in the folder; after the last, time passes by itself for a
    minute, in which all must have come that ever comes. Then the watch is stopped.
    """

    def __init__(self, happenings):
        self.now, self._left, self._end = 0.0, list(happenings), None

    def is_set(self):
        return self._end is not None and self.now > self._end

    def set(self):
        self._end = self.now - 1.0

    def wait(self, seconds):
        self.now += seconds
        if self._left:
            self._left.pop(0)()
        elif self._end is None:
            self._end = self.now + 60.0


@pytest.fixture
def watched(tmp_path, monkeypatch):
    """Function: what happens in the folder, pause by pause -> what was scored, what was broken."""

    def run(*happenings, settle=0.3, done=None):
        days = Days(happenings)
        monkeypatch.setattr(watch, "time", SimpleNamespace(monotonic=lambda: days.now))
        monkeypatch.setattr(
            watch, "threading", SimpleNamespace(Event=lambda: days, Lock=threading.Lock)
        )
        scored, broken = [], []
        score(Watch(tmp_path, settle, done or {}), scored, broken)
        return scored, broken

    return run


def nothing():
    """A pause in which nothing happens."""


def append(path, content):
    def happen():
        with path.open("ab") as file:
            file.write(content)

    return happen


def test_a_file_that_is_written_slowly_comes_once_and_whole(watched, tmp_path):
    """Each piece later than a file must have settled for."""
    content, path = picture(7), tmp_path / "a.png"
    pieces = [content[start : start + 100] for start in range(0, len(content), 100)]
    waits = [nothing] * (round(0.3 / PAUSE) + 2)
    happenings = [each for piece in pieces for each in (append(path, piece), *waits)]
    assert watched(*happenings) == ([("a.png", 7)], [])


def test_a_file_that_lacks_its_last_bytes_alone_is_not_whole(watched, tmp_path):
    """A decoder does without them."""
    content, path = picture(9), tmp_path / "a.png"
    decode_image(content[:-8], "a.png")
    cut = (append(path, content[:-8]), *[nothing] * 7)
    assert watched(*cut, append(path, content[-8:])) == ([("a.png", 9)], [])


def test_a_file_moved_into_place_comes_once_and_not_by_its_temporary_name(watched, tmp_path):
    part = tmp_path / "b.png.part"
    found = watched(
        lambda: part.write_bytes(picture(8)), *[nothing] * 4,
        lambda: part.rename(tmp_path / "b.png"),
    )  # fmt: skip
    assert found == ([("b.png", 8)], [])


def test_a_renamed_file_is_not_scored_again_and_an_overwritten_one_is(watched, tmp_path):
    before, after = tmp_path / "c.png", tmp_path / "d.png"
    found = watched(
        lambda: before.write_bytes(picture(1)), *[nothing] * 5,
        lambda: before.rename(after), *[nothing] * 5,
        lambda: after.write_bytes(picture(2)),
    )  # fmt: skip
    assert found == ([("c.png", 1), ("d.png", 2)], [])


def test_a_file_that_changes_while_it_settles_waits_anew(watched, tmp_path):
    """It comes no sooner than it has not changed for as long as it must."""
    path = tmp_path / "c.png"
    changes = [lambda n=n: path.write_bytes(picture(n)) for n in range(1, 5)]
    assert watched(*changes, settle=1.5 * PAUSE) == ([("c.png", 4)], [])


def test_a_file_renamed_while_it_waits_to_be_scored_comes_once(tmp_path):
    eye = Watch(tmp_path, 0.0, {})
    found = eye.appearing()
    (tmp_path / "a.png").write_bytes(picture(1))
    assert next(found)[0] == "a.png"
    (tmp_path / "a.png").rename(tmp_path / "b.png")
    (tmp_path / "c.png").write_bytes(picture(2))
    # Looked at again while a.png is still on its way.
    assert next(found)[0] == "c.png"
    eye.finish("a.png")
    eye.finish("c.png")
    (tmp_path / "d.png").write_bytes(picture(3))
    assert next(found)[0] == "d.png"


def test_a_folder_that_vanishes_ends_nothing_below_it_and_says_so_of_itself(tmp_path):
    eye = Watch(tmp_path / "camera", 0.0, {})
    (tmp_path / "camera/today").mkdir(parents=True)
    (tmp_path / "camera/today/a.png").write_bytes(picture(1))
    found = eye.appearing()
    assert next(found)[0] == "today/a.png"
    (tmp_path / "camera/today/a.png").unlink()
    (tmp_path / "camera/today").rmdir()
    (tmp_path / "camera/b.png").write_bytes(picture(2))
    assert next(found)[0] == "b.png"
    (tmp_path / "camera/b.png").unlink()
    (tmp_path / "camera").rmdir()
    with pytest.raises(UserError, match="camera: does not exist any more"):
        next(found)


def test_two_names_of_one_file_are_two_photographs(watched, tmp_path):
    (tmp_path / "e.png").write_bytes(picture(3))
    os.link(tmp_path / "e.png", tmp_path / "f.png")
    scored, broken = watched()
    assert sorted(scored) == [("e.png", 3), ("f.png", 3)] and not broken


def test_a_broken_file_is_given_up_and_may_still_become_whole(watched, tmp_path):
    path, whole = tmp_path / "g.png", picture(4)
    pauses = [nothing] * round(2 * watch.GIVE_UP / PAUSE)
    found = watched(lambda: path.write_bytes(whole[:200]), *pauses, lambda: path.write_bytes(whole))
    assert found == ([("g.png", 4)], ["g.png"])


@pytest.mark.parametrize(("pauses", "broken"), [(0.8, []), (1.2, ["g.png"])])
def test_a_file_is_broken_after_so_long_without_a_change_and_not_before(
    watched, tmp_path, pauses, broken
):
    path = tmp_path / "g.png"
    path.write_bytes(picture(4)[:200])
    waits = [nothing] * round(pauses * watch.GIVE_UP / PAUSE)
    assert watched(*waits, path.unlink) == ([], broken)


def test_what_was_done_before_is_not_done_again(watched, tmp_path):
    path = tmp_path / "h.png"
    path.write_bytes(picture(5))
    (tmp_path / "below").mkdir()
    (tmp_path / "below/i.png").write_bytes(picture(6))
    assert watched(done={"h.png": stamp_of(path)}) == ([("below/i.png", 6)], [])


def wait_for(condition, seconds):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.05)


@pytest.mark.slow
def test_many_files_slowly_written_renamed_removed_and_broken(tmp_path, monkeypatch):
    """Five hundred, by eight writers at a time; what is whole in the end comes once, as it is."""
    monkeypatch.setattr(watch, "GIVE_UP", 2.0)
    scored, broken, eye = [], [], Watch(tmp_path, 0.3, {})
    scorer = threading.Thread(target=score, args=(eye, scored, broken))
    scorer.start()
    expected, must_break = {}, set()
    lock = threading.Lock()

    def write(number):
        rng = np.random.default_rng(number)
        content, name = picture(number), f"{number:04d}.png"
        path, way = tmp_path / name, number % 5
        if way == 0:
            path.write_bytes(content)
        elif way == 1:
            with path.open("wb") as file:
                cuts = np.sort(rng.integers(0, len(content), 4))
                for piece in np.split(np.frombuffer(content, np.uint8), cuts):
                    file.write(piece.tobytes())
                    file.flush()
                    time.sleep(rng.uniform(0.05, 0.6))
        elif way == 2:
            part = path.with_suffix(".png.tmp")
            part.write_bytes(content)
            time.sleep(rng.uniform(0.0, 0.5))
            part.rename(path)
        elif way == 3:
            path.write_bytes(content[: len(content) // 2])
            with lock:
                must_break.add(name)
            return
        else:
            # Removed before it has settled: it may come, but never half.
            path.write_bytes(content[: len(content) // 2])
            time.sleep(0.05)
            path.unlink()
            return
        with lock:
            expected[name] = number

    numbers = iter(range(500))

    def writer():
        while True:
            with lock:
                number = next(numbers, None)
            if number is None:
                return
            write(number)

    writers = [threading.Thread(target=writer) for _ in range(8)]
    for each in writers:
        each.start()
    for each in writers:
        each.join()
    try:
        wait_for(lambda: len(scored) >= len(expected) and len(broken) >= len(must_break), 120)
        # What comes a second time has come by when a new one does.
        write(1000)
        wait_for(lambda: ("1000.png", 1000) in scored, 30)
    finally:
        eye.stop()
        scorer.join()
    assert dict(scored) == expected and len(scored) == len(expected)
    assert set(broken) == must_break and len(broken) == len(must_break)
