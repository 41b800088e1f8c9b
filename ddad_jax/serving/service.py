"""Turns photographs into predictions, within limits of room and time.

Photographs are decoded, and predictions made and drawn, in a pool of threads; detectors are asked
in another thread (see `gathering`). The event loop only waits.
"""

import asyncio
import os
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from typing import Any

from ddad_jax.data.preprocessing import Photograph
from ddad_jax.data.read import require_pixels
from ddad_jax.deploy.prediction import Prediction
from ddad_jax.errors import UserError
from ddad_jax.evaluation.drawing import decision_name
from ddad_jax.evaluation.find import Found
from ddad_jax.serving.detectors import Detectors
from ddad_jax.serving.gathering import Gatherer
from ddad_jax.serving.loaded import Loaded
from ddad_jax.serving.metrics import Metrics
from ddad_jax.serving.refusal import Refusal, busy
from ddad_jax.serving.settings import ServeSettings

# The most threads that decode: with the largest photographs, each takes about a gigabyte.
MOST_THREADS = 8
# The weight of the newest photograph in the average time that one takes.
NEWEST = 0.1


class Service:
    """Answers requests about photographs.

    Attributes:
      detectors: the detectors that can be asked.
      metrics: what is counted.
    """

    def __init__(self, detectors: Detectors, settings: ServeSettings, metrics: Metrics):
        """Answers nothing before `start`."""
        self.detectors, self.metrics, self._settings = detectors, metrics, settings
        self._gatherer = Gatherer(settings.batch_size, settings.longest_wait, metrics)
        threads = min(os.cpu_count() or 1, MOST_THREADS)
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="photographs")
        # Only so many tiled photographs have all their squares in memory.
        self._tiled = asyncio.Semaphore(threads)
        self._here, self._seconds_each, self._last = 0, 0.0, 0.0

    def start(self) -> None:
        """Begins to judge photographs."""
        self._gatherer.start()

    def stop(self) -> None:
        """Stops when every photograph that is there has been judged."""
        self._gatherer.stop()
        self._pool.shutdown()

    async def predict(
        self,
        loaded: Loaded,
        photographs: Mapping[str, Photograph],
        threshold: float | None,
        with_reconstruction: bool,
    ) -> list[Prediction]:
        """Returns what a detector says about photographs that came together.

        Args:
          loaded: the detector.
          photographs: by the name that errors use.
          threshold: see `Predictor.prediction`.
          with_reconstruction: whether the reconstruction is needed too.

        Raises:
          Refusal: one cannot be read, there is no room, or it takes too long.
        """
        with self._room(len(photographs)):
            tasks = [
                asyncio.create_task(
                    self._predict_one(loaded, name, each, threshold, with_reconstruction)
                )
                for name, each in photographs.items()
            ]
            try:
                async with asyncio.timeout(self._settings.answer_seconds):
                    return await asyncio.gather(*tasks)
            except TimeoutError as error:
                line = f"not judged within {self._settings.answer_seconds:g} seconds; try again"
                raise busy(line, self.seconds_to_wait) from error
            finally:
                for task in tasks:
                    task.cancel()

    async def in_thread(self, work: Callable[..., Any], *arguments: Any) -> Any:
        """Runs the work in a thread of the pool, and returns its result."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, work, *arguments)

    def require_room(self) -> None:
        """Raises Refusal if there is no room for one more photograph."""
        with self._room(1):
            pass

    @property
    def seconds_to_wait(self) -> float:
        """About how many seconds it takes to judge the photographs that are here now."""
        return self._here * self._seconds_each

    @contextmanager
    def _room(self, count: int) -> Iterator[None]:
        most = self._settings.queue
        if count > most:
            raise Refusal(413, f"{count} photographs at a time; at most {most} are accepted")
        if self._here + count > most:
            line = f"{self._here} photographs are waiting; try again later"
            raise busy(line, self.seconds_to_wait)
        self._add(count)
        try:
            yield
        finally:
            self._add(-count)

    def _add(self, count: int) -> None:
        self._here += count
        self.metrics.here.set(self._here)

    async def _predict_one(
        self,
        loaded: Loaded,
        name: str,
        photograph: Photograph,
        threshold: float | None,
        with_reconstruction: bool,
    ) -> Prediction:
        async with self._tiled if loaded.is_tiled else nullcontext():
            read = await self.in_thread(self._read, loaded, name, photograph)
            del photograph
            began = max(time.monotonic(), self._last)
            found: Found = await asyncio.wrap_future(
                self._gatherer.add(loaded, read, with_reconstruction)
            )
            self._last = time.monotonic()
            self._seconds_each += NEWEST * (self._last - began - self._seconds_each)
            prediction = await self.in_thread(loaded.prediction, read, found, threshold)
            decision = decision_name(prediction.decision)
            self.metrics.decided(loaded.name, decision, prediction.calibrated_score)
            return prediction

    def _read(self, loaded: Loaded, name: str, photograph: Photograph) -> Any:
        try:
            # An array is no larger than the body that it came in.
            if isinstance(photograph, bytes):
                require_pixels(photograph, name, self._settings.most_pixels)
            return loaded.read(photograph, name)
        except UserError as error:
            raise Refusal(400, str(error)) from error
