"""Requests to stop: by a signal, or by the notice that a pod's machine will be taken away."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import jax
from jax.experimental import multihost_utils


@contextmanager
def stop_requests() -> Iterator[Callable[[int], str]]:
    """Yields a function: the step just taken -> why the run should end now, or "".

    A single process collects SIGTERM and SIGINT instead of being ended by them. Under
    `jax.distributed`, JAX's preemption service collects SIGTERM: notice to one process reaches all.
    Every process must call the function after each step; all are told to end after the same step.
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
    # A signal after the last check was not acted on: pass it on, so that what comes next ends.
    if received:
        signal.raise_signal(received[0])


def _preemption(step: int) -> str:
    return "preemption notice" if multihost_utils.reached_preemption_sync_point(step) else ""
