"""Checkpoints of a training: its state and its place in the data, saved together."""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from jaxtyping import Array, PyTree, UInt32

from ddad_jax.errors import UserError
from ddad_jax.machine import processes
from ddad_jax.training import mesh as meshes
from ddad_jax.training.state import TrainSettings, TrainState


class Checkpoints:
    """The checkpoints of one training, written in the background; the two newest are kept.

    A state is that of a group of one: the first axis of each array has length 1. Process 0 writes
    all of it; every process reads what it needs. Processes need not have a folder in common.

    A half-written checkpoint is never seen: Orbax gives a checkpoint its name once it is complete.
    Older ones are removed only then.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        own = jax.process_index()
        alone = ocp.options.MultiprocessingOptions(
            primary_host=own, active_processes={own}, barrier_sync_key_prefix=f"process{own}"
        )
        options = ocp.CheckpointManagerOptions(
            max_to_keep=2,
            create=False,
            cleanup_tmp_directories=processes.is_first(),
            multiprocessing_options=alone,
        )
        # Given here so that a checkpoint's shapes can be read before it is restored.
        handlers = {
            "state": ocp.StandardCheckpointHandler(multiprocessing_options=alone),
            "data": ocp.JsonCheckpointHandler(multiprocessing_options=alone),
        }
        self._manager = ocp.CheckpointManager(
            folder.resolve(), options=options, item_handlers=handlers
        )

    def save(self, step: int, state: TrainState, data_state: Any) -> None:
        """Starts writing a checkpoint: the state after a step, and the data iterator's state.

        Raises:
          UserError: this checkpoint or the one before cannot be written.
        """
        if not self.folder.is_dir():
            raise UserError(
                f"{self.folder}: is gone, and step {step} cannot be saved; choose a --workdir that "
                "nothing else removes"
            )
        with self._reported():
            data = {"iterator": data_state, "checksum": int(_checksum(state))}
            whole = state if jax.process_count() == 1 else meshes.to_host(state)
            if not processes.is_first():
                return
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(whole), data=ocp.args.JsonSave(data)
                ),
            )

    def restore(self, template: TrainState) -> tuple[TrainState, Any] | None:
        """Returns the newest undamaged state, sharded as the template, and its data state, or None.

        Newer checkpoints that are damaged are moved aside, with a warning.

        Raises:
          UserError: the checkpoint is of another architecture, or all are damaged.
        """
        damaged: dict[int, Exception] = {}
        for step in sorted(self._manager.all_steps(), reverse=True):
            try:
                restored = self._restore(step, template)
            except UserError:
                raise
            except Exception as error:  # Orbax and TensorStore have no common type of error.
                damaged[step] = error
                continue
            self._set_aside(damaged, step)
            logging.info("%s: continuing from step %d", self.folder.parent.name, step)
            return restored
        if damaged:
            step, why = next(iter(damaged.items()))
            raise UserError(
                f"{self.folder / str(step)}: cannot be read ({_reason(why)}), and no other "
                "checkpoint can; remove the folder to begin anew"
            )
        return None

    def read_newest(self) -> dict[str, PyTree] | None:
        """Returns the newest state as nested dictionaries of numpy arrays, or None.

        Raises:
          UserError: it is damaged.
        """
        step = self._manager.latest_step()
        if step is None:
            return None
        try:
            stored = self._manager.item_metadata(step)["state"].tree
            empty = jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), stored)
            restored = self._manager.restore(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardRestore(empty), data=ocp.args.JsonRestore()
                ),
            )
            if int(_checksum(restored["state"])) != restored["data"]["checksum"]:
                raise ValueError("its checksum differs")
        except Exception as error:  # Orbax and TensorStore have no common type of error.
            raise UserError(
                f"{self.folder / str(step)}: cannot be read ({_reason(error)}); remove the folder "
                f"{self.folder.parent} to train anew"
            ) from error
        return restored["state"]

    def _restore(self, step: int, template: TrainState) -> tuple[TrainState, Any]:
        self._check_architecture(step, template)
        restored = self._manager.restore(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardRestore(template), data=ocp.args.JsonRestore()
            ),
        )
        state, data = restored["state"], restored["data"]
        if int(_checksum(state)) != data["checksum"]:
            raise ValueError("its checksum differs")
        return state, data["iterator"]

    def _set_aside(self, damaged: dict[int, Exception], whole: int) -> None:
        processes.wait_for_all("damaged checkpoints are read")
        with processes.first_then_others("damaged checkpoints are aside"):
            for step, error in damaged.items() if processes.is_first() else ():
                aside = self.folder.with_name(f"damaged-{step}")
                shutil.rmtree(aside, ignore_errors=True)
                (self.folder / str(step)).rename(aside)
                logging.warning(
                    "%s: cannot be read (%s), moved to %s; the checkpoint of step %d is used",
                    self.folder / str(step), _reason(error), aside, whole,
                )  # fmt: skip
        self._manager.reload()

    def _check_architecture(self, step: int, template: TrainState) -> None:
        stored = self._manager.item_metadata(step)["state"].tree["params"]
        found = _shapes(stored)
        for name, expected in _shapes(template.params).items():
            if found.get(name) != expected:
                what = f"has {name} of shape {found[name]}" if name in found else f"lacks {name}"
                raise UserError(
                    f"{self.folder}: the checkpoint is of another architecture: it {what}, but "
                    f"the settings give shape {expected}; use the settings that it was trained "
                    "with, or another --workdir"
                )

    @contextmanager
    def _reported(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            raise UserError(
                f"{self.folder}: a checkpoint could not be written ({_reason(error)}); earlier "
                "ones are kept; with room on the disk, the same command continues"
            ) from error

    def __enter__(self) -> "Checkpoints":
        return self

    def wait(self) -> None:
        """Waits until everything is written.

        Raises:
          UserError: a checkpoint cannot be written.
        """
        with self._reported():
            self._manager.wait_until_finished()

    def __exit__(self, *_: object) -> None:
        self.wait()
        self._manager.close()


def read_parameters(folder: Path, settings: TrainSettings) -> PyTree | None:
    """Returns the parameters that a training has reached, from its newest checkpoint.

    Args:
      folder: of the training's checkpoints.
      settings: those of the training; they say which parameters it returns.

    Returns:
      The parameters as numpy arrays; None if no checkpoint was written.

    Raises:
      UserError: the checkpoint is damaged.
    """
    with Checkpoints(folder) as checkpoints:
        state = checkpoints.read_newest()
    if state is None:
        return None
    kind = "ema" if settings.ema_decay else "params"
    chosen = state["best"]["params"] if settings.validate_every else state[kind]
    return jax.tree.map(lambda leaf: leaf[0], chosen)


@jax.jit
def _checksum(state: PyTree) -> UInt32[Array, ""]:
    """Sums the bits of all elements as 32-bit words; the same on every mesh."""

    def words(leaf: Array) -> UInt32[Array, ""]:
        unsigned = jnp.dtype(f"uint{8 * leaf.dtype.itemsize}")
        bits = jax.lax.bitcast_convert_type(leaf, unsigned)
        return bits.astype(jnp.uint32).sum(dtype=jnp.uint32)

    total = sum(words(leaf) for leaf in jax.tree.leaves(state))
    assert isinstance(total, Array)  # A state has at least a step.
    return total


def _reason(error: Exception) -> str:
    """Returns the system's message if the disk is full, or else the error's first line."""
    full = os.strerror(errno.ENOSPC)
    return full if full in str(error) else str(error).strip().split("\n")[0][:200]


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf.shape[1:]
        for path, leaf in leaves
    }
