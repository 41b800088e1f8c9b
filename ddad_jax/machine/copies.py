"""Folders of a bucket and their copies on this machine, where the work is done.

A run's folder holds memory maps, files that grow, and folders that are renamed; a bucket has none
of these. So a run works in a copy on a local disk. Now and then it publishes what it has written to
the bucket, all of it or nothing: an index names the files that were published last. A new file is
written before the index names it. A file that replaces another is written under its checksum, named
in the index, and then moved to its place.
"""

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

import jax
from absl import logging

from ddad_jax.errors import UserError
from ddad_jax.machine.lease import Lease
from ddad_jax.machine.objects import Store, is_url
from ddad_jax.machine.storage import cache_folder, checksum, local_path, write_json

# In the bucket: the index, and files on their way to their place. Here: what the copy holds.
INDEX, PENDING, KNOWN = ".ddad_jax.files.json", ".ddad_jax.pending/", ".ddad_jax.copy.json"
# The folder of a run that stays on its machine, with decoded images and latents.
OF_MACHINE = "cache"
# Seconds between the times at which rows or measurements are published.
PUBLISHED_EVERY = 60.0
# How often to read files that another command is replacing, and seconds in between.
ATTEMPTS, PAUSE = 5, 2.0

_scratch: Path | None = None
# The URLs of the copies that this command made, by their folders.
_urls: dict[str, str] = {}
# The copies that this command works in.
_open: list["Copy"] = []


def needs_all(name: str) -> bool:
    """Returns False for every file: none is left out of a copy."""
    return False


def use_scratch(folder: Path) -> None:
    """Has copies made in a folder other than the user's cache folder."""
    global _scratch
    _scratch = folder


def _copies() -> Path:
    """Returns the folder that holds all copies, each in a folder of its own."""
    return _scratch or cache_folder() / "copies"


def copy_folder(url: str) -> Path:
    """Returns where this process keeps its copy of a URL's folder."""
    number = jax.process_index() if jax.distributed.is_initialized() else 0
    key = hashlib.blake2b(url.rstrip("/").encode(), digest_size=6).hexdigest()
    return _copies() / f"{number}-{key}" / url.rstrip("/").rpartition("/")[2]


@dataclass
class Stamp:
    """A file of a copy as it was when bucket and copy agreed.

    Attributes:
      version: the version of its object.
      size: in bytes.
      changed: when it was last changed, in nanoseconds.
    """

    version: str
    size: int
    changed: int

    @classmethod
    def of(cls, path: Path, version: str) -> "Stamp":
        """Returns the stamp of a file as it is now."""
        found = path.stat()
        return cls(version, found.st_size, found.st_mtime_ns)

    def is_of(self, path: Path) -> bool:
        """Whether a file is unchanged since."""
        return path.exists() and Stamp.of(path, self.version) == self


@dataclass
class Index:
    """The files that a folder of a bucket holds.

    Attributes:
      files: their checksums, by name.
      stray: names of objects that do not count any more, or not yet.
    """

    files: dict[str, str] = field(default_factory=dict)
    stray: list[str] = field(default_factory=list)


