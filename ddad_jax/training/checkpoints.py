"""Checkpoints of a training: its state and its place in the data, saved together."""

from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from absl import logging

from ddad_jax.errors import UserError
from ddad_jax.training.state import TrainState


class Checkpoints:
    """The checkpoints of one training, written in the background, the newest kept.

    A half-written checkpoint is never seen: Orbax gives a checkpoint its name when it is whole.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        options = ocp.CheckpointManagerOptions(max_to_keep=1)
        # Named here so that a checkpoint's shapes can be read before it is restored.
        handlers = {"state": ocp.StandardCheckpointHandler(), "data": ocp.JsonCheckpointHandler()}
        self._manager = ocp.CheckpointManager(
            folder.resolve(), options=options, item_handlers=handlers
        )

    def save(self, state: TrainState, data_state: Any) -> None:
        """Starts writing a checkpoint of the state and of the data iterator's state."""
        self._manager.save(
            int(state.step),
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(state), data=ocp.args.JsonSave(data_state)
            ),
        )

    def restore(self, template: TrainState) -> tuple[TrainState, Any] | None:
        """The newest state and its data state, laid out as the template, or None.

        Raises:
          UserError: where the checkpoint is of another architecture.
        """
        step = self._manager.latest_step()
        if step is None:
            return None
        self._check_architecture(step, template)
        restored = self._manager.restore(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardRestore(template), data=ocp.args.JsonRestore()
            ),
        )
        logging.info("%s: continuing from step %d", self.folder.name, step)
        return restored["state"], restored["data"]

    def _check_architecture(self, step: int, template: TrainState) -> None:
        stored = self._manager.item_metadata(step)["state"].tree["params"]
        found = _shapes(stored)
        for name, expected in _shapes(template.params).items():
            if found.get(name) != expected:
                what = f"has {name} of shape {found[name]}" if name in found else f"lacks {name}"
                raise UserError(
                    f"{self.folder}: the checkpoint is of another architecture: it {what}, the "
                    f"settings give shape {expected}; use the settings that it was trained with, "
                    "or another --workdir"
                )

    def close(self) -> None:
        """Waits until all is written."""
        self._manager.wait_until_finished()
        self._manager.close()


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf.shape for path, leaf in leaves
    }
