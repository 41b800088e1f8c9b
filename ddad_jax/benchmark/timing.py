"""How long a compiled program takes."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

# Timings whose p90 and p10 are further apart than this share of the median say so.
WIDE = 0.1
LEAST_REPEATS = 3


@dataclass(frozen=True)
class Program:
    """A function and what it is called with.

    Attributes:
      name: of the figure.
      function: as `jax.jit` makes it.
      arguments: pytrees of arrays on the device.
      images: how many one call works on.
      carries: whether the first result takes the first argument's place in the next call, as an
        optimiser step's does; the argument given here is gone after the first.
    """

    name: str
    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    images: int
    carries: bool = False


@dataclass(frozen=True)
class Timing:
    """Seconds.

    Attributes:
      compilation: of tracing, lowering and compiling.
      warm_up: of the first call.
      calls: of each call after it, until its results are there.
    """

    compilation: float
    warm_up: float
    calls: tuple[float, ...]

    def row(self) -> dict[str, Any]:
        """What is written down: the distribution over calls, and whether it is wide."""
        p10, median, p90 = np.quantile(self.calls, (0.1, 0.5, 0.9)).tolist()
        return {
            "median": median,
            "p10": p10,
            "p90": p90,
            "repeats": len(self.calls),
            "wide": (p90 - p10) / median > WIDE,
            "compilation": self.compilation,
            "warm_up": self.warm_up,
        }


def measure(program: Program, repeats: int, max_seconds: float) -> tuple[Timing, Any]:
    """Compiles a program, calls it once to warm up and then times its calls.

    Args:
      program: the program.
      repeats: timed calls.
      max_seconds: after which no further call is made, if there were three.

    Returns:
      The timing, and the compiled program.
    """
    start = time.perf_counter()
    compiled = program.function.lower(*program.arguments).compile()
    compilation = time.perf_counter() - start
    arguments = program.arguments
    seconds: list[float] = []
    while len(seconds) <= repeats:
        if len(seconds) > LEAST_REPEATS and sum(seconds[1:]) > max_seconds:
            break
        start = time.perf_counter()
        result = jax.block_until_ready(compiled(*arguments))
        seconds.append(time.perf_counter() - start)
        if program.carries:
            arguments = (result[0], *arguments[1:])
    return Timing(compilation, seconds[0], tuple(seconds[1:])), compiled
