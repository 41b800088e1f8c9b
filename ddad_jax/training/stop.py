"""Being asked to end: by a signal, or by the notice that a pod's machine is taken away."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import jax
from jax.experimental import multihost_utils


@contextmanager
def stop_requests() -> Iterator[Callable[[int], str]]:
    """Yields a function: the step just taken -> why the run should end now, "" if it should not.

    One process collects SIGTERM and SIGINT instead of dying of them. Under `jax.distributed`,
    JAX's preemption service does it, by SIGTERM too: a notice to one process reaches all, and
    every process, calling this after each step, is told to end after the same one.
    """
    if jax.distributed.is_initialized():
        yield _preemption
        return
    received: list[int] = []
    chosen = (signal.SIGTERM, signal.SIGINT)
    previous = {number: signal.signal(number, lambda n, _: received.append(n)) for number in chosen}
    try:
        yield lambda _: signal.Signals(received[0]).name if received else ""
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    # It came after the last step, while what follows was done: what comes next is to end too.
    if received:
        signal.raise_signal(received[0])


def _preemption(step: int) -> str:
    return "preemption notice" if multihost_utils.reached_preemption_sync_point(step) else ""
