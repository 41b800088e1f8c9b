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

# What a process gives at a time: so many items, or fewer once they take so many bytes.
ITEMS, BYTES = 32, 8 << 20

T = TypeVar("T")

_dividing = False


@contextmanager
def dividing() -> Iterator[None]:
    """Inside, what goes through all images is divided; every process must do the same there.

    Every process has all results, so that what is made of them is the same everywhere.
    """
    global _dividing
    processes.wait_for_all("dividing")
    _dividing = True
    try:
        yield
    finally:
        _dividing = False


def share() -> tuple[int, int]:
    """Which of how many parts is this process's: 0 of 1 where nothing is divided."""
    return (jax.process_index(), jax.process_count()) if _dividing else (0, 1)


def gather(result: PyTree) -> list[PyTree]:
    """What each process gives, in their order, on every process.

    Args:
      result: numpy arrays, of the same shapes in all.
    """
    if share()[1] == 1:
        return [result]
    stacked = multihost_utils.process_allgather(result)
    return [jax.tree.map(lambda array, n=n: array[n], stacked) for n in range(jax.process_count())]


def everywhere(found: bool) -> bool:
    """Whether it is so in every process that divides the work; else all must do it."""
    return all(bool(each) for each in gather(np.array([found])))


def exchange(value: Any) -> list[Any]:
    """What each process gives, in their order, on every process; they may come at any time.

    Args:
      value: anything that can be pickled.
    """
    if jax.process_count() == 1:
        return [value]
    processes.wait_for_all("exchange")
    return [pickle.loads(each) for each in processes.gather_bytes(pickle.dumps(value))]


def joined(own: Iterable[T]) -> Iterator[T]:
    """What all processes make, as it is made, in process 0; the others must go on to the end.

    Args:
      own: what this process makes; each item can be pickled.
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
