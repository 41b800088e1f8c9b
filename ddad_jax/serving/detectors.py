"""The detectors that are served: those of the files that exist, as they are now.

Files are checked again and again. A new or replaced one is loaded and compiled while the old
detector is still served; the old one also judges the photographs that it already has. A file that
cannot be used changes nothing, and the detector of a deleted file is still served.
"""

import threading
from collections.abc import Callable
from pathlib import Path

from absl import logging

from ddad_jax.deploy.fitted import FittedDetector
from ddad_jax.deploy.watch import Stamp, stamp_of
from ddad_jax.errors import UserError, readable
from ddad_jax.serving.loaded import Loaded
from ddad_jax.serving.metrics import Metrics

SUFFIX = ".safetensors"
# The stem of a detector's file for which the detector is named after its folder.
DETECTOR = "detector"


def files_of(place: Path) -> dict[str, Path]:
    """Returns the files of the detectors in a place, by name.

    Args:
      place: a detector's file, or a folder of them: `<name>.safetensors`, or `detector.safetensors`
        in a folder of that name, as a run over several categories leaves them.

    Raises:
      UserError: there is none, or two have the same name.
    """
    paths = [place]
    if place.is_dir():
        paths = sorted(place.glob(f"*{SUFFIX}")) + sorted(place.glob(f"*/{DETECTOR}{SUFFIX}"))
    if not paths or not paths[0].exists():
        raise UserError(
            f"{place}: there is no detector here; name its file, or a folder that holds some"
        )
    found: dict[str, Path] = {}
    for path in paths:
        is_usual = path.stem == DETECTOR
        name = readable(path.resolve().parent.name if is_usual else path.stem)
        if name in found:
            raise UserError(
                f"{place}: {found[name]} and {path} are both called {name}; rename one of them"
            )
        found[name] = path
    return found


class Detectors:
    """The detectors of a place."""

    def __init__(
        self,
        place: Path,
        load: Callable[[Path], FittedDetector],
        batch_size: int,
        look_seconds: float,
        metrics: Metrics,
    ):
        """Loads the detectors that are there.

        Args:
          place: see `files_of`.
          load: reads a file and returns its detector on its devices.
          batch_size: the most photographs at a time.
          look_seconds: seconds between two checks of the files; 0: they are not checked again.
          metrics: what is counted.

        Raises:
          UserError: there is none, or one cannot be used.
        """
        self._place, self._load, self._batch_size = place, load, batch_size
        self._look_seconds, self._metrics = look_seconds, metrics
        # Stamps of files that were dealt with, and of those that were seen to have changed.
        self._known: dict[str, Stamp | None] = {}
        self._seen: dict[str, Stamp | None] = {}
        self._said = ""
        self._stopped = threading.Event()
        # Replaced, never changed, since others read it without a lock.
        self._served: dict[str, Loaded] = {}
        self._not_compiled: list[Loaded] = []
        for name, path in files_of(place).items():
            self._known[name] = stamp_of(path)
            self._not_compiled.append(Loaded(name, path, load(path), batch_size))
        self.names = [each.name for each in self._not_compiled]

    @property
    def is_ready(self) -> bool:
        """Whether all detectors that were there at first can be asked."""
        return len(self._served) >= len(self.names)

    @property
    def served(self) -> dict[str, Loaded]:
        """The detectors that can be asked, by name."""
        return self._served

    def keep(self) -> None:
        """Compiles what is there, then looks for more until `stop` is called."""
        while self._not_compiled and not self._stopped.is_set():
            self._serve(self._not_compiled.pop(0))
        while self._look_seconds and not self._stopped.wait(self._look_seconds):
            self.look()

    def stop(self) -> None:
        """Ends `keep` after its current work; may be called from any thread."""
        self._stopped.set()

    def _serve(self, loaded: Loaded) -> None:
        loaded.compile()
        self._served = {**self._served, loaded.name: loaded}
        self._metrics.loaded(loaded.name, loaded.threshold)
        logging.info("%s: ready, threshold %.3f", loaded.name, loaded.threshold)

    def look(self) -> None:
        """Loads files that are new or replaced, once two checks have found them the same."""
        try:
            files = files_of(self._place)
        except UserError as error:
            if str(error) != self._said:
                self._said = str(error)
                logging.warning("%s; the detectors that are loaded stay in service", error)
            return
        for name, path in files.items():
            stamp = stamp_of(path)
            if stamp is None or stamp == self._known.get(name):
                continue
            if stamp != self._seen.get(name):
                self._seen[name] = stamp
                continue
            self._known[name] = stamp
            try:
                self._serve(Loaded(name, path, self._load(path), self._batch_size))
            except Exception as error:  # Whatever the error, what is served stays.
                logging.warning("%s: is not loaded (%s)", path, error)
