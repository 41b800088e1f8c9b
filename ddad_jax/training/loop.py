"""The one training loop."""

import json
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from jax.sharding import Mesh
from jaxtyping import PyTree
from tqdm import tqdm

from ddad_jax.errors import Interrupted, UserError
from ddad_jax.training import mesh as meshes
from ddad_jax.training.checkpoints import Checkpoints
from ddad_jax.training.state import (
    Best,
    Loss,
    TrainSettings,
    TrainState,
    initial_state,
    make_optimiser,
    make_step,
)
from ddad_jax.training.validation import make_validation


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
    heldout: Mapping[str, np.ndarray] | None = None,
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
      heldout: arrays as the batches', of samples that are in none of them; asked for where
        `settings.validate_every` is not 0.

    Returns:
      The averaged parameters, or the last where no average is kept; with held-out samples those
      that did best on them.

    Raises:
      Interrupted: after SIGTERM or SIGINT, with the state saved.
      UserError: when the loss stays non-finite, with the last good state saved.
    """
    folder.mkdir(parents=True, exist_ok=True)
    optimiser = make_optimiser(settings)
    state = meshes.replicate(mesh, initial_state(params, optimiser))
    frozen = meshes.replicate(mesh, frozen)
    validate = None
    if settings.validate_every:
        validate = make_validation(loss, frozen, heldout, settings.batch_size, seed=seed, mesh=mesh)
        unmeasured = Best(state.ema, jnp.float32(jnp.inf), jnp.int32(0))
        state = state.replace(best=meshes.replicate(mesh, jax.tree.map(jnp.copy, unmeasured)))
    checkpoints = Checkpoints(folder / "checkpoints")
    restored = checkpoints.restore(state)
    if restored is not None:
        state, data_state = restored
        batches.set_state(data_state)
    step = make_step(loss, optimiser, settings.ema_decay)
    key = jax.random.key(seed)
    first = int(state.step)
    if validate and restored is None:
        state = _measured(state, validate, settings)

    with _signals() as received, (folder / "metrics.jsonl").open("a") as log:
        bar = tqdm(total=settings.steps, initial=first, desc=folder.name, unit="step", disable=None)
        started = time.monotonic()
        for number in range(first + 1, settings.steps + 1):
            if validate and state.best.misses >= settings.patience:
                break
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
            if validate and (last or number % settings.validate_every == 0):
                state = _measured(state, validate, settings)
                last = last or bool(state.best.misses >= settings.patience)
                entry = {"step": number, "best_heldout_loss": float(state.best.loss)}
                log.write(json.dumps(entry) + "\n")
                log.flush()
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
    return state.best.params if validate else _returned(state, settings)


def _returned(state: TrainState, settings: TrainSettings) -> PyTree:
    return state.ema if settings.ema_decay else state.params


def _measured(
    state: TrainState, validate: Callable[[PyTree], float], settings: TrainSettings
) -> TrainState:
    """The state with its parameters held against the best so far."""
    params = _returned(state, settings)
    value = validate(params)
    better = value < state.best.loss
    logging.info(
        "step %d: loss on held-out images %.5f%s", state.step, value, ", the best" if better else ""
    )
    if not better:
        return state.replace(best=state.best.replace(misses=state.best.misses + 1))
    # The next step is given the state's memory, so the best has its own.
    best = Best(jax.tree.map(jnp.copy, params), jnp.full_like(state.best.loss, value),
                jnp.zeros_like(state.best.misses))  # fmt: skip
    return state.replace(best=best)


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
