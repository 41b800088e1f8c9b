"""The one training loop."""

import json
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np
from absl import logging
from jax.sharding import Mesh
from jaxtyping import PyTree
from tqdm import tqdm

from ddad_jax.errors import Interrupted, UserError
from ddad_jax.training import mesh as meshes
from ddad_jax.training.checkpoints import Checkpoints
from ddad_jax.training.state import Loss, TrainSettings, initial_state, make_optimiser, make_step


@runtime_checkable
class Batches(Protocol):
    """An endless iterator of batches whose place can be saved."""

    def __next__(self) -> dict[str, np.ndarray]: ...

    def get_state(self) -> Any: ...

    def set_state(self, state: Any) -> None: ...


def train(
    loss: Loss,
    params: PyTree,
    frozen: PyTree,
    batches: Batches,
    settings: TrainSettings,
    *,
    folder: Path,
    seed: int,
    mesh: Mesh,
) -> PyTree:
    """Trains until `settings.steps`, from the newest checkpoint if there is one.

    The same folder, settings and data give the same parameters to the bit, however often the run
    is cut off and started again.

    Args:
      loss: the objective.
      params: parameters to start from.
      frozen: variables that the objective reads and nothing changes.
      batches: endless batches.
      settings: see `TrainSettings`.
      folder: holds the checkpoints and `metrics.jsonl`; its name stands in the progress bar.
      seed: of the noise drawn by the objective.
      mesh: devices; batches are split over its `data` axis.

    Returns:
      The averaged parameters, or the last where no average is kept.

    Raises:
      Interrupted: after SIGTERM or SIGINT, with the state saved.
      UserError: when the loss stays non-finite, with the last good state saved.
    """
    folder.mkdir(parents=True, exist_ok=True)
    optimiser = make_optimiser(settings)
    state = meshes.replicate(mesh, initial_state(params, optimiser))
    frozen = meshes.replicate(mesh, frozen)
    checkpoints = Checkpoints(folder / "checkpoints")
    restored = checkpoints.restore(state)
    if restored is not None:
        state, data_state = restored
        batches.set_state(data_state)
    step = make_step(loss, optimiser, settings.ema_decay)
    key = jax.random.key(seed)
    first = int(state.step)

    with _signals() as received, (folder / "metrics.jsonl").open("a") as log:
        bar = tqdm(total=settings.steps, initial=first, desc=folder.name, unit="step", disable=None)
        started = time.monotonic()
        for number in range(first + 1, settings.steps + 1):
            batch = next(batches)
            state, metrics = step(state, frozen, meshes.shard_batch(mesh, batch), key)
            if number % settings.log_every == 0 or number == settings.steps:
                values = {name: float(value) for name, value in metrics.items()}
                bar.set_postfix(loss=f"{values['loss']:.4f}")
                rate = (number - first) * settings.batch_size / (time.monotonic() - started)
                log.write(json.dumps({"step": number, "images_per_second": rate, **values}) + "\n")
                log.flush()
                logging.log_every_n_seconds(
                    logging.INFO, "%s: step %d of %d, loss %.4f, %.1f images/s", 30,
                    folder.name, number, settings.steps, values["loss"], rate,
                )  # fmt: skip
                if values["skipped"] >= settings.max_skipped:
                    checkpoints.save(state, batches.get_state())
                    checkpoints.close()
                    raise UserError(
                        f"{folder.name}: the loss was not finite {int(values['skipped'])} steps in "
                        f"a row, last at step {number} on images {batch['index'].tolist()}; the "
                        "parameters from before are saved; lower the learning rate"
                    )
            bar.update()
            last = number == settings.steps
            if last or received or number % settings.checkpoint_every == 0:
                checkpoints.save(state, batches.get_state())
            if received and not last:
                checkpoints.close()
                raise Interrupted(
                    f"{folder.name}: {signal.Signals(received[0]).name} at step {number} of "
                    f"{settings.steps}; saved, the same command continues from here"
                )
        bar.close()
    checkpoints.close()
    return state.ema if settings.ema_decay else state.params


@contextmanager
def _signals() -> Iterator[list[int]]:
    """Collects SIGTERM and SIGINT instead of dying of them."""
    received: list[int] = []
    chosen = (signal.SIGTERM, signal.SIGINT)
    previous = {number: signal.signal(number, lambda n, _: received.append(n)) for number in chosen}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
