"""Compiled programs, kept for whatever this user runs later on this machine.

JAX finds a program again once it is traced and lowered, which takes seconds by itself. So those
that a new process starts with are kept under their arguments too, and found without.
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

# What is kept at most; what was used least recently gives way.
MOST_BYTES = 2 * 1024**3
# Programs kept under their arguments that a process holds at a time.
MOST_HELD = 4
# The settings of JAX that say where programs are kept, not what they are.
PLACES = ("jax_compilation_cache", "jax_persistent_cache", "jax_enable_compilation_cache")
# JAX's own: shorter compilations are not kept. By default that is a second.
LEAST_SECONDS = "jax_persistent_cache_min_compile_time_secs"
USUAL_SECONDS, KEPT_SECONDS, NEVER = 1.0, 0.1, float("inf")
# What this process runs, whatever is installed while it does.
CODE = (source_hash(), *(importlib.metadata.version(name) for name in ("jax", "jaxlib", "flax")))

# A program of a list of arrays, and a pytree of the structure of its results.
_Program = tuple[jax.stages.Compiled, PyTree]
_held: dict[Path, _Program] = {}


def keep_programs(folder: Path | None = None) -> None:
    """Has JAX keep programs, and find those that earlier processes compiled.

    What JAX is told already, such as by JAX_COMPILATION_CACHE_DIR, stays. Where the folder cannot
    be written, nothing is kept.

    Args:
      folder: where to; None: `programs` in the user's cache folder.
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
    """Deletes what was used least recently, as far as there is too much."""
    found = [(path, path.stat()) for path in folder.rglob("*") if path.is_file()]
    found.sort(key=lambda each: max(each[1].st_mtime, each[1].st_atime))
    left = sum(status.st_size for _, status in found)
    for path, status in found:
        if left <= MOST_BYTES:
            return
        path.unlink(missing_ok=True)
        left -= status.st_size


def compiled(function: Callable[..., PyTree], *arguments: PyTree) -> Callable[..., PyTree]:
    """The program of a jitted function for such arguments, with nothing traced if it is kept.

    Args:
      function: jitted.
      arguments: arrays, or pytrees of them; the program takes others of the same shapes.

    Returns:
      What takes such arguments. Over several devices it is the function itself.
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
    # Whatever is wrong with it, the program can be compiled.
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
    # Trees of our own classes cannot be written; an example of one can.
    example: PyTree = None

    def kept_whole(leaves: list[Any]) -> list[Any]:
        nonlocal example
        result = function(*jax.tree.unflatten(tree, leaves))
        example = jax.tree.map(lambda _: 0, result)
        return jax.tree.leaves(result)

    with _kept_by_nobody():
        program = jax.jit(kept_whole).lower(leaves).compile()
    # Whatever goes wrong, the program is there.
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_atomically(path, pickle.dumps((serialize(program)[0], example)))
    except Exception as error:  # noqa: BLE001
        logging.debug("%s: is not kept (%s)", path, error)
    return program, example


@contextlib.contextmanager
def _kept_by_nobody() -> Iterator[None]:
    """Keeps a program out of JAX's own cache.

    XLA writes a program for CPUs that it has read, and not compiled, without some of its functions.
    """
    before = _setting(LEAST_SECONDS)
    jax.config.update(LEAST_SECONDS, NEVER)
    try:
        yield
    finally:
        jax.config.update(LEAST_SECONDS, before)


def _name(function: Callable[..., PyTree], tree: jax.tree_util.PyTreeDef, leaves: list[Any]) -> str:
    """Of the file: differs wherever the program may."""
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
    """The instruction sets of the processor, as far as the system says."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.lower().startswith(("flags", "features"))), "")
