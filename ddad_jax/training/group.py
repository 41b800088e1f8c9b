"""A group of trainings on the mesh: their states, data and checkpoints, advanced together."""

from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np
from absl import logging
from jax.sharding import Mesh
from jaxtyping import Bool, Float, Int, PyTree

from ddad_jax.machine import copies, processes
from ddad_jax.machine.cost import operations
from ddad_jax.training import mesh as meshes
from ddad_jax.training.checkpoints import Checkpoints
from ddad_jax.training.samples import Sample
from ddad_jax.training.state import (
    Loss,
    Metrics,
    TrainSettings,
    initial_state,
    is_running,
    make_step,
    measured,
    returned,
)
from ddad_jax.training.validation import make_validation


@runtime_checkable
class Batches(Protocol):
    """An endless iterator of batches whose position can be saved."""

    def __next__(self) -> dict[str, np.ndarray]: ...

    def get_state(self) -> Any: ...

    def set_state(self, state: Any) -> None: ...


@runtime_checkable
class MakeBatches(Protocol):
    """Makes an iterator of one process's part of every batch."""

    def __call__(self, *, process_index: int, process_count: int) -> Batches: ...


@dataclass(frozen=True)
class Training:
    """One of the trainings of a group.

    Attributes:
      params: parameters to start from.
      frozen: variables that the objective reads but does not change.
      batches: makes the endless batches of one process.
      settings: see `TrainSettings`; within a group only `steps` may differ.
      folder: holds the checkpoints, what `Recorder` writes, and the trace.
      seed: of the noise drawn by the objective.
      heldout: arrays like those of a batch, of samples that are in no batch; needed if
        `settings.validate_every` is not 0.
      sample: draws the pictures that `settings.sample_every` asks for.
    """

    params: PyTree
    frozen: PyTree
    batches: MakeBatches
    settings: TrainSettings
    folder: Path
    seed: int
    heldout: Mapping[str, np.ndarray] | None = None
    sample: Sample | None = None

    @property
    def name(self) -> str:
        """The last two parts of its folder's path."""
        return "/".join(self.folder.parts[-2:])


def group_step(
    loss: Loss, settings: TrainSettings, mesh: Mesh, state: PyTree, frozen: PyTree
) -> jax.stages.Wrapped:
    """Makes the step of `make_step` for the arrays of a group; it donates the state it is given.

    Args:
      loss: the objective of one training.
      settings: those that the trainings share.
      mesh: as `make_mesh` makes it.
      state: of the group, placed on the mesh, or its shapes and shardings.
      frozen: the group's frozen variables, in the same form.
    """
    layout, each = _layout_of(state), _whole(mesh)
    batch = meshes.shardings(mesh, jax.ShapeDtypeStruct((1, 1), np.int32), meshes.batch_spec)
    return jax.jit(
        meshes.over_group(make_step(loss, settings), mesh),
        in_shardings=(layout, _layout_of(frozen), batch, each, each),
        out_shardings=(layout, each),
        donate_argnums=0,
    )


def _layout_of(state: PyTree) -> PyTree:
    return jax.tree.map(lambda leaf: leaf.sharding, state)


def _whole(mesh: Mesh) -> PyTree:
    return meshes.shardings(mesh, jax.ShapeDtypeStruct((1,), np.int32), meshes.whole_spec)