class Copy:
    """A folder of a bucket and its copy here.

    Attributes:
      published: time of the last publication, or of the start, by `time.monotonic`.
    """

    def __init__(
        self, store: Store, folder: Path, leaves_out: Callable[[str], bool], clears: bool = False
    ):
        """Prepares the copy; neither the bucket nor its files are read or written yet.

        Args:
          store: the folder in the bucket.
          folder: the folder of the copy.
          leaves_out: tells, by its name, whether a file is not needed here; it stays in the bucket.
          clears: whether such a file is removed from the copy if an earlier command needed it.
        """
        self._store, self._folder = store, folder
        self._leaves_out, self._clears = leaves_out, clears
        _urls[str(folder)] = store.url
        known = folder / KNOWN
        found = json.loads(known.read_text(encoding="utf-8")) if known.exists() else {}
        self._known = {name: Stamp(*stamp) for name, stamp in found.items()}
        self._lease: Lease | None = None
        self._publishing = threading.Lock()
        self.published = time.monotonic()

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Holds the folder for this command, and cleans up what an earlier one left."""
        try:
            with Lease(self._store) as self._lease:
                index = self._index()
                if index is not None:
                    self._settle(index, self._pending())
                yield
        finally:
            self._lease = None

    @property
    def is_held(self) -> bool:
        """Whether this process may publish."""
        return self._lease is not None

    def refresh(self) -> int:
        """Updates the copy from the bucket; files that only the copy has are removed.

        If this command holds the folder and that is empty now, the copy is kept under another name;
        if it has no index, as when other programs wrote it, all of it is read, and it gets one.

        Returns:
          How many files the bucket holds.

        Raises:
          UserError: the bucket cannot be read, or a file is damaged.
        """
        for attempt in range(ATTEMPTS):
            if attempt:
                # Another command is replacing files.
                time.sleep(PAUSE)
            index = self._index()
            found = self._store.versions() if index is None else index.files
            takes_over = index is None and self.is_held
            wanted = {name: version for name, version in found.items() if _is_whole(name)}
            needed = {n: v for n, v in wanted.items() if takes_over or not self._leaves_out(n)}
            wrong = self._download(needed, index is not None)
            if not wrong:
                break
        for name in wrong:
            if (self._folder / name).exists():
                raise UserError(
                    f"{self._store.setting}={self._store.url}: {name} is damaged: its checksum "
                    "differs; remove it there, and what it was made from is used again"
                )
            logging.warning("%s: %s was removed there", self._store.url, name)
            del wanted[name], needed[name]
        if self._known and not wanted and self.is_held:
            self._set_aside()
        for name in self._present():
            if name not in (needed if self._clears else wanted):
                (self._folder / name).unlink(missing_ok=True)
        self._folder.mkdir(parents=True, exist_ok=True)
        if takes_over and wanted:
            wanted = needed = {name: checksum(self._folder / name) for name in wanted}
            self._write(Index(wanted))
        self._remember(
            {name: Stamp.of(self._folder / name, version) for name, version in needed.items()},
            wanted,
        )
        return len(wanted)

    def _set_aside(self) -> None:
        aside = tempfile.mkdtemp(prefix=f"gone-{self._folder.name}-", dir=self._folder.parent)
        self._folder.replace(aside)
        logging.warning(
            "%s: holds nothing any more; what this machine had copied of it is in %s",
            self._store.url, aside,
        )  # fmt: skip

    def _download(self, needed: Mapping[str, str], checked: bool) -> list[str]:
        """Downloads what the copy lacks; returns files that are missing, or damaged."""
        missing = {n: version for n, version in needed.items() if not self._has(n, version)}
        pending = self._pending() if checked and missing else set()
        self._store.download(
            {
                self._folder / name: PENDING + version if version in pending else name
                for name, version in missing.items()
            }
        )
        paths = {name: self._folder / name for name in missing}
        return [
            name
            for name, path in paths.items()
            if not path.exists() or (checked and checksum(path) != missing[name])
        ]

    def publish(self) -> None:
        """Writes the copy to the bucket; until all is written, the previous content counts.

        Raises:
          UserError: the bucket cannot be written, or another command holds the folder.
        """
        with self._publishing:
            self._publish()
            self.published = time.monotonic()

    def _publish(self) -> None:
        assert self._lease is not None  # Only a command that holds a folder writes to it.
        index = self._index() or Index()
        with tempfile.TemporaryDirectory(prefix=".publish-", dir=self._folder) as folder:
            taken, stamps = self._take(index, Path(folder))
            gone = [n for n in index.files if n not in stamps and not self._leaves_out(n)]
            if not taken and not gone:
                return
            new = {name: path for name, path in taken.items() if name not in index.files}
            replaced = {stamps[n].version: path for n, path in taken.items() if n not in new}
            self._lease.check()
            self._write(replace(index, stray=list(new)))
            self._store.upload(new | {PENDING + v: path for v, path in replaced.items()})
        files = index.files | {name: stamp.version for name, stamp in stamps.items()}
        index = Index({n: version for n, version in files.items() if n not in gone}, gone)
        self._lease.check()
        self._write(index)
        self._settle(index, set(replaced))
        self._remember(stamps, index.files)

    def _take(self, index: Index, folder: Path) -> tuple[dict[str, Path], dict[str, Stamp]]:
        """Makes copies of the files that differ from the bucket's, since files may grow meanwhile.

        Files that are left out are ignored.

        Returns:
          The path of each such copy, by name; and the stamp of every file.
        """
        taken, stamps = {}, {}
        for number, name in enumerate(self._present()):
            if self._leaves_out(name):
                continue
            path, before = self._folder / name, index.files.get(name, "")
            with contextlib.suppress(FileNotFoundError):  # An old checkpoint is being removed.
                if self._has(name, before):
                    stamps[name] = self._known[name]
                    continue
                stamp = Stamp.of(path, before)
                here = Path(shutil.copyfile(path, folder / str(number)))
                stamps[name] = replace(stamp, version=checksum(here))
                if stamps[name].version != before:
                    taken[name] = here
        return taken, stamps

    def _settle(self, index: Index, pending: set[str]) -> None:
        """Moves pending files to their places, and removes objects that do not count."""
        self._store.copy(
            {name: PENDING + digest for name, digest in index.files.items() if digest in pending}
        )
        self._store.remove([PENDING + digest for digest in pending])
        self._store.remove([name for name in index.stray if name not in index.files])

    def _index(self) -> Index | None:
        """Returns the folder's index; None if the folder was not written by this program."""
        content = self._store.read(INDEX)
        return None if content is None else Index(**json.loads(content))

    def _write(self, index: Index) -> None:
        self._store.write(INDEX, json.dumps(vars(index)).encode())

    def _pending(self) -> set[str]:
        """Returns the checksums of files that are on their way to their place."""
        below = Store(f"{self._store.url}/{PENDING}", self._store.setting)
        return set(below.versions())

    def _present(self) -> list[str]:
        """Returns the copy's files that belong in the bucket."""
        found = []
        for folder, folders, files in os.walk(self._folder):
            folders[:] = [name for name in folders if _belongs(name)]
            for name in files:
                if _belongs(name):
                    found.append((Path(folder) / name).relative_to(self._folder).as_posix())
        return sorted(found)

    def _has(self, name: str, version: str) -> bool:
        known = self._known.get(name)
        return known is not None and known.version == version and known.is_of(self._folder / name)

    def _remember(self, stamps: Mapping[str, Stamp], there: Collection[str]) -> None:
        """Notes what the copy holds, and keeps notes of left-out files that still exist."""
        kept = () if self._clears else there
        left_out = {n: s for n, s in self._known.items() if n in kept and self._leaves_out(n)}
        self._known = left_out | dict(stamps)
        write_json(
            self._folder / KNOWN, {name: [*vars(s).values()] for name, s in self._known.items()}
        )


