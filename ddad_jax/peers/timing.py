"""Alternating measurements, so that whatever slows the machine slows both sides."""

import time
from collections.abc import Callable, Mapping

import numpy as np


def alternate(
    contenders: Mapping[str, Callable[[], None]], repeats: int, *, warm_up: bool = True
) -> dict[str, np.ndarray]:
    """Returns the seconds of each call, [repeats] by name.

    Args:
      contenders: functions that return when their work is done.
      repeats: rounds; each calls every contender once, in the reverse order of the round before.
      warm_up: whether each contender is called once before.
    """
    if warm_up:
        for run in contenders.values():
            run()
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(repeats):
        names = list(contenders)
        for name in names if number % 2 == 0 else reversed(names):
            start = time.perf_counter()
            contenders[name]()
            seconds[name].append(time.perf_counter() - start)
    return {name: np.array(values) for name, values in seconds.items()}


def summary(seconds: Mapping[str, np.ndarray], reference: str, units: int, unit: str) -> str:
    """Returns one line per contender: median time of one unit, and the ratio to the reference.

    The ratio is that of the two medians; in brackets are the quartiles of the rounds' own ratios.

    Args:
      seconds: from `alternate`.
      reference: the contender that the others are compared with.
      units: images or steps in one call.
      unit: the word for a unit.
    """
    lines = []
    for name, values in seconds.items():
        line = f"{name:<25} {np.median(values) / units:.4f} s/{unit}"
        if name != reference:
            low, high = np.quantile(values / seconds[reference], (0.25, 0.75))
            ratio = np.median(values) / np.median(seconds[reference])
            line += f"   {ratio:.3f} of {reference} ({low:.3f} to {high:.3f})"
        lines.append(line)
    return "\n".join(lines)
