"""Gathers photographs of many requests into batches, for the one thread that asks detectors.

A batch is for one detector: that of the photograph that came first. It is judged when it is full,
or when that photograph has waited as long as it may. While a batch is judged, all others wait.
"""

import threading
import time
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass, field

from absl import logging

from ddad_jax.deploy.predictor import Read
from ddad_jax.evaluation.find import Found
from ddad_jax.serving.loaded import Loaded
from ddad_jax.serving.metrics import Metrics


@dataclass(frozen=True, eq=False)
class Waiting:
    """A photograph that is to be judged.

    Attributes:
      loaded: the detector that is to judge it.
      photograph: the photograph, read.
      with_reconstruction: whether the reconstruction is needed too.
      since: when it came, by the monotonic clock.
      found: what the detector says; cancelled if nobody waits for it any more.
    """

    loaded: Loaded
    photograph: Read
    with_reconstruction: bool
    since: float = field(default_factory=time.monotonic)
    found: Future[Found] = field(default_factory=Future)


class Gatherer:
    """The thread that asks detectors, and the photographs that wait for it."""

    def __init__(self, batch_size: int, longest_wait: float, metrics: Metrics):
        """Judges nothing before `start`.

        Args:
          batch_size: the most photographs at a time.
          longest_wait: the most seconds that a photograph waits for others.
          metrics: what is counted.
        """
        self._batch_size, self._longest_wait = batch_size, longest_wait
        self._metrics = metrics
        self._waiting: deque[Waiting] = deque()
        self._changed = threading.Condition()
        self._ended = False
        self._thread = threading.Thread(target=self._run, name="detectors", daemon=True)

    def start(self) -> None:
        """Begins to judge photographs."""
        self._thread.start()

    def stop(self) -> None:
        """Stops when everything that waits is judged."""
        with self._changed:
            self._ended = True
            self._changed.notify()
        self._thread.join()

    def add(self, loaded: Loaded, photograph: Read, with_reconstruction: bool) -> Future[Found]:
        """Returns what the detector will say about a photograph; cancel it if nobody waits."""
        waiting = Waiting(loaded, photograph, with_reconstruction)
        with self._changed:
            self._waiting.append(waiting)
            self._changed.notify()
        return waiting.found

    def _run(self) -> None:
        while (batch := self._next()) is not None:
            wanted = [each for each in batch if each.found.set_running_or_notify_cancel()]
            if wanted:
                self._judge(wanted)

    def _next(self) -> list[Waiting] | None:
        """Returns the next batch; None at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._ended)
            if not self._waiting:
                return None
            first = self._waiting[0]
            # The squares of a tiled photograph fill batches by themselves.
            most = 1 if first.loaded.is_tiled else self._batch_size
            left = first.since + self._longest_wait - time.monotonic()
            self._changed.wait_for(
                lambda: self._count(first.loaded) >= most or self._ended, timeout=max(left, 0)
            )
            batch: list[Waiting] = []
            others: deque[Waiting] = deque()
            for each in self._waiting:
                fits = each.loaded is first.loaded and len(batch) < most
                (batch if fits else others).append(each)
            self._waiting = others
            return batch

    def _count(self, loaded: Loaded) -> int:
        return sum(each.loaded is loaded for each in self._waiting)

    def _judge(self, batch: list[Waiting]) -> None:
        loaded, began = batch[0].loaded, time.monotonic()
        left = iter(batch)
        try:
            for found in loaded.find([each.photograph for each in batch]):
                each = next(left)
                if each.with_reconstruction:
                    found = loaded.with_reconstruction(each.photograph, found)
                each.found.set_result(found)
        except Exception as error:  # Whatever the error, the next batch may succeed.
            logging.exception("%s: %d photographs could not be judged", loaded.name, len(batch))
            for each in batch:
                if not each.found.done():
                    each.found.set_exception(error)
        self._metrics.judged(loaded.name, len(batch), time.monotonic() - began)
