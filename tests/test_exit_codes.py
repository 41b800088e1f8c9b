"""What the program tells whoever started it, by its exit code and its last line."""

import errno
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from ddad_jax import main
from ddad_jax.errors import Interrupted, UserError, readable
from ddad_jax.machine import interrupts

ROOT = Path(__file__).parents[1]


def ended(monkeypatch, error):
    """The exit code of a program that meets an error, or none."""

    def meet(argv):
        if error is not None:
            raise error

    monkeypatch.setattr(main, "main", meet)
    return main.run(["ddad_jax"])


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (None, 0, ""),
        (UserError("seed: is odd"), 2, "error: seed: is odd\n"),
        # EX_TEMPFAIL of BSD's sysexits.h: whoever started it should start it again.
        (Interrupted("step 3 of 9"), 75, "interrupted: step 3 of 9\n"),
        (KeyboardInterrupt(), 75, "interrupted: the same command continues\n"),
        (
            OSError(errno.ENOSPC, "No space left on device", "run/a.npy"),
            2,
            "error: run/a.npy: No space left on device; make room, and the same command "
            "continues\n",
        ),
        (
            OSError(errno.EDQUOT, "Disk quota exceeded", "run/a.npy"),
            2,
            "error: run/a.npy: Disk quota exceeded; make room, and the same command continues\n",
        ),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else None,
)
def test_how_a_run_ended_is_told_by_its_exit_code(monkeypatch, capsys, error, code, said):
    assert ended(monkeypatch, error) == code
    assert capsys.readouterr().err == said


@pytest.mark.parametrize("error", [OSError(errno.EIO, "Input/output error"), ValueError("a bug")])
def test_a_bug_is_not_taken_for_bad_input(monkeypatch, error):
    with pytest.raises(type(error)):
        ended(monkeypatch, error)


@pytest.mark.parametrize("asked", [True, False])
def test_what_jax_says_of_a_signal_is_an_interruption(monkeypatch, asked):
    monkeypatch.setattr(interrupts, "was_asked", lambda: asked)
    error = jax.errors.JaxRuntimeError("INTERNAL: stopped")
    if asked:
        assert ended(monkeypatch, error) == 75
    else:
        with pytest.raises(jax.errors.JaxRuntimeError):
            ended(monkeypatch, error)


@pytest.mark.slow
def test_the_program_ends_with_the_code(tmp_path):
    """Of a process, with nothing replaced: what is wrong in the input is 2, and --version 0."""
    for arguments, code in ((["--version"], 0), (["--wrkdir=x"], 2)):
        done = subprocess.run(
            [sys.executable, "-m", "ddad_jax", *arguments], cwd=ROOT, capture_output=True
        )
        assert done.returncode == code, done.stderr


def test_any_name_of_a_file_can_be_written():
    assert readable("gr\udcfcn.png") == "gr%FCn.png"
    assert str(UserError("gr\udcfcn.png: is no image")) == "gr%FCn.png: is no image"
