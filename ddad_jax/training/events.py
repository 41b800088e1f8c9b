"""Event files, from which TensorBoard shows a training."""

import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog


class Events:
    """Writes `events.*` files in a folder."""

    def __init__(self, folder: Path, first: int):
        """Has TensorBoard drop steps after `first` that earlier files of the folder hold."""
        folder.mkdir(parents=True, exist_ok=True)
        self._writer = EventsWriter(str(folder / "events"), f".{first}")
        start = SessionLog(status=SessionLog.START)
        self._write(Event(step=first + 1, session_log=start))

    def write_values(self, step: int, values: Mapping[str, float]) -> None:
        """Writes the values of a step; they are in the file when this returns."""
        for name, value in values.items():
            self._write(Event(step=step, summary=summary.scalar(name, value)))
        self._writer.flush()

    def write_picture(self, step: int, picture: UInt8[np.ndarray, "h w 3"]) -> None:
        """Writes the picture of a step; it is in the file when this returns."""
        shown = summary.image("samples", picture, dataformats="HWC")
        self._write(Event(step=step, summary=shown))
        self._writer.flush()

    def _write(self, event: Event) -> None:
        event.wall_time = time.time()
        self._writer.write_event(event)

    def close(self) -> None:
        """Ends writing."""
        self._writer.close()
