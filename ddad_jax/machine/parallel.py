"""Work on many items side by side, with few of them in memory."""

import os
import queue
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from ddad_jax.machine import interrupts

# Seconds between two checks whether to go on waiting.
PATIENCE = 0.2


def map_in_threads(
    work: Callable[[Any], Any], items: Sequence[Any], threads: int | None = None
) -> Iterator[tuple[Any, Any]]:
    """Yields each item with `work(item)`, in order; the calls run side by side in threads.

    Only a few results are held at a time: for very large photographs, each takes a gigabyte.

    Args:
      work: the function, which is called from several threads.
      items: its arguments.
      threads: how many threads; None: as many as there are cores.
    """
    threads = threads or os.cpu_count() or 1
    waiting: deque[tuple[Any, Future]] = deque()
    pool = ThreadPoolExecutor(threads)
    try:
        for item in items:
            interrupts.check()
            waiting.append((item, pool.submit(work, item)))
            if len(waiting) > threads + 1:
                first, result = waiting.popleft()
                yield first, result.result()
        for first, result in waiting:
            yield first, result.result()
    finally:
        pool.shutdown(cancel_futures=True)


def groups_as_ready(
    work: Callable[[Any], Any], items: Iterable[Any], most: int, ahead: int
) -> Iterator[list[Any]]:
    """Yields results of `work(item)` in order, as many at a time as are ready.

    The items are taken from another thread, so that a slow source does not delay results that are
    ready. Exceptions of the source and of `work` are raised here.

    Args:
      work: see `map_in_threads`.
      items: may be endless.
      most: most results at a time.
      ahead: how many results may wait to be taken.
    """
    results: queue.Queue[Future | None] = queue.Queue(max(ahead, most))
    ended = threading.Event()
    pool = ThreadPoolExecutor(os.cpu_count() or 1)

    def put(result: Future | None) -> None:
        while not ended.is_set():
            try:
                results.put(result, timeout=PATIENCE)
                return
            except queue.Full:
                pass

    def feed() -> None:
        try:
            for item in items:
                if ended.is_set():
                    return
                put(pool.submit(work, item))
        except BaseException as error:  # It is raised in the consumer's thread.
            failed: Future = Future()
            failed.set_exception(error)
            put(failed)
        put(None)

    threading.Thread(target=feed, daemon=True).start()
    try:
        held: deque[Future | None] = deque()
        while (first := held.popleft() if held else _next(results)) is not None:
            group = [first.result()]
            while len(group) < most and not results.empty():
                result = results.get()
                if result is None or not result.done() or result.exception():
                    held.append(result)
                    break
                group.append(result.result())
            yield group
    finally:
        ended.set()
        pool.shutdown(wait=False, cancel_futures=True)


def _next(results: queue.Queue) -> Any:
    while True:
        interrupts.check()
        try:
            return results.get(timeout=PATIENCE)
        except queue.Empty:
            pass
