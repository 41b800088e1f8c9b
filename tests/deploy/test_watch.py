import os
import threading
import time

import numpy as np
import pytest
from PIL import Image

from ddad_jax.data.read import decode_image
from ddad_jax.deploy import watch
from ddad_jax.deploy.watch import Watch, stamp_of
from ddad_jax.errors import UserError


def picture(number):
    """Bytes of a PNG whose grey level says which it is."""
    import io

    file = io.BytesIO()
    noise = np.random.default_rng(number).integers(0, 255, (24, 24, 3), dtype=np.uint8)
    noise[0, 0] = number % 256, number // 256, 0
    Image.fromarray(noise).save(file, "png")
    return file.getvalue()


@pytest.fixture
def watched(tmp_path):
    """Function: seconds to settle, what was done -> a watch in a thread, and what it gives."""
    started = []

    def start(settle=0.3, done=None):
        eye = Watch(tmp_path, settle, done or {})
        scored, broken = [], []

        def run():
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

        thread = threading.Thread(target=run)
        thread.start()
        started.append((eye, thread))
        return scored, broken

    yield start
    for eye, thread in started:
        eye.stop()
        thread.join()


def wait_for(condition, seconds=30):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.05)


def test_a_file_that_is_written_slowly_comes_once_and_whole(watched, tmp_path):
    scored, broken = watched()
    content = picture(7)
    with (tmp_path / "a.png").open("wb") as file:
        for start in range(0, len(content), len(content) // 5):
            file.write(content[start : start + len(content) // 5])
            file.flush()
            time.sleep(0.5)
    wait_for(lambda: scored)
    time.sleep(1.0)
    assert scored == [("a.png", 7)] and not broken


def test_a_file_that_lacks_its_last_bytes_alone_is_not_whole(watched, tmp_path):
    """A decoder does without them."""
    scored, _ = watched(settle=0.2)
    content = picture(9)
    decode_image(content[:-8], "a.png")
    with (tmp_path / "a.png").open("wb") as file:
        file.write(content[:-8])
        file.flush()
        time.sleep(1.5)
        assert not scored
        file.write(content[-8:])
    wait_for(lambda: scored)
    time.sleep(0.8)
    assert scored == [("a.png", 9)]


def test_a_file_moved_into_place_comes_once_and_not_by_its_temporary_name(watched, tmp_path):
    scored, _ = watched()
    part = tmp_path / "b.png.part"
    part.write_bytes(picture(8))
    time.sleep(0.8)
    part.rename(tmp_path / "b.png")
    wait_for(lambda: scored)
    time.sleep(0.8)
    assert scored == [("b.png", 8)]


def test_a_renamed_file_is_not_scored_again_and_an_overwritten_one_is(watched, tmp_path):
    scored, _ = watched()
    (tmp_path / "c.png").write_bytes(picture(1))
    wait_for(lambda: scored)
    (tmp_path / "c.png").rename(tmp_path / "d.png")
    time.sleep(1.2)
    assert scored == [("c.png", 1)]
    (tmp_path / "d.png").write_bytes(picture(2))
    wait_for(lambda: len(scored) == 2)
    assert scored[1] == ("d.png", 2)


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
    scored, _ = watched()
    (tmp_path / "e.png").write_bytes(picture(3))
    os.link(tmp_path / "e.png", tmp_path / "f.png")
    wait_for(lambda: len(scored) == 2)
    assert sorted(name for name, _ in scored) == ["e.png", "f.png"]


def test_a_broken_file_is_given_up_and_may_still_become_whole(watched, tmp_path, monkeypatch):
    monkeypatch.setattr(watch, "GIVE_UP", 1.0)
    scored, broken = watched()
    whole = picture(4)
    (tmp_path / "g.png").write_bytes(whole[:200])
    wait_for(lambda: broken)
    time.sleep(1.5)
    assert broken == ["g.png"] and not scored
    (tmp_path / "g.png").write_bytes(whole)
    wait_for(lambda: scored)
    assert scored == [("g.png", 4)]


def test_what_was_done_before_is_not_done_again(watched, tmp_path):
    path = tmp_path / "h.png"
    path.write_bytes(picture(5))
    scored, _ = watched(done={"h.png": stamp_of(path)})
    (tmp_path / "below").mkdir()
    (tmp_path / "below/i.png").write_bytes(picture(6))
    wait_for(lambda: scored)
    assert scored == [("below/i.png", 6)]


@pytest.mark.slow
def test_many_files_slowly_written_renamed_removed_and_broken(watched, tmp_path, monkeypatch):
    """Five hundred, by eight writers at a time; what is whole in the end comes once, as it is."""
    monkeypatch.setattr(watch, "GIVE_UP", 2.0)
    scored, broken = watched()
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
    wait_for(lambda: len(scored) >= len(expected) and len(broken) >= len(must_break), 120)
    time.sleep(2.0)
    assert dict(scored) == expected and len(scored) == len(expected)
    assert set(broken) == must_break and len(broken) == len(must_break)
