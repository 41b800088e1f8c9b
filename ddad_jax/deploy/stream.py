"""Photographs through a detector, one after another, in constant memory.

Photographs are read and decoded in threads, ahead of the detector. It takes those that are there,
up to a batch, and never waits for a batch to fill: on a line the next photograph may be minutes
away.
"""

import os
from collections.abc import Iterable, Iterator
from functools import partial

import numpy as np
from jaxtyping import UInt8

from ddad_jax.data.preprocessing import Photograph, Preprocessing
from ddad_jax.deploy.prediction import Prediction, prediction_of
from ddad_jax.detection.batching import side_by_side
from ddad_jax.detection.detector import Detector
from ddad_jax.errors import UserError
from ddad_jax.evaluation.find import Finder, Found
from ddad_jax.evaluation.originals import for_showing
from ddad_jax.machine.parallel import groups_as_ready

# Its name, its height and width, how it is shown, and the networks' input.
_Read = tuple[str, tuple[int, int], UInt8[np.ndarray, "_ _ 3"], UInt8[np.ndarray, "_ size size 3"]]


class Unreadable(UserError):
    """A photograph that cannot be used.

    Attributes:
      name: the photograph's.
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
    """What the detector says of each photograph, in order, as soon as it is known.

    Args:
      detector: a fitted one, laid over its devices.
      preprocessing: that it was made with.
      photographs: names and photographs; endless, if need be.
      batch_size: squares at a time, about.
    """
    finder = Finder(detector, preprocessing, batch_size)
    size = finder.batch_size * side_by_side()
    threads = os.cpu_count() or 1
    # Of a tiled photograph all squares are there at once, which takes as much as itself.
    most, ahead = (1, threads) if preprocessing.tile else (size, size + threads)
    calibration = detector.calibration
    limits = {
        "threshold": float(calibration.threshold),
        "pixel_threshold": float(calibration.pixel_threshold),
        "smallest_region": detector.settings.smallest_region,
    }

    def read(named: tuple[str, Photograph]) -> _Read | Unreadable:
        name, photograph = named
        try:
            image = preprocessing.read(photograph, name)
            squares = preprocessing.squares(image, name)
        except UserError as error:
            return Unreadable(name, str(error))
        return name, image.shape[:2], for_showing(image), squares

    for group in groups_as_ready(read, photographs, most, ahead):
        good = [each for each in group if not isinstance(each, Unreadable)]
        squares = [each[-1] for each in good]
        found: Iterator[Found] = iter(())
        if good:
            starts = np.cumsum([0, *map(len, squares)])
            sizes = np.array([each[1] for each in good])
            every = np.concatenate(squares)
            found = finder.find(every, starts, sizes, bar="")
        for each in group:
            if isinstance(each, Unreadable):
                yield each
            else:
                name, shape, shown, own = each
                reconstruct = partial(finder.reconstruction, own, shape)
                yield prediction_of(
                    name, next(found), reconstruct, shown, shape, preprocessing, **limits
                )
