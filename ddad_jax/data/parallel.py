"""Work on many samples with few of them in memory."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ddad_jax.machine import interrupts

_AT_ONCE = 64


def map_in_threads(work: Callable[[Any], Any], items: Sequence[Any]) -> Iterator[tuple[Any, Any]]:
    """Each item with `work(item)`, in order; decoders and numpy let threads run side by side."""
    with ThreadPoolExecutor() as pool:
        for start in range(0, len(items), _AT_ONCE):
            interrupts.check()
            some = items[start : start + _AT_ONCE]
            yield from zip(some, pool.map(work, some), strict=True)
