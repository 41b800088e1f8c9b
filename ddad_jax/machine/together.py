"""Work that several processes divide among them, each with its own devices."""

import pickle
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import PyTree

from ddad_jax.machine import processes

# The most items that a process gives at a time, and bytes after which it adds no more.
ITEMS, BYTES = 32, 8 << 20

T = TypeVar("T")

_dividing = False


@contextmanager
def dividing() -> Iterator[None]:
    """Divides work on many images within the block; every process must do the same there.

    Every process gets all results, so that everything made from them is the same everywhere.
    """
    global _dividing
    processes.wait_for_all("dividing")
    _dividing = True
    try:
        yield
    finally:
        _dividing = False


def share() -> tuple[int, int]:
    """Returns this process's part and the number of parts; (0, 1) if nothing is divided."""
    return (jax.process_index(), jax.process_count()) if _dividing else (0, 1)


def gather(result: PyTree) -> list[PyTree]:
    """Returns the results of all processes, in their order, on every process.

    Args:
      result: numpy arrays, of the same shapes in all processes.
    """
    if share()[1] == 1:
        return [result]
    stacked = multihost_utils.process_allgather(result)
    return [jax.tree.map(lambda array, n=n: array[n], stacked) for n in range(jax.process_count())]


def everywhere(found: bool) -> bool:
    """Whether something was found in every process that shares the work."""
    return all(bool(each) for each in gather(np.array([found])))


def exchange(value: Any) -> list[Any]:
    """Returns the values of all processes, in their order, on every process; waits for all.

    Args:
      value: anything that can be pickled.
    """
    if jax.process_count() == 1:
        return [value]
    processes.wait_for_all("exchange")
    return [pickle.loads(each) for each in processes.gather_bytes(pickle.dumps(value))]


def joined(own: Iterable[T]) -> Iterator[T]:
    """Yields the items of all processes in process 0; the others get none, but must iterate, too.

    Args:
      own: the items of this process; each can be pickled.
    """
    if jax.process_count() == 1:
        yield from own
        return
    rest = iter(own)
    while any(parts := exchange(_some_of(rest))):
        if processes.is_first():
            yield from (pickle.loads(item) for part in parts for item in part)


def _some_of(items: Iterator[Any]) -> list[bytes]:
    some: list[bytes] = []
    while len(some) < ITEMS and sum(map(len, some)) < BYTES:
        try:
            some.append(pickle.dumps(next(items)))
        except StopIteration:
            break
    return some
