"""Files that are complete or not there, and a folder that one command at a time writes to."""

import csv
import hashlib
import io
import json
import os
import socket
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from filelock import FileLock, Timeout

from ddad_jax.errors import UserError

# Names of a folder's lock, and of the file that says who holds it.
LOCK, OWNER = ".ddad_jax.lock", ".ddad_jax.owner.json"


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yields a path to write to, whose file replaces `path` when the block ends.

    Until then, or if the block fails, an older file stays.

    Args:
      path: the file; its folder exists.
    """
    # The name is unique, since several threads and processes may write the same file. The suffix is
    # the file's, since some writers choose the format by it.
    unfinished = path.with_name(f".{uuid4().hex}.unfinished{path.suffix}")
    try:
        yield unfinished
        os.replace(unfinished, path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


def write_atomically(path: Path, content: str | bytes) -> None:
    """Writes a `whole_file`; text as UTF-8. If the disk is full, Python's error says so.

    Args:
      path: the file; its folder exists.
      content: its whole content.
    """
    data = content.encode("utf-8") if isinstance(content, str) else content
    with whole_file(path) as unfinished:
        unfinished.write_bytes(data)


def write_json(path: Path, value: object) -> None:
    """Writes a value as indented JSON, atomically; NaN and infinity are errors."""
    write_atomically(path, json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False) + "\n")


def write_csv(path: Path, rows: Iterable[Sequence[object]]) -> None:
    """Writes rows, the header first, as comma-separated values, atomically."""
    text = io.StringIO(newline="")
    csv.writer(text).writerows(rows)
    write_atomically(path, text.getvalue())


def checksum(path: Path) -> str:
    """Returns the SHA-256 of a file's content, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def local_path(text: str | os.PathLike[str], setting: str) -> Path:
    """Returns a path as a user wrote it, with "~" replaced by the home folder.

    Args:
      text: the path.
      setting: names the path in the error.

    Raises:
      UserError: it is a URL, which is not supported, or the home folder is unknown.
    """
    scheme, separator, _ = str(text).partition("://")
    if separator and scheme:
        raise UserError(
            f"{setting}: '{text}' is a URL; {scheme}:// is not supported, name a local path"
        )
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise UserError(f"{setting}: '{text}': {error}; name the whole path") from error


def cache_folder() -> Path:
    """Returns the user's cache folder: ~/.cache/ddad_jax, or ddad_jax in $XDG_CACHE_HOME."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ddad_jax"


@contextmanager
def only_run(folder: Path) -> Iterator[None]:
    """Holds a folder for this command; the system releases it when the process ends.

    Args:
      folder: exists and can be written.

    Raises:
      UserError: another command holds it; the error names its host and process.
    """
    lock = FileLock(folder / LOCK)
    owner = folder / OWNER
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise UserError(
            f"--workdir={folder}: another command is writing to it ({_named(owner)}); wait until "
            "it ends, or choose another --workdir"
        ) from error
    try:
        write_json(owner, {"host": socket.gethostname(), "process": os.getpid()})
        yield
    finally:
        owner.unlink(missing_ok=True)
        lock.release()


def _named(owner: Path) -> str:
    try:
        found = json.loads(owner.read_text(encoding="utf-8"))
        return f"host {found['host']}, process {found['process']}"
    except (OSError, ValueError, KeyError):
        return "it has just begun"
