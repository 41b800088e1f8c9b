"""Times compiled programs."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from ddad_jax.machine.together import exchange

# Calls are wide if their p90 and p10, or their rounds' medians, are further apart than this share
# of the median.
WIDE = 0.1


@dataclass(frozen=True)
class Program:
    """A function and its arguments.

    Attributes:
      name: of the measurement.
      function: from `jax.jit`.
      arguments: pytrees of arrays on the device.
      images: how many images one call processes.
      carries: whether the first result becomes the first argument of the next call, as in an
        optimiser step; the argument given here is gone after the first call.
    """

    name: str
    function: jax.stages.Wrapped
    arguments: tuple[Any, ...]
    images: int
    carries: bool = False


def distribution(rounds: Sequence[Sequence[float]]) -> dict[str, Any]:
    """Returns statistics of all calls, and whether they are wide.

    Args:
      rounds: seconds of each call, by round.
    """
    p10, median, p90 = np.quantile(np.concatenate(rounds), (0.1, 0.5, 0.9)).tolist()
    medians = [np.median(calls) for calls in rounds]
    between = float(np.ptp(medians) / median)
    return {
        "median": median,
        "p10": p10,
        "p90": p90,
        "between_rounds": between,
        "wide": max((p90 - p10) / median, between) > WIDE,
        "repeats": sum(map(len, rounds)),
    }


def compile_program(program: Program) -> tuple[jax.stages.Compiled, float]:
    """Returns the compiled program, and the seconds of tracing, lowering and compiling."""
    start = time.perf_counter()
    compiled = program.function.lower(*program.arguments).compile()
    return compiled, time.perf_counter() - start


def time_calls(
    compiled: jax.stages.Compiled | None, program: Program | None, repeats: int, max_seconds: float
) -> list[float]:
    """Calls a compiled program, waiting for its results each time.

    Several processes begin each call together, and all get the times of process 0.

    Args:
      compiled: from `compile_program`; None in a process whose devices take no part.
      program: what it was compiled from.
      repeats: the most timed calls.
      max_seconds: seconds of timed calls after which no other is made.

    Returns:
      Seconds of the first call, which warms up, and of each timed call.
    """
    arguments = program.arguments if program else ()
    seconds: list[float] = []
    exchange(None)
    while len(seconds) <= repeats and sum(seconds[1:]) <= max_seconds:
        start = time.perf_counter()
        result: Any = jax.block_until_ready(compiled(*arguments)) if compiled else None
        seconds.append(exchange(time.perf_counter() - start)[0])
        if program and program.carries:
            arguments = (result[0], *arguments[1:])
    return seconds
