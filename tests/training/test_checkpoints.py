import gc
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import logging

from ddad_jax.errors import UserError
from ddad_jax.training.checkpoints import Checkpoints
from ddad_jax.training.state import TrainSettings, initial_state
from tests.conftest import lacking

# Where it cannot read, Orbax leaves coroutines behind that nothing has awaited.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(autouse=True)
def _collect_what_is_left():
    yield
    gc.collect()


def state_at(step, size=64):
    """A state whose parameters no compression makes smaller, others at each step."""
    settings = TrainSettings(steps=10, batch_size=1)
    values = np.random.default_rng(step).normal(size=(size, size)).astype(np.float32)
    return initial_state({"w": jnp.asarray(values)}, settings).replace(step=jnp.int32(step))


def save(folder, steps, size=64):
    with Checkpoints(folder) as checkpoints:
        for step in steps:
            checkpoints.save(step, state_at(step, size), {"next_batch": step})


def assert_restored(folder, step, size=64):
    state, data = Checkpoints(folder).restore(state_at(0, size))
    assert data == {"next_batch": step}
    expected = state_at(step, size)
    jax.tree.map(np.testing.assert_array_equal, state, expected)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_the_two_newest_are_kept(tmp_path):
    save(tmp_path / "checkpoints", [1, 2, 3])
    assert names(tmp_path / "checkpoints") == ["2", "3"]
    assert_restored(tmp_path / "checkpoints", 3)


def largest_file(folder):
    files = (path for path in folder.rglob("*") if path.is_file())
    return max(files, key=lambda path: path.stat().st_size)


def flip_a_byte(checkpoint):
    path = largest_file(checkpoint)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)


def truncate(checkpoint):
    os.truncate(largest_file(checkpoint), 100)


def empty_all(checkpoint):
    for path in checkpoint.rglob("*"):
        if path.is_file():
            path.write_bytes(b"")


def lose_the_state(checkpoint):
    shutil.rmtree(checkpoint / "state")


def lose_the_data(checkpoint):
    (checkpoint / "data/metadata").unlink()


@pytest.mark.parametrize(
    "damage", [flip_a_byte, truncate, empty_all, lose_the_state, lose_the_data]
)
def test_the_one_before_stands_in_for_a_damaged_one(tmp_path, damage, monkeypatch):
    warnings = []
    monkeypatch.setattr(logging, "warning", lambda text, *given: warnings.append(text % given))
    folder = tmp_path / "checkpoints"
    save(folder, [3, 6])
    damage(folder / "6")
    assert_restored(folder, 3)
    (warning,) = [text for text in warnings if str(folder / "6") in text]
    assert str(tmp_path / "damaged-6") in warning
    assert "step 3" in warning
    assert names(tmp_path) == ["checkpoints", "damaged-6"]
    save(folder, [6])
    assert_restored(folder, 6)


def test_where_all_are_damaged_none_is_touched(tmp_path):
    folder = tmp_path / "checkpoints"
    save(folder, [3, 6])
    truncate(folder / "3")
    truncate(folder / "6")
    with pytest.raises(UserError, match=r"checkpoints/6: cannot be read .* no other"):
        Checkpoints(folder).restore(state_at(0))
    assert names(folder) == ["3", "6"]


def test_what_a_killed_run_left_half_written_is_cleared_away(tmp_path):
    folder = tmp_path / "checkpoints"
    save(folder, [3])
    shutil.copytree(folder / "3", folder / "6.orbax-checkpoint-tmp")
    (folder / "6.orbax-checkpoint-tmp/commit_success.txt").unlink(missing_ok=True)
    assert_restored(folder, 3)
    assert names(folder) == ["3"]


def test_a_folder_that_is_gone_is_said_and_not_made_again(tmp_path):
    folder = tmp_path / "checkpoints"
    with pytest.raises(UserError, match="checkpoints: is gone"), Checkpoints(folder) as checkpoints:
        checkpoints.save(1, state_at(1), {})
        checkpoints.wait()
        shutil.rmtree(tmp_path)
        checkpoints.save(2, state_at(2), {})
    assert not tmp_path.exists()
    tmp_path.mkdir()


@pytest.fixture
def small_disk(tmp_path):
    """A file system with room for two checkpoints and not for a third."""
    command = ["mount", "-t", "tmpfs", "-o", "size=800k", "tmpfs", str(tmp_path)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        lacking(f"a full disk: a file system of its own cannot be mounted here ({error})")
    yield tmp_path
    subprocess.run(["umount", str(tmp_path)], check=True)


FILL_A_DISK = """
import sys
from pathlib import Path
from ddad_jax.errors import UserError
from tests.training.test_checkpoints import save

try:
    save(Path(sys.argv[1]), [1, 2, 3, 4], size=200)
except UserError as error:
    print(error)
"""


@pytest.mark.slow
def test_a_full_disk_is_said_in_one_line_and_leaves_the_last_checkpoint(small_disk):
    folder = small_disk / "checkpoints"
    # In a process of its own: Orbax leaves broken threads behind.
    command = [sys.executable, "-c", FILL_A_DISK, str(folder)]
    root = Path(__file__).parents[2]
    result = subprocess.run(command, capture_output=True, text=True, cwd=root, timeout=100)
    assert result.returncode == 0, result.stderr
    (said,) = result.stdout.splitlines()
    assert f"{folder}: a checkpoint could not be written (No space left on device)" in said
    assert_restored(folder, 2, size=200)
