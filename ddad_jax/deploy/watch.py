"""Watches a folder and yields new photographs, each once and only when it is complete.

The folder is listed again and again, which works on every file system. A file is complete when it
has not changed for a while, has its end, and can be decoded.
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
# By a file's first bytes, the bytes that must be within `TAIL` bytes of its end.
ENDS = {b"\x89PNG": b"IEND", b"\xff\xd8\xff": b"\xff\xd9"}
TAIL = 4096
# Least seconds between two looks, and the least pause as a multiple of the time that a look takes.
PAUSE, IDLE = 0.2, 4.0


@dataclass(frozen=True)
class Stamp:
    """Identifies the content of a file: it changes with the file, but not with its name.

    Attributes:
      inode: the file's number in the file system.
      bytes: its size.
      modified: when it was last written, in nanoseconds.
    """

    inode: int
    bytes: int
    modified: int


def stamp_of(path: Path) -> Stamp | None:
    """Returns the stamp of a file; None if it is gone."""
    try:
        status = path.stat()
    except OSError:
        return None
    return Stamp(status.st_ino, status.st_size, status.st_mtime_ns)


@dataclass
class _Waiting:
    """A file that is not known to be complete.

    Attributes:
      stamp: the file's stamp when it was last looked at.
      since: since when it has had this stamp.
      failed: whether it could not be decoded as it is, or lacks its end.
    """

    stamp: Stamp
    since: float
    failed: bool = False


class Watch:
    """A folder that is watched, with its subfolders."""

    def __init__(self, folder: Path, settle: float, done: Mapping[str, Stamp]):
        """Prepares to watch; the folder is not read yet.

        Args:
          folder: exists.
          settle: seconds that a file must have stayed unchanged.
          done: the files that have been dealt with, by name.
        """
        self._folder, self._settle = folder, settle
        self._done: dict[str, Stamp] = {}
        self._names: dict[Stamp, set[str]] = {}
        for name, stamp in done.items():
            self._know(name, stamp)
        self._waiting: dict[str, _Waiting] = {}
        # Yielded, and not dealt with yet.
        self._offered: dict[str, _Waiting] = {}
        self._lock = threading.Lock()
        self._stopped = threading.Event()

    def appearing(self) -> Iterator[tuple[str, bytes | Path]]:
        """Yields names and contents of files (or paths, if unreadable) until `stop` is called.

        Raises:
          UserError: the folder can no longer be read.
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
        """Ends `appearing`; may be called from any thread."""
        self._stopped.set()

    def finish(self, name: str) -> Stamp:
        """Marks a file as dealt with; returns its stamp as it was read."""
        with self._lock:
            stamp = self._offered.pop(name).stamp
            self._forget(name)
            self._know(name, stamp)
            return stamp

    def fail(self, name: str) -> bool:
        """Marks a file as undecodable; returns whether that is final.

        If it is not, the file is yielded again when it has changed, or has had time to change.
        """
        with self._lock:
            waiting = self._offered[name]
            if time.monotonic() - waiting.since >= GIVE_UP:
                return True
            waiting.failed = True
            self._waiting[name] = self._offered.pop(name)
            return False

    def _whole(self, name: str, path: Path, paths: Mapping[str, Path]) -> _Waiting | None:
        """Removes a file from the waiting ones and returns it, if it may be complete; else None."""
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
        """Whether a file was yielded before, under a name that no longer exists."""
        if any(w.stamp == stamp and each not in paths for each, w in self._offered.items()):
            # The new name is noted after the file has been dealt with.
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
    """Whether content is a PNG or JPEG without its last bytes, which decoders may not notice."""
    if isinstance(content, Path):
        return False
    for begin, end in ENDS.items():
        if content.startswith(begin):
            return end not in content[-TAIL:]
    return False


def _read(path: Path, stamp: Stamp) -> bytes | Path | None:
    """Returns a file's content, None if it has changed since, or its path if it is unreadable."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError:
        return path
    return content if stamp_of(path) == stamp else None
