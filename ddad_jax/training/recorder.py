"""What a training tells while it runs: metrics, pictures, a progress bar."""

import json
import os
import time
from collections.abc import Mapping
from functools import cached_property, reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from absl import logging
from clu.metrics import Average
from jaxtyping import UInt8
from PIL import Image
from tqdm import tqdm

from ddad_jax.machine import processes
from ddad_jax.machine.storage import whole_file, write_atomically
from ddad_jax.training import mesh as meshes
from ddad_jax.training.state import Metrics, TrainSettings

if TYPE_CHECKING:
    from ddad_jax.training.events import Events


class Recorder:
    """Writes `metrics.jsonl`, TensorBoard's `tensorboard/` and `samples/` of a folder.

    Of several processes the first writes; the others' recorders are for their calls alone.

    What an interrupted run wrote beyond the step that it is continued from is dropped. Nothing
    waits for the devices but `write_metrics`.
    """

    def __init__(
        self,
        folder: Path,
        settings: TrainSettings,
        first: int,
        peak_flops: float | None = None,
        row: int = 0,
    ):
        """Begins after the step `first`.

        Args:
          folder: the last two parts of its path stand in the progress bar and the log.
          settings: of the training.
          first: steps taken already.
          peak_flops: floating-point operations a second of one device at most, if it is known.
          row: which of its group the training is.
        """
        self.folder = folder
        self._name = "/".join(folder.parts[-2:])
        self._row = row
        self._settings = settings
        self._peak_flops = peak_flops
        path = folder / "metrics.jsonl" if processes.is_first() else Path(os.devnull)
        _drop_after(path, first)
        self._lines = path.open("a")
        self._first = first
        self._bar = tqdm(
            total=settings.steps, initial=first, desc=self._name, unit="step", disable=None
        )
        self._flops = 0.0
        self._restart()

    def begin(self, flops: float) -> None:
        """Time counts from here: the step is compiled.

        Args:
          flops: floating-point operations of one step on one device.
        """
        self._flops = flops
        self._restart()

    def _restart(self) -> None:
        self._steps: list[dict[str, Any]] = []
        self._waited = 0.0
        self._started = time.monotonic()

    def add(self, metrics: Metrics, waited: float) -> None:
        """Takes one more step.

        Args:
          metrics: of the group, each array's first axis; the devices may still be computing them.
          waited: seconds that the step waited for its data.
        """
        self._steps.append(metrics)
        self._waited += waited
        self._bar.update()

    def write_metrics(self, step: int) -> dict[str, float]:
        """Waits for the last step and writes its metrics, and speed and means since the last line.

        Returns:
          What was written; of averages those kinds alone that any sample was of.
        """
        steps = jax.tree.map(lambda group: group[self._row], meshes.local_to_host(self._steps))
        last = steps[-1]
        seconds = time.monotonic() - self._started
        rate = len(steps) * self._settings.batch_size / seconds
        values: dict[str, float] = {}
        for name, value in last.items():
            if isinstance(value, Average):
                values |= _means(name, reduce(Average.merge, (each[name] for each in steps)))
            else:
                values[name] = float(value)
        values |= {"images_per_second": rate, "data_wait": self._waited / seconds}
        values["flops_per_second"] = len(steps) * self._flops / seconds
        if self._peak_flops:
            values["utilisation"] = values["flops_per_second"] / self._peak_flops
        self.write(step, values)
        self._bar.set_postfix(loss=f"{values['loss']:.4f}")
        logging.log_every_n_seconds(
            logging.INFO, "%s: step %d of %d, loss %.4f, %.1f images/s", 30,
            self._name, step, self._settings.steps, values["loss"], rate,
        )  # fmt: skip
        self._restart()
        return values

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Writes values that belong to a step."""
        self._lines.write(json.dumps({"step": step, **values}) + "\n")
        self._lines.flush()
        if processes.is_first():
            self._events.write_values(step, values)

    def write_picture(self, step: int, picture: UInt8[np.ndarray, "h w 3"]) -> None:
        """Writes a picture that belongs to a step, also as a file in `samples/`."""
        if not processes.is_first():
            return
        path = self.folder / "samples" / f"step-{step:06d}.png"
        path.parent.mkdir(exist_ok=True)
        with whole_file(path) as unfinished:
            Image.fromarray(picture).save(unfinished)
        self._events.write_picture(step, picture)

    @cached_property
    def _events(self) -> "Events":
        # Loads PyTorch where there is one, which takes seconds that only training should take.
        from ddad_jax.training.events import Events

        return Events(self.folder / "tensorboard", self._first)

    def __enter__(self) -> "Recorder":
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()
        self._lines.close()
        if "_events" in vars(self):
            self._events.close()


def _means(name: str, average: Average) -> dict[str, float]:
    kinds = np.flatnonzero(average.count)
    means = average.total[kinds] / average.count[kinds]
    return {f"{name}_{kind + 1}": float(mean) for kind, mean in zip(kinds, means, strict=True)}


def _drop_after(path: Path, step: int) -> None:
    """Keeps the lines up to a step; one that was being written when a run was killed goes too."""
    if not path.exists():
        return
    lines = path.read_text().splitlines(keepends=True)
    kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step]
    if kept != lines:
        write_atomically(path, "".join(kept))