class Group:
    """Trainings that take their steps together, as one program over the mesh.

    Masks and counts are arrays with an entry for each slice of the mesh's `category` axis. Slices
    left over hold the last training once more, with no steps to take.

    Attributes:
      trainings: the trainings.
      settings: their common settings; `steps` is that of the first.
      rows: for each training that took the last step, the numbers of its batch's samples.
      taken: optimiser steps taken.
      steps: optimiser steps to take.
      state: the states, as a `TrainState` whose arrays have the category axis first.
      program: the compiled step; None before `compile`.
      flops: floating-point operations of a training's step on each device of its slice; 0 before
        `compile`.
    """

    def __init__(self, loss: Loss, trainings: Sequence[Training], mesh: Mesh):
        """Starts each training from its newest checkpoint, if it has one."""
        self.trainings = trainings
        self.settings = trainings[0].settings
        shared = {replace(training.settings, steps=0) for training in trainings}
        slices = mesh.shape["category"]
        if len(shared) > 1 or len(trainings) > slices:
            raise ValueError(f"{len(trainings)} trainings, {slices} slices, settings: {shared}")
        self._mesh = mesh
        self._checkpoints, self._streams = [], []
        self._publisher = ThreadPoolExecutor(1, "publish")
        self._publishing: Future[None] | None = None
        for training in trainings:
            training.folder.mkdir(parents=True, exist_ok=True)
            self._checkpoints.append(Checkpoints(training.folder / "checkpoints"))
            self._streams.append(
                training.batches(
                    process_index=jax.process_index(), process_count=jax.process_count()
                )
            )

        idle = replace(trainings[-1], settings=replace(self.settings, steps=0))
        filled = [*trainings, *[idle] * (slices - len(trainings))]
        self.steps = np.array([training.settings.steps for training in filled])
        self.rows: dict[int, list[int]] = {}
        self.program: jax.stages.Compiled | None = None
        self.flops = 0.0
        self._constants = meshes.place(
            mesh,
            [(np.int32(training.seed), np.int32(training.settings.steps)) for training in filled],
            meshes.whole_spec,
        )
        frozen = [training.frozen for training in filled]
        self._frozen = meshes.place(mesh, frozen, meshes.parameter_spec)
        self._start([training.params for training in filled])
        self._compile(loss, filled)
        self._restore()
        self.taken, self._misses = self._counters()
        if self.settings.validate_every:
            self.measure((self.taken == 0) & (self.steps > 0))

    def _start(self, params: Sequence[PyTree]) -> None:
        """Makes the states before the first step."""

        def start(params: PyTree) -> PyTree:
            return initial_state(params, self.settings)

        start = meshes.over_group(start, self._mesh)
        placed = meshes.place(self._mesh, params, meshes.parameter_spec)
        layout = meshes.shardings(self._mesh, jax.eval_shape(start, placed), meshes.parameter_spec)
        self.state = jax.jit(start, out_shardings=layout)(placed)

    def _compile(self, loss: Loss, filled: Sequence[Training]) -> None:
        """Makes the programs that advance and measure the states."""
        mesh, settings = self._mesh, self.settings

        self._step = group_step(loss, settings, mesh, self.state, self._frozen)
        if not settings.validate_every:
            return
        self._validate = make_validation(
            loss,
            self._frozen,
            [training.heldout for training in filled if training.heldout is not None],
            settings.batch_size,
            seeds=[training.seed for training in filled],
            mesh=mesh,
        )

        def hold(state: PyTree, value: PyTree, due: PyTree) -> PyTree:
            return measured(state, settings, value, due)

        layout, each = _layout_of(self.state), _whole(mesh)
        self._hold = jax.jit(
            meshes.over_group(hold, mesh),
            in_shardings=(layout, each, each),
            out_shardings=layout,
            donate_argnums=0,
        )

    def _restore(self) -> None:
        """Restores the newest checkpoints."""
        slices = [meshes.training_slice(self._mesh, self.state, i) for i in range(len(self.steps))]
        for i, checkpoints in enumerate(self._checkpoints):
            found = checkpoints.restore(slices[i])
            if found is not None:
                slices[i], data_state = found
                self._streams[i].set_state(data_state)
        self.state = meshes.join_slices(self._mesh, slices)

    def _counters(self) -> tuple[Int[np.ndarray, " group"], Int[np.ndarray, " group"]]:
        """Returns steps taken and measurements since the best one, from the states."""
        best = self.state.best
        taken = meshes.local_to_host(self.state.step)
        return taken, np.zeros_like(taken) if best is None else meshes.local_to_host(best.misses)

    @property
    def running(self) -> Bool[np.ndarray, " group"]:
        """Which trainings have steps left to take."""
        return np.asarray(is_running(self.settings, self.taken, self.steps, self._misses))

    def due(self, every: int) -> Bool[np.ndarray, " group"]:
        """Returns which trainings are at a multiple of `every` steps, or at their last step."""
        return (self.taken % every == 0) | (self.taken == self.steps)

    def next_batch(self) -> PyTree:
        """Returns the next batch of each running training, on the mesh."""
        running = self.running
        batches = {i: next(self._streams[i]) for i in np.flatnonzero(running).tolist()}
        self.rows = {i: batch["index"].tolist() for i, batch in batches.items()}
        # The others are given one of these batches, which changes nothing for them.
        given = next(iter(batches.values()))
        return meshes.place_batch(self._mesh, [batches.get(i, given) for i in range(len(running))])

    def compile(self, batch: PyTree) -> None:
        """Compiles the step for batches like this one, and counts its operations."""
        arguments = (self.state, self._frozen, batch, *self._constants)
        traced = self._step.trace(*arguments)
        lowered = traced.lower()
        self.flops = operations(traced, lowered) / meshes.batch_devices(self._mesh)
        self.program = processes.compile_together(lowered)

    def step(self, batch: PyTree) -> Metrics:
        """Takes the next step of each running training, and returns metrics.

        Returns:
          Arrays with the category axis first, still being computed; valid for these trainings only.
        """
        assert self.program is not None  # It is compiled before the first step.
        running = self.running
        self.state, metrics = self.program(self.state, self._frozen, batch, *self._constants)
        self.taken = self.taken + running
        return metrics

    def measure(self, due: Bool[np.ndarray, " group"]) -> Float[np.ndarray, " group"]:
        """Measures the trainings due on held-out samples; returns every training's best loss."""
        if not due.any():
            return meshes.local_to_host(self.state.best.loss)
        values = self._validate(returned(self.state, self.settings))
        pairs = list(zip(np.asarray(values, np.float32), due, strict=True))
        self.state = self._hold(self.state, *meshes.place(self._mesh, pairs, meshes.whole_spec))
        _, misses = self._counters()
        for i in np.flatnonzero(due).tolist():
            logging.info(
                "%s: step %d: loss on held-out images %.5f%s", self.trainings[i].name,
                self.taken[i], values[i], ", the best" if misses[i] == 0 else "",
            )  # fmt: skip
        self._misses = misses
        return meshes.local_to_host(self.state.best.loss)

    def save(self, due: Bool[np.ndarray, " group"]) -> None:
        """Starts writing checkpoints of the trainings that are due."""
        self._wait_until_published()
        for i in np.flatnonzero(due).tolist():
            state = meshes.training_slice(self._mesh, self.state, i)
            self._checkpoints[i].save(int(self.taken[i]), state, self._streams[i].get_state())
        if due.any() and copies.is_in_bucket():
            self._publishing = self._publisher.submit(self._publish)

    def _publish(self) -> None:
        for each in self._checkpoints:
            each.wait()
        copies.publish()

    def _wait_until_published(self) -> None:
        if self._publishing is not None:
            self._publishing.result()

    def parameters(self, number: int) -> PyTree:
        """Returns the current parameters of a training, or their average, on the host."""
        state = meshes.training_slice(self._mesh, self.state, number)
        return _only(meshes.to_host(returned(state, self.settings)))

    def result(self) -> list[PyTree]:
        """Returns the resulting parameters of each training, on the host."""
        best = self.state.best
        params = returned(self.state, self.settings) if best is None else best.params
        return [
            _only(meshes.to_host(meshes.training_slice(self._mesh, params, i)))
            for i in range(len(self.trainings))
        ]

    def __enter__(self) -> "Group":
        return self

    def __exit__(self, *_: object) -> None:
        """Waits until all checkpoints are written and, for a bucket, published."""
        with ExitStack() as stack:
            stack.enter_context(self._publisher)
            for checkpoints in self._checkpoints:
                stack.enter_context(checkpoints)
            self._wait_until_published()


def _only(group: PyTree) -> PyTree:
    """Returns the arrays of the only training of a group."""
    return jax.tree.map(lambda leaf: leaf[0], group)
