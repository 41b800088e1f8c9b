"""The one training loop."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from jax.sharding import Mesh
from jaxtyping import PyTree

from ddad_jax.errors import Interrupted, UserError
from ddad_jax.training import mesh as meshes
from ddad_jax.training.checkpoints import Checkpoints
from ddad_jax.training.recorder import Recorder, flops_of
from ddad_jax.training.samples import Sample
from ddad_jax.training.state import (
    Best,
    Loss,
    TrainSettings,
    TrainState,
    initial_state,
    make_optimiser,
    make_step,
)
from ddad_jax.training.stop import stop_requests
from ddad_jax.training.trace import Trace
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
    sample: Sample | None = None,
    peak_flops: float | None = None,
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
      folder: holds the checkpoints, what `Recorder` writes, and the trace.
      seed: of the noise drawn by the objective.
      mesh: devices; batches are split over its `data` axis.
      heldout: arrays as the batches', of samples that are in none of them; asked for where
        `settings.validate_every` is not 0.
      sample: draws the picture for which `settings.sample_every` asks.
      peak_flops: floating-point operations a second of one device at most, if it is known.

    Returns:
      The averaged parameters, or the last where no average is kept; with held-out samples those
      that did best on them.

    Raises:
      Interrupted: after SIGTERM or SIGINT, with the state saved.
      UserError: when the loss stays non-finite, with the last good state saved, and when a
        checkpoint cannot be written.
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
    first = number = int(state.step)
    if validate and restored is None:
        state = _measured(state, validate, settings)
    last = number == settings.steps or _stale(state, settings)
    with (
        checkpoints,
        stop_requests() as stop_reason,
        Recorder(folder, settings, first, peak_flops) as recorder,
        Trace(folder / "trace", settings.trace_steps) as trace,
    ):
        while not last:
            number += 1
            with recorder.waiting():
                batch = next(batches)
            laid_out = meshes.shard_batch(mesh, batch)
            if number == first + 1:
                recorder.begin(flops_of(step, state, frozen, laid_out, key))
            trace.before(number)
            state, metrics = step(state, frozen, laid_out, key)
            trace.after(number, metrics)
            recorder.add(metrics)
            last = number == settings.steps
            if last or number % settings.log_every == 0:
                skipped = int(recorder.write_metrics(number)["skipped"])
                if skipped >= settings.max_skipped:
                    checkpoints.save(number, state, batches.get_state())
                    raise UserError(
                        f"{folder.name}: the loss was not finite {skipped} steps in "
                        f"a row, last at step {number} on images {batch['index'].tolist()}; the "
                        "parameters from before are saved; lower the learning rate"
                    )
            if validate and (last or number % settings.validate_every == 0):
                state = _measured(state, validate, settings)
                recorder.write(number, {"best_heldout_loss": float(state.best.loss)})
                last = last or _stale(state, settings)
            if sample and settings.sample_every and number % settings.sample_every == 0:
                recorder.write_picture(number, sample(_returned(state, settings)))
            reason = stop_reason(number)
            if last or reason or number % settings.checkpoint_every == 0:
                checkpoints.save(number, state, batches.get_state())
            if reason and not last:
                raise Interrupted(
                    f"{folder.name}: {reason} at step {number} of {settings.steps}; saved, the "
                    "same command continues from here"
                )
    return state.best.params if validate else _returned(state, settings)


def _stale(state: TrainState, settings: TrainSettings) -> bool:
    return state.best is not None and int(state.best.misses) >= settings.patience


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
