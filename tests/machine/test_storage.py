import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ddad_jax.errors import UserError
from ddad_jax.machine.storage import (
    LOCK,
    OWNER,
    local_path,
    only_run,
    whole_file,
    write_atomically,
    write_json,
)

HOLD = """
import sys, time
from pathlib import Path
from ddad_jax.machine.storage import only_run
with only_run(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the folder."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_a_file_is_whole_and_has_the_rights_of_any_new_file(tmp_path):
    path = tmp_path / "file"
    write_atomically(path, "grün")
    assert path.read_bytes() == "grün".encode()
    (tmp_path / "usual").touch()
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE((tmp_path / "usual").stat().st_mode)
    write_atomically(path, b"\x00")
    assert path.read_bytes() == b"\x00"
    assert len(list(tmp_path.iterdir())) == 2


def test_what_was_there_stays_where_writing_fails(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_atomically(path, "before")

    def fail(*_):
        raise OSError("no")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="no"):
        patch.setattr(os, "replace", fail)
        write_atomically(path, "after")
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(ValueError, match="nan"):
        write_json(path, {"value": float("nan")})
    assert path.read_text() == "before"


def test_a_file_that_others_write_appears_when_it_is_whole(tmp_path):
    path = tmp_path / "picture.png"
    path.write_text("before")
    with whole_file(path) as unfinished:
        assert unfinished.suffix == ".png"
        unfinished.write_text("after")
        assert path.read_text() == "before"
    assert path.read_text() == "after"

    def interrupted():
        with whole_file(path) as unfinished:
            unfinished.write_text("half")
            raise KeyboardInterrupt

    pytest.raises(KeyboardInterrupt, interrupted)
    assert path.read_text() == "after"
    assert list(tmp_path.iterdir()) == [path]


def test_a_tilde_is_the_home_folder(monkeypatch):
    monkeypatch.setenv("HOME", "/home/somebody")
    assert local_path("~/runs", "--workdir") == Path("/home/somebody/runs")
    assert local_path("runs/~", "--workdir") == Path("runs/~")


@pytest.mark.parametrize("url", ["gs://bucket/run", "s3://bucket/run", "https://host/run"])
def test_a_url_is_refused(url):
    with pytest.raises(UserError, match=f"--workdir: '{url}' is a URL; .* not supported"):
        local_path(url, "--workdir")


def test_the_second_run_is_refused_by_the_first_ones_name(tmp_path, holder):
    with pytest.raises(UserError, match=rf"another command.*host .*, process {holder.pid}\)"):
        only_run(tmp_path).__enter__()


def test_a_lock_that_a_killed_run_left_is_no_obstacle(tmp_path, holder):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert (tmp_path / LOCK).exists() and (tmp_path / OWNER).exists()
    deadline = time.monotonic() + 10
    while True:
        try:
            with only_run(tmp_path):
                return
        except UserError:
            assert time.monotonic() < deadline


def test_a_folder_may_be_held_again_and_nothing_else_is_left(tmp_path):
    for _ in range(2):
        with only_run(tmp_path):
            assert (tmp_path / OWNER).exists()
    assert not (tmp_path / OWNER).exists()
