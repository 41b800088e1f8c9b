"""Traces of chosen steps, for TensorBoard's profiler and Perfetto."""

import re
from pathlib import Path
from typing import Any

import jax


class Trace:
    """A `jax.profiler` trace of the steps `first` to `last`, both included."""

    def __init__(self, folder: Path, steps: str):
        """Traces into `folder` the steps that `parse_steps` reads from `steps`; none for ""."""
        self.folder = folder
        self._first, self._last = parse_steps(steps)
        self._running = False

    def before(self, step: int) -> None:
        """Must be called before each step."""
        if self._first <= step <= self._last and not self._running:
            jax.profiler.start_trace(self.folder)
            self._running = True

    def after(self, step: int, result: Any) -> None:
        """Must be called after each step, with arrays that the step computes."""
        if step == self._last and self._running:
            jax.block_until_ready(result)
            self._stop()

    def _stop(self) -> None:
        jax.profiler.stop_trace()
        self._running = False

    def __enter__(self) -> "Trace":
        return self

    def __exit__(self, *_: object) -> None:
        if self._running:
            self._stop()


def parse_steps(text: str) -> tuple[int, int]:
    """Returns the first and the last step of text such as "10-12"; an empty range for "".

    Raises:
      ValueError: the text is neither.
    """
    if not text:
        return 1, 0
    found = re.fullmatch(r"(\d+)-(\d+)", text)
    if not found or not 1 <= int(found[1]) <= int(found[2]):
        raise ValueError(f"'{text}' is not a range of steps, such as 10-12")
    return int(found[1]), int(found[2])
