"""A detector that a server has loaded, with every program that it may need."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from ddad_jax.data.preprocessing import Photograph
from ddad_jax.deploy.fitted import FittedDetector
from ddad_jax.deploy.prediction import Prediction
from ddad_jax.deploy.predictor import Predictor, Read
from ddad_jax.evaluation.find import Found

# Batch sizes differ by about this factor, so that few programs serve any number of photographs.
STEP = 4


class Loaded:
    """A detector ready to be asked.

    Attributes:
      name: the name by which requests ask for it.
      threshold: its own threshold, of the score.
      is_tiled: whether it cuts photographs into squares.
      about: its description, serialisable.
    """

    def __init__(self, name: str, path: Path, fitted: FittedDetector, batch_size: int):
        """Compiles nothing before `compile`.

        Args:
          name: see above.
          path: of its file.
          fitted: on its devices, without `Settings.reconstruct`.
          batch_size: the most photographs at a time.
        """
        how = fitted.preprocessing
        self.name, self.threshold, self.is_tiled = name, fitted.threshold, bool(how.tile)
        sizes = [batch_size]
        while not self.is_tiled and sizes[0] > 1:
            sizes.insert(0, -(-sizes[0] // STEP))
        made = [Predictor(fitted.detector, how, size) for size in sizes]
        # On a CPU one program serves all batch sizes.
        self._predictors = {each.batch_size: each for each in made}
        self._first = next(iter(self._predictors.values()))
        self._side = how.tile or how.size
        modified = datetime.fromtimestamp(path.stat().st_mtime, UTC)
        self.about: dict[str, Any] = {
            "name": name,
            "threshold": fitted.threshold,
            "calibration": fitted.calibrated,
            "size": how.size,
            "resize": how.resize,
            "tile": how.tile,
            "modified": modified.isoformat(timespec="seconds"),
        }

    def compile(self) -> None:
        """Compiles every program, and runs each once."""
        black = np.zeros((self._side, self._side, 3), np.uint8)
        photograph = self.read(black, "nothing")
        for predictor in self._predictors.values():
            (found,) = predictor.find([photograph])
        self.with_reconstruction(photograph, found)

    def read(self, photograph: Photograph, name: str) -> Read:
        """See `Predictor.read`; may be called from any thread."""
        return self._first.read(photograph, name)

    def find(self, photographs: Sequence[Read]) -> Iterator[Found]:
        """See `Predictor.find`; uses the smallest program that holds all photographs."""
        fitting = (size for size in self._predictors if size >= len(photographs))
        return self._predictors[next(fitting, max(self._predictors))].find(photographs)

    def with_reconstruction(self, photograph: Read, found: Found) -> Found:
        """See `Predictor.with_reconstruction`."""
        return self._first.with_reconstruction(photograph, found)

    def prediction(self, photograph: Read, found: Found, threshold: float | None) -> Prediction:
        """See `Predictor.prediction`; may be called from any thread."""
        return self._first.prediction(photograph, found, threshold)
