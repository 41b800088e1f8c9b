"""The training loop, for one training or a group of them."""

import time
from collections.abc import Sequence
from contextlib import ExitStack
from typing import NoReturn

import numpy as np
from absl import logging
from clu.parameter_overview import count_parameters
from jax.sharding import Mesh
from jaxtyping import Bool, PyTree

from ddad_jax.errors import Interrupted, UserError
from ddad_jax.machine import processes
from ddad_jax.training.group import Group, Training
from ddad_jax.training.recorder import Recorder
from ddad_jax.training.state import Loss
from ddad_jax.training.stop import stop_requests
from ddad_jax.training.trace import Trace


def train(
    loss: Loss, trainings: Sequence[Training], *, mesh: Mesh, peak_flops: float | None = None
) -> list[PyTree]:
    """Trains each of a group up to its `settings.steps`, from its newest checkpoint if any.

    The same folders, settings, data and mesh give the same parameters to the bit, however often
    the run is interrupted and started again. On another mesh, or in another group, a training's
    results are the same except for rounding.

    Args:
      loss: the objective.
      trainings: the group, at most one for each slice of the mesh's `category` axis; their arrays
        have the same shapes.
      mesh: see `mesh.make_mesh`.
      peak_flops: peak floating-point operations per second of one device, if known.

    Returns:
      The parameters of each training, on the host: the average, or the last if none is kept; with
      `settings.validate_every`, the best ones on held-out samples.

    Raises:
      Interrupted: after SIGTERM or SIGINT, with the states saved.
      UserError: a loss stays non-finite, with the last good states saved, or a checkpoint cannot be
        written.
    """
    with ExitStack() as stack:
        group = stack.enter_context(Group(loss, trainings, mesh))
        settings = group.settings
        stop_reason = stack.enter_context(stop_requests())
        traced = settings.trace_steps if processes.is_first() else ""
        trace = stack.enter_context(Trace(trainings[0].folder / "trace", traced))
        recorders = [
            stack.enter_context(Recorder(each.folder, each.settings, taken, peak_flops, row=row))
            for row, (each, taken) in enumerate(zip(trainings, group.taken.tolist(), strict=False))
        ]
        for each, taken, steps in zip(trainings, group.taken, group.steps, strict=False):
            logging.info(
                "%s: %d parameters, step %d of %d",
                each.name, count_parameters(each.params), taken, steps,
            )  # fmt: skip
        while (running := group.running).any():
            began = time.monotonic()
            batch = group.next_batch()
            waited = time.monotonic() - began
            if group.program is None:
                group.compile(batch)
                for recorder in recorders:
                    recorder.begin(group.flops)
            trace.before(int(group.taken[0]) + 1)
            metrics = group.step(batch)
            taken = group.taken
            trace.after(int(taken[0]), metrics)
            for i in _numbers(running):
                recorders[i].add(metrics, waited)
            for i in _numbers(running & group.due(settings.log_every)):
                skipped = int(recorders[i].write_metrics(int(taken[i]))["skipped"])
                if skipped >= settings.max_skipped:
                    group.save(running)
                    raise UserError(
                        f"{trainings[i].name}: the loss was not finite {skipped} steps in a row, "
                        f"last at step {taken[i]} on images {group.rows[i]}; the parameters from "
                        "before are saved; lower the learning rate"
                    )
            if settings.validate_every:
                measured = running & group.due(settings.validate_every)
                best = group.measure(measured)
                for i in _numbers(measured):
                    recorders[i].write(int(taken[i]), {"best_heldout_loss": float(best[i])})
            if settings.sample_every:
                for i in _numbers(running & (taken % settings.sample_every == 0)):
                    if sample := trainings[i].sample:
                        picture = sample(group.parameters(i))
                        recorders[i].write_picture(int(taken[i]), picture)
            reason = stop_reason(int(taken.sum()))
            ended = running & ~group.running
            group.save(ended | running & ((taken % settings.checkpoint_every == 0) | bool(reason)))
            if reason and group.running.any():
                _interrupt(group, reason)
        return group.result()


def _interrupt(group: Group, reason: str) -> NoReturn:
    i = _numbers(group.running)[0]
    raise Interrupted(
        f"{group.trainings[i].name}: {reason} at step {group.taken[i]} of {group.steps[i]}; saved, "
        "the same command continues from here"
    )


def _numbers(mask: Bool[np.ndarray, " group"]) -> list[int]:
    return np.flatnonzero(mask).tolist()
