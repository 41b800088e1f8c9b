"""Runs a detector on a stream of photographs, in constant memory.

Threads read and decode photographs ahead of the detector. It takes those that are ready, up to a
batch, and never waits for a batch to fill: on a production line the next photograph may be minutes
away.
"""

import os
from collections.abc import Iterable, Iterator

from ddad_jax.data.preprocessing import Photograph, Preprocessing
from ddad_jax.deploy.prediction import Prediction
from ddad_jax.deploy.predictor import Predictor, Read
from ddad_jax.detection.batching import side_by_side
from ddad_jax.detection.detector import Detector
from ddad_jax.errors import UserError
from ddad_jax.machine.parallel import groups_as_ready


class Unreadable(UserError):
    """A photograph that cannot be used.

    Attributes:
      name: of the photograph.
    """

    def __init__(self, name: str, reason: str):
        super().__init__(reason)
        self.name = name


def stream(
    detector: Detector,
    preprocessing: Preprocessing,
    photographs: Iterable[tuple[str, Photograph]],
    batch_size: int,
) -> Iterator[Prediction | Unreadable]:
    """Yields the detector's prediction for each photograph, in order, as soon as it is ready.

    Args:
      detector: a fitted detector, divided over its devices.
      preprocessing: the one that it was made with.
      photographs: names and photographs; may be endless.
      batch_size: squares at a time, approximately.
    """
    predictor = Predictor(detector, preprocessing, batch_size)
    size = predictor.batch_size * side_by_side()
    threads = os.cpu_count() or 1
    # All squares of a tiled photograph are in memory at once, and take as much as the photograph.
    most, ahead = (1, threads) if preprocessing.tile else (size, size + threads)

    def read(named: tuple[str, Photograph]) -> Read | Unreadable:
        name, photograph = named
        try:
            return predictor.read(photograph, name)
        except UserError as error:
            return Unreadable(name, str(error))

    for group in groups_as_ready(read, photographs, most, ahead):
        found = predictor.find([each for each in group if not isinstance(each, Unreadable)])
        for each in group:
            if isinstance(each, Unreadable):
                yield each
            else:
                yield predictor.prediction(each, next(found))
