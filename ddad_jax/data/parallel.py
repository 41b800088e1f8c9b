"""Work on many samples with few of them in memory."""

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from ddad_jax.machine import interrupts


def map_in_threads(work: Callable[[Any], Any], items: Sequence[Any]) -> Iterator[tuple[Any, Any]]:
    """Each item with `work(item)`, in order; decoders and numpy let threads run side by side.

    Results wait for at most a few items: of very large photographs each takes a gigabyte.
    """
    threads = os.cpu_count() or 1
    waiting: deque[tuple[Any, Future]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        for item in items:
            interrupts.check()
            waiting.append((item, pool.submit(work, item)))
            if len(waiting) > threads + 1:
                first, result = waiting.popleft()
                yield first, result.result()
        for first, result in waiting:
            yield first, result.result()