def _belongs(name: str) -> bool:
    """Whether a file or folder of this name is published: complete, and not machine-specific."""
    hidden, unfinished = name.startswith("."), "orbax-checkpoint-tmp" in name
    return not hidden and not unfinished and name != OF_MACHINE


def _is_whole(name: str) -> bool:
    """Whether an object is a file of the folder, and not one that this module keeps for itself."""
    return not any(part.startswith(".") or not part for part in name.split("/"))


def as_given(text: str) -> str:
    """Returns a text with the folders of copies replaced by the URLs that the user gave."""
    for folder, url in _urls.items():
        text = text.replace(folder, url)
    return text


def is_in_bucket() -> bool:
    """Whether this command works for a folder in a bucket."""
    return bool(_open)


def publish(at_most_every: float = 0.0) -> None:
    """Makes what this command wrote visible in its bucket, if it works for one.

    Args:
      at_most_every: seconds that must have passed since the last time; otherwise nothing is done.
    """
    for each in _open:
        if each.is_held and time.monotonic() - each.published >= at_most_every:
            each.publish()


def refresh() -> None:
    """Fetches what process 0 has published, if the processes work for a bucket."""
    for each in _open:
        if not each.is_held:
            each.refresh()


@contextlib.contextmanager
def opened(copy: Copy) -> Iterator[None]:
    """Registers a copy for `publish` and `refresh`."""
    _open.append(copy)
    try:
        yield
    finally:
        _open.remove(copy)


def fetched(
    url: str, setting: str, leaves_out: Callable[[str], bool] = needs_all, clears: bool = False
) -> Path:
    """Returns a local copy of a bucket's file or folder; unchanged files are not read again.

    Args:
      url: of an object, or of a folder of objects.
      setting: names the URL in errors.
      leaves_out: see `Copy`.
      clears: see `Copy`.

    Raises:
      UserError: there is nothing at the URL, or it cannot be read.
    """
    store, folder = Store(url, setting), copy_folder(url)
    if store.is_object():
        home, _, name = store.url.rpartition("/")
        Copy(Store(home, setting), folder, lambda other: other != name).refresh()
        return folder / name
    if not Copy(store, folder, leaves_out, clears).refresh():
        raise UserError(f"{setting}={url}: nothing is there; name a file or a folder in a bucket")
    return folder


def obtain_beside(path: Path) -> None:
    """Downloads a file that lies in the bucket next to a copied folder, but not in it.

    Args:
      path: where the file belongs here. Nothing is done if it exists, or is not beside a copy.
    """
    for folder, url in _urls.items():
        above = Path(folder).resolve().parent
        is_copy = above.parent == _copies().resolve()
        if is_copy and path.is_relative_to(above) and not path.exists():
            name = path.relative_to(above).as_posix()
            Store(url.rpartition("/")[0], "detector").download({path: name})


def versions_in(path: Path) -> dict[Path, str]:
    """Returns for each file of a copied folder a version, which changes with its object's content.

    Args:
      path: a folder, or a file in it, as returned by `fetched`; for other paths the result is {}.
    """
    folder = path if path.is_dir() else path.parent
    if str(folder) not in _urls:
        return {}
    known = json.loads((folder / KNOWN).read_text(encoding="utf-8"))
    return {folder / name: Stamp(*stamp).version for name, stamp in known.items()}


def readable_path(
    text: str | os.PathLike[str], setting: str, leaves_out: Callable[[str], bool] = needs_all
) -> Path:
    """Returns a readable path for what a user wrote: `fetched` for a URL, or `local_path`."""
    return fetched(str(text), setting, leaves_out) if is_url(text) else local_path(text, setting)


def folders_of(url: str, setting: str) -> list[str]:
    """Returns the folders below a URL, as paths relative to it."""
    parents = (PurePosixPath(name).parents for name in names_of(url, setting))
    return sorted({str(above) for each in parents for above in each} - {"."})


def names_of(url: str, setting: str) -> list[str]:
    """Returns the files below a URL, as paths relative to it."""
    return [*Store(url, setting).versions()]
