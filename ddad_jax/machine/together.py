"""Images that several processes divide among them, each with its own devices."""

from collections.abc import Iterator
from contextlib import contextmanager

import jax
import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import PyTree

_dividing = False


@contextmanager
def dividing() -> Iterator[None]:
    """Inside, what goes through all images is divided; every process must do the same there.

    Every process has all results, so that what is made of them is the same everywhere.
    """
    global _dividing
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
