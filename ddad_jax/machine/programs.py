"""Compiled programs, kept for later runs of this user on this machine.

JAX finds a kept program only after tracing and lowering it, which takes seconds by itself. So the
programs that a new process starts with are also kept by their arguments, and found without that.
"""

import contextlib
import functools
import hashlib
import importlib.metadata
import os
import pickle
import platform
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
from absl import logging
from jax.experimental.serialize_executable import deserialize_and_load, serialize
from jaxtyping import PyTree

from ddad_jax.machine import memory
from ddad_jax.machine.description import source_hash
from ddad_jax.machine.storage import cache_folder, write_atomically

# The most bytes that are kept; the programs used least recently are deleted first.
MOST_BYTES = 2 * 1024**3
# Programs, kept by their arguments, that a process holds in memory.
MOST_HELD = 4
# JAX's settings of where programs are kept, which do not change the programs.
PLACES = ("jax_compilation_cache", "jax_persistent_cache", "jax_enable_compilation_cache")
# JAX's setting: programs that compile in less time are not kept. Its default is a second.
LEAST_SECONDS = "jax_persistent_cache_min_compile_time_secs"
USUAL_SECONDS, KEPT_SECONDS, NEVER = 1.0, 0.1, float("inf")
# The code of this process, read once: packages may be replaced while it runs.
CODE = (source_hash(), *(importlib.metadata.version(name) for name in ("jax", "jaxlib", "flax")))

# A program that takes a list of arrays, and a pytree with the structure of its results.
_Program = tuple[jax.stages.Compiled, PyTree]
_held: dict[Path, _Program] = {}


def keep_programs(folder: Path | None = None) -> None:
    """Has JAX keep compiled programs, and find those that earlier processes compiled.

    What has been set already, such as by JAX_COMPILATION_CACHE_DIR, stays. If the folder cannot be
    written, nothing is kept.

    Args:
      folder: where to keep them; None: `programs` in the user's cache folder.
    """
    if _setting("jax_compilation_cache_dir") or not _setting("jax_enable_compilation_cache"):
        return
    try:
        folder = folder or cache_folder() / "programs"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _make_room(folder)
    except (OSError, RuntimeError):
        return
    if os.access(folder, os.W_OK):
        jax.config.update("jax_compilation_cache_dir", str(folder))
        if _setting(LEAST_SECONDS) == USUAL_SECONDS:
            jax.config.update(LEAST_SECONDS, KEPT_SECONDS)


def _setting(name: str) -> Any:
    return getattr(jax.config, name)


def _make_room(folder: Path) -> None:
    """Deletes the files used least recently until at most `MOST_BYTES` are left."""
    found = [(path, path.stat()) for path in folder.rglob("*") if path.is_file()]
    found.sort(key=lambda each: max(each[1].st_mtime, each[1].st_atime))
    left = sum(status.st_size for _, status in found)
    for path, status in found:
        if left <= MOST_BYTES:
            return
        path.unlink(missing_ok=True)
        left -= status.st_size


def compiled(function: Callable[..., PyTree], *arguments: PyTree) -> Callable[..., PyTree]:
    """Returns a jitted function's program for such arguments; if it is kept, nothing is traced.

    Args:
      function: a jitted function.
      arguments: arrays, or pytrees of them; the program takes others of the same shapes.

    Returns:
      A function of such arguments; over several devices, or if none is kept, `function` itself.
    """
    leaves, tree = jax.tree.flatten(arguments)
    folder = _folder()
    if folder is None or any(_is_elsewhere(leaf) for leaf in leaves):
        return function
    path = folder / _name(function, tree, leaves)
    if path not in _held:
        _held[path] = _load(path, leaves) or _compile(path, function, tree, leaves)
        memory.give_back()
        if len(_held) > MOST_HELD:
            _held.pop(next(iter(_held)))
    run, example = _held[path]
    return lambda *given: jax.tree.unflatten(
        jax.tree.structure(example), run(jax.tree.leaves(given))
    )


def _folder() -> Path | None:
    home = _setting("jax_compilation_cache_dir")
    enabled = _setting("jax_enable_compilation_cache")
    return Path(home) / "whole" if enabled and home and "://" not in home else None


def _is_elsewhere(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and leaf.devices() != {jax.devices()[0]}


def _load(path: Path, leaves: list[Any]) -> _Program | None:
    try:
        content, example = pickle.loads(path.read_bytes())
        trees = (jax.tree.structure(((leaves,), {})), jax.tree.structure(jax.tree.leaves(example)))
        program = deserialize_and_load(content, *trees, execution_devices=jax.devices()[:1])
    except FileNotFoundError:
        return None
    # Whatever is wrong with the file, the program can be compiled.
    except Exception as error:  # noqa: BLE001
        logging.debug("%s: is not used (%s)", path, error)
        return None
    with contextlib.suppress(OSError):
        os.utime(path)
    return program, example


def _compile(
    path: Path,
    function: Callable[..., PyTree],
    tree: jax.tree_util.PyTreeDef,
    leaves: list[Any],
) -> _Program:
    # The structure of a pytree of our classes cannot be pickled; an example of the pytree can.
    example: PyTree = None

    def kept_whole(leaves: list[Any]) -> list[Any]:
        nonlocal example
        result = function(*jax.tree.unflatten(tree, leaves))
        example = jax.tree.map(lambda _: 0, result)
        return jax.tree.leaves(result)

    with _kept_by_nobody():
        program = jax.jit(kept_whole).lower(leaves).compile()
    # Whatever goes wrong in writing, the program can be used.
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_atomically(path, pickle.dumps((serialize(program)[0], example)))
    except Exception as error:  # noqa: BLE001
        logging.debug("%s: is not kept (%s)", path, error)
    return program, example


@contextlib.contextmanager
def _kept_by_nobody() -> Iterator[None]:
    """Keeps a program out of JAX's own cache.

    Read from there, and not compiled, a program for CPUs is serialised without some functions.
    """
    before = _setting(LEAST_SECONDS)
    jax.config.update(LEAST_SECONDS, NEVER)
    try:
        yield
    finally:
        jax.config.update(LEAST_SECONDS, before)


def _name(function: Callable[..., PyTree], tree: jax.tree_util.PyTreeDef, leaves: list[Any]) -> str:
    """Returns the name of the program's file, which differs whenever the program may."""
    name = f"{function.__module__}.{function.__qualname__}"
    told = {k: v for k, v in jax.config.values.items() if not k.startswith(PLACES)}
    flags = [os.environ.get(name) for name in ("XLA_FLAGS", "LIBTPU_INIT_ARGS")]
    shapes = [(leaf.shape, str(leaf.dtype), getattr(leaf, "weak_type", False)) for leaf in leaves]
    device = jax.devices()[0]
    machine = (device.platform, device.device_kind, device.client.platform_version, _instructions())
    parts = (name, tree, shapes, sorted(told.items()), flags, machine, CODE)
    return f"{name}-{hashlib.blake2b(repr(parts).encode(), digest_size=16).hexdigest()}.program"


@functools.cache
def _instructions() -> str:
    """Returns the processor's instruction sets, as far as the system reports them."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.lower().startswith(("flags", "features"))), "")
