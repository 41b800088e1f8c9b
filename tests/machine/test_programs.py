import os
import subprocess
import sys
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache

from ddad_jax.machine import programs


class Pair(flax.struct.PyTreeNode):
    array: Any
    factor: int = flax.struct.field(pytree_node=False, default=1)


@jax.jit
def scaled(pair, x):
    traced.append(pair.factor)
    # One of several operations, so that XLA makes functions of its own of it.
    scaled = jnp.exp(jnp.log(pair.array * x)) * pair.factor
    return Pair(scaled), {"none": None, "sum": x.sum(), "most": jnp.sort(x).max()}


traced: list[int] = []


@pytest.fixture
def folder(monkeypatch, tmp_path):
    """Where programs are kept, JAX's own of every duration too; none is held, none was traced."""
    names = ("jax_compilation_cache_dir", programs.LEAST_SECONDS)
    before = {name: getattr(jax.config, name) for name in names}
    compilation_cache.reset_cache()
    for name, value in zip(names, (str(tmp_path), 0.0), strict=True):
        jax.config.update(name, value)
    in_a_new_process(monkeypatch)
    yield tmp_path / "whole"
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


def in_a_new_process(monkeypatch):
    monkeypatch.setattr(programs, "_held", {})
    jax.clear_caches()
    traced.clear()


def test_a_kept_program_is_found_without_tracing(folder, monkeypatch):
    x = np.arange(1.0, 4.0, dtype=np.float32)
    pair = Pair(jnp.full(3, 2.0), factor=5)
    first = programs.compiled(scaled, pair, x)(pair, x)
    assert traced == [5]
    in_a_new_process(monkeypatch)
    again, others = programs.compiled(scaled, pair, x)(pair, x + 1)
    assert traced == []
    np.testing.assert_allclose(first[0].array, [10, 20, 30], rtol=1e-6)
    np.testing.assert_allclose(again.array, [20, 30, 40], rtol=1e-6)
    assert others["none"] is None and others["sum"] == 9.0


@pytest.mark.parametrize(
    ("factor", "size", "dtype"), [(4, 3, np.float32), (5, 4, np.float32), (5, 3, np.int32)]
)
def test_other_arguments_are_another_program(folder, monkeypatch, factor, size, dtype):
    x, pair = np.ones(3, np.float32), Pair(jnp.full(3, 2.0), factor=5)
    programs.compiled(scaled, pair, x)
    in_a_new_process(monkeypatch)
    x, pair = np.ones(size, dtype), Pair(jnp.full(size, 2.0), factor=factor)
    found, _ = programs.compiled(scaled, pair, x)(pair, x)
    assert traced == [factor]
    np.testing.assert_allclose(found.array, np.full(size, 2 * factor), rtol=1e-6)


def test_other_code_flags_settings_or_machines_are_another_program(folder, monkeypatch):
    x, pair = np.ones(3, np.float32), Pair(jnp.ones(3))

    def name():
        leaves, tree = jax.tree.flatten((pair, x))
        return programs._name(scaled, tree, leaves)

    names = {name(), name()}
    assert len(names) == 1
    monkeypatch.setattr(programs, "CODE", (*programs.CODE[:-1], "another"))
    names.add(name())
    monkeypatch.setenv("XLA_FLAGS", "--xla_of_another_kind")
    names.add(name())
    monkeypatch.setattr(programs, "_instructions", lambda: "flags: fpu")
    names.add(name())
    with jax.default_matmul_precision("bfloat16"):
        names.add(name())
    assert len(names) == 5


def test_what_jax_keeps_itself_is_not_kept_again(folder, monkeypatch):
    """XLA writes a program that it has read without some of its functions."""
    x, pair = np.ones(64, np.float32), Pair(jnp.ones(64), factor=3)
    scaled(pair, x)
    programs.compiled(scaled, pair, x)
    for path in folder.iterdir():
        path.unlink()
    for _ in range(2):
        in_a_new_process(monkeypatch)
        found, _ = programs.compiled(scaled, pair, x)(pair, x)
        np.testing.assert_allclose(found.array, np.full(64, 3), rtol=1e-6)
    assert traced == []
    assert not [path for path in folder.parent.iterdir() if "kept_whole" in path.name]


