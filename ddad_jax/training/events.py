"""What TensorBoard shows of a training."""

import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog


class Events:
    """Writes `events.*` files of a folder."""

    def __init__(self, folder: Path, first: int):
        """TensorBoard drops what earlier files of the folder say of steps after `first`."""
        folder.mkdir(parents=True, exist_ok=True)
        self._writer = EventsWriter(str(folder / "events"), f".{first}")
        start = SessionLog(status=SessionLog.START)
        self._write(Event(step=first + 1, session_log=start))

    def write_values(self, step: int, values: Mapping[str, float]) -> None:
        """Writes values that belong to a step, on disk when it returns."""
        for name, value in values.items():
            self._write(Event(step=step, summary=summary.scalar(name, value)))
        self._writer.flush()

    def write_picture(self, step: int, picture: UInt8[np.ndarray, "h w 3"]) -> None:
        """Writes the samples of a step, likewise."""
        shown = summary.image("samples", picture, dataformats="HWC")
        self._write(Event(step=step, summary=shown))
        self._writer.flush()

    def _write(self, event: Event) -> None:
        event.wall_time = time.time()
        self._writer.write_event(event)

    def close(self) -> None:
        """Writes no more."""
        self._writer.close()
