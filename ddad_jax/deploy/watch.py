"""Photographs that appear in a folder, each once and only when it is whole.

The folder is looked at again and again, which works on every file system. A file is whole when it
has not changed for a while, has its end and can be decoded.
"""

import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from absl import logging

from ddad_jax.data.files import images_below, name_of

# Seconds without a change after which a file that cannot be decoded is broken.
GIVE_UP = 10.0
# By how a file begins, what stands within so many bytes of its end.
ENDS = {b"\x89PNG": b"IEND", b"\xff\xd8\xff": b"\xff\xd9"}
TAIL = 4096
# Seconds between two looks at least, and how many times as long as a look takes.
PAUSE, IDLE = 0.2, 4.0


@dataclass(frozen=True)
class Stamp:
    """What a file is known by: it changes with the file, and not with its name.

    Attributes:
      inode: its number in the file system.
      bytes: its size.
      modified: when it was last written, in nanoseconds.
    """

    inode: int
    bytes: int
    modified: int


def stamp_of(path: Path) -> Stamp | None:
    """The stamp of a file; None where it is gone."""
    try:
        status = path.stat()
    except OSError:
        return None
    return Stamp(status.st_ino, status.st_size, status.st_mtime_ns)


@dataclass
class _Waiting:
    """A file that is not known to be whole.

    Attributes:
      stamp: when it was last looked at.
      since: from when on it has been so.
      failed: whether it could not be decoded as it is, or lacks its end.
    """

    stamp: Stamp
    since: float
    failed: bool = False


class Watch:
    """A folder that is watched, with all below it."""

    def __init__(self, folder: Path, settle: float, done: Mapping[str, Stamp]):
        """Nothing is looked at yet.

        Args:
          folder: exists.
          settle: seconds that a file must not have changed for.
          done: by name, the files that have been dealt with.
        """
        self._folder, self._settle = folder, settle
        self._done: dict[str, Stamp] = {}
        self._names: dict[Stamp, set[str]] = {}
        for name, stamp in done.items():
            self._know(name, stamp)
        self._waiting: dict[str, _Waiting] = {}
        # Offered, and not dealt with yet.
        self._offered: dict[str, _Waiting] = {}
        self._lock = threading.Lock()
        self._stopped = threading.Event()

    def appearing(self) -> Iterator[tuple[str, bytes | Path]]:
        """Names and contents of files, until `stop` is called.

        Raises:
          UserError: the folder cannot be read any more.
        """
        while not self._stopped.is_set():
            began = time.monotonic()
            paths = {name_of(path, self._folder): path for path in images_below(self._folder)}
            with self._lock:
                for name in [name for name in self._waiting if name not in paths]:
                    del self._waiting[name]
            for name, path in paths.items():
                waiting = self._whole(name, path, paths)
                if waiting is None:
                    continue
                content = _read(path, waiting.stamp)
                if content is None:
                    continue
                if not waiting.failed and _lacks_its_end(content):
                    waiting.failed = True
                    with self._lock:
                        self._waiting[name] = waiting
                    continue
                with self._lock:
                    self._offered[name] = waiting
                yield name, content
            self._stopped.wait(max(PAUSE, IDLE * (time.monotonic() - began)))

    def stop(self) -> None:
        """Ends `appearing`, from whichever thread."""
        self._stopped.set()

    def finish(self, name: str) -> Stamp:
        """Says that a file has been dealt with; returns its stamp as it was read."""
        with self._lock:
            stamp = self._offered.pop(name).stamp
            self._forget(name)
            self._know(name, stamp)
            return stamp

    def fail(self, name: str) -> bool:
        """Says that a file cannot be decoded; returns whether that is all that can be said of it.

        If it is not, the file is offered again when it has changed, or has had the time to.
        """
        with self._lock:
            waiting = self._offered[name]
            if time.monotonic() - waiting.since >= GIVE_UP:
                return True
            waiting.failed = True
            self._waiting[name] = self._offered.pop(name)
            return False

    def _whole(self, name: str, path: Path, paths: Mapping[str, Path]) -> _Waiting | None:
        """What is known of a file that is to be offered, taken from the waiting ones."""
        stamp, now = stamp_of(path), time.monotonic()
        with self._lock:
            if stamp is None or name in self._offered or self._done.get(name) == stamp:
                return None
            waiting = self._waiting.get(name)
            if waiting is None or waiting.stamp != stamp:
                if self._is_renamed(name, stamp, paths):
                    return None
                waiting = self._waiting[name] = _Waiting(stamp, now)
            if now - waiting.since < (GIVE_UP if waiting.failed else self._settle):
                return None
            return self._waiting.pop(name)

    def _is_renamed(self, name: str, stamp: Stamp, paths: Mapping[str, Path]) -> bool:
        """Whether it is a file that was offered by a name by which it is gone."""
        if any(w.stamp == stamp and each not in paths for each, w in self._offered.items()):
            # It is known by its new name when it has been dealt with.
            return True
        former = next((each for each in self._names.get(stamp, ()) if each not in paths), None)
        if former is None:
            return False
        logging.info("%s: is %s, renamed; it is not scored again", name, former)
        self._forget(former)
        self._know(name, stamp)
        return True

    def _know(self, name: str, stamp: Stamp) -> None:
        self._done[name] = stamp
        self._names.setdefault(stamp, set()).add(name)

    def _forget(self, name: str) -> None:
        stamp = self._done.pop(name, None)
        if stamp is not None:
            self._names[stamp].discard(name)
            if not self._names[stamp]:
                del self._names[stamp]


def _lacks_its_end(content: bytes | Path) -> bool:
    """Whether it is a PNG or JPEG whose last bytes are missing, which decoders may do without."""
    if isinstance(content, Path):
        return False
    for begin, end in ENDS.items():
        if content.startswith(begin):
            return end not in content[-TAIL:]
    return False


def _read(path: Path, stamp: Stamp) -> bytes | Path | None:
    """The content of a file; None where it changed meanwhile, and the path if it cannot be read."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError:
        return path
    return content if stamp_of(path) == stamp else None