def test_a_spoilt_file_is_compiled_anew(folder, monkeypatch):
    x, pair = np.ones(3, np.float32), Pair(jnp.ones(3))
    programs.compiled(scaled, pair, x)
    (path,) = folder.iterdir()
    path.write_bytes(path.read_bytes()[:-100])
    in_a_new_process(monkeypatch)
    found, _ = programs.compiled(scaled, pair, x)(pair, x)
    assert traced == [1] and found.array.tolist() == [1, 1, 1]


def test_what_cannot_be_written_or_touched_is_used_all_the_same(folder, monkeypatch):
    def fail(*_):
        raise OSError("read-only file system")

    x, pair = np.ones(3, np.float32), Pair(jnp.ones(3))
    with monkeypatch.context() as patch:
        patch.setattr(programs, "serialize", lambda _: fail())
        found, _ = programs.compiled(scaled, pair, x)(pair, x)
    assert found.array.tolist() == [1, 1, 1] and not list(folder.iterdir())
    in_a_new_process(monkeypatch)
    programs.compiled(scaled, pair, x)
    in_a_new_process(monkeypatch)
    monkeypatch.setattr(os, "utime", fail)
    found, _ = programs.compiled(scaled, pair, x)(pair, x)
    assert traced == [] and found.array.tolist() == [1, 1, 1]


def test_what_was_used_least_recently_gives_way(monkeypatch, tmp_path):
    for age, name in enumerate(("new", "middle", "old")):
        path = tmp_path / name / "program"
        path.parent.mkdir()
        path.write_bytes(b"0" * 100)
        os.utime(path, (1000 - age, 1000 - age))
    monkeypatch.setattr(programs, "MOST_BYTES", 250)
    programs._make_room(tmp_path)
    assert {path.parent.name for path in tmp_path.rglob("program")} == {"new", "middle"}


def test_where_nothing_is_kept_it_is_the_function(folder):
    x, pair = np.ones(3, np.float32), Pair(jnp.ones(3))
    jax.config.update("jax_enable_compilation_cache", False)
    try:
        assert programs.compiled(scaled, pair, x) is scaled
    finally:
        jax.config.update("jax_enable_compilation_cache", True)


KEEP = """
import jax
from ddad_jax.machine.programs import keep_programs
keep_programs()
print(jax.config.jax_compilation_cache_dir, jax.config.jax_persistent_cache_min_compile_time_secs)
"""


def kept_in(**environment):
    inherited = {
        name: value
        for name, value in os.environ.items()
        if name != "XDG_CACHE_HOME" and not name.startswith("JAX_")
    }
    result = subprocess.run(
        [sys.executable, "-c", KEEP], capture_output=True, text=True, env=inherited | environment
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


@pytest.mark.slow
def test_programs_lie_in_the_users_cache_if_nothing_else_is_said(tmp_path):
    own = tmp_path / "own"
    assert kept_in(XDG_CACHE_HOME=str(tmp_path)) == f"{tmp_path}/ddad_jax/programs 0.1"
    assert kept_in(HOME=str(tmp_path)) == f"{tmp_path}/.cache/ddad_jax/programs 0.1"
    assert kept_in(JAX_COMPILATION_CACHE_DIR=str(own)) == f"{own} 1.0"
    seconds = {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "5"}
    assert kept_in(HOME=str(own), **seconds) == f"{own}/.cache/ddad_jax/programs 5.0"


@pytest.mark.slow
def test_nothing_is_kept_without_a_folder_to_write_or_where_it_is_not_wanted(tmp_path):
    (tmp_path / "file").write_text("")
    assert kept_in(XDG_CACHE_HOME=str(tmp_path / "file")) == "None 1.0"
    unwanted = kept_in(HOME=str(tmp_path), JAX_ENABLE_COMPILATION_CACHE="false")
    assert unwanted == "None 1.0" and not (tmp_path / ".cache").exists()
