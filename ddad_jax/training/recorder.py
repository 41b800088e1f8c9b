"""Output of a running training: metrics, pictures, a progress bar."""

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
    """Writes `metrics.jsonl`, `samples/` and, for TensorBoard, `tensorboard/` in a folder.

    Of several processes only the first writes; the others can make the same calls.

    Lines that an interrupted run wrote after the step that it continues from are dropped. Only
    `write_metrics` waits for the devices.
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
          folder: the last two parts of its path name the training in progress bar and log.
          settings: of the training.
          first: steps taken already.
          peak_flops: peak floating-point operations per second of one device, if known.
          row: number of the training in its group.
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
        """Starts to measure time, once the step is compiled.

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
        """Adds a step.

        Args:
          metrics: the arrays of the group; the devices may still be computing them.
          waited: seconds that the step waited for its data.
        """
        self._steps.append(metrics)
        self._waited += waited
        self._bar.update()

    def write_metrics(self, step: int) -> dict[str, float]:
        """Waits for the last step; writes its metrics, and speed and means since the last line.

        Returns:
          What was written; of an average, only the entries that any sample counted for.
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
        """Writes the values of a step."""
        self._lines.write(json.dumps({"step": step, **values}) + "\n")
        self._lines.flush()
        if processes.is_first():
            self._events.write_values(step, values)

    def write_picture(self, step: int, picture: UInt8[np.ndarray, "h w 3"]) -> None:
        """Writes the picture of a step, for TensorBoard and as a file in `samples/`."""
        if not processes.is_first():
            return
        path = self.folder / "samples" / f"step-{step:06d}.png"
        path.parent.mkdir(exist_ok=True)
        with whole_file(path) as unfinished:
            Image.fromarray(picture).save(unfinished)
        self._events.write_picture(step, picture)

    @cached_property
    def _events(self) -> "Events":
        # This imports PyTorch if it is installed, which takes seconds, so only training does it.
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
    """Keeps only whole lines up to a step; a killed run may have left half a line."""
    if not path.exists():
        return
    lines = path.read_text().splitlines(keepends=True)
    kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step]
    if kept != lines:
        write_atomically(path, "".join(kept))
