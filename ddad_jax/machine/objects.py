"""Objects of a bucket: gs:// with gcsfs and s3:// with s3fs, with credentials that these find."""

import contextlib
import errno
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import fsspec
from tqdm import tqdm

from ddad_jax.errors import UserError
from ddad_jax.machine.storage import whole_file

# The supported stores, and the extra that each needs.
SCHEMES = {"gs": "gcs", "s3": "s3"}
# Objects that are read or written at a time.
AT_A_TIME = 8
# Size in bytes below which gcsfs sends a file as a part of one message.
SENT_AS_PART = 5 * 2**20

T = TypeVar("T")


def is_url(text: object) -> bool:
    """Whether a path is in a bucket, such as gs://bucket/runs."""
    return str(text).partition("://")[0] in SCHEMES and "://" in str(text)


class Store:
    """The objects below a URL, each named by its path from there.

    An object is complete or not there: the store accepts it all at once. After a passing failure
    the clients themselves try again.

    Attributes:
      url: such as "s3://bucket/runs/mine".
      setting: names the URL in errors.
    """

    def __init__(self, url: str, setting: str):
        """Raises UserError if the URL names no bucket, or the store's client is not installed."""
        scheme, _, path = url.partition("://")
        self.url, self.setting = f"{scheme}://{path.strip('/')}", setting
        if not path.strip("/"):
            raise UserError(f"{setting}={url}: names no bucket; write {scheme}://<bucket>/<folder>")
        try:
            self._files = fsspec.filesystem(scheme, use_listings_cache=False)
        except ImportError as error:
            raise UserError(
                f"{setting}={url}: {scheme}:// needs a client; pip install "
                f"'ddad_jax[{SCHEMES[scheme]}]'"
            ) from error
        except Exception as error:  # The clients have no common type of error.
            raise self._failed("reached", error) from error

    def versions(self) -> dict[str, str]:
        """Returns all objects, each with a version that changes with its content.

        Raises:
          UserError: there is no such bucket, or it cannot be listed.
        """
        found = self._tried("listed", lambda: self._files.find(self.url, detail=True))
        start = len(self.url.partition("://")[2]) + 1
        # Names that end with a slash are folders, as web consoles make them.
        return {
            name[start:]: _version(about)
            for name, about in found.items()
            if name[start:] and not name.endswith("/")
        }

    def is_object(self) -> bool:
        """Whether the URL names an object, and not a folder of objects."""
        return self._tried("read", lambda: self._files.isfile(self.url))

    def read(self, name: str) -> bytes | None:
        """Returns an object's content; None if there is no such object."""

        def read() -> bytes | None:
            try:
                return self._files.cat_file(self._path(name))
            except FileNotFoundError:
                return None

        return self._tried("read", read)

    def write(self, name: str, content: bytes) -> None:
        """Writes an object, in place of any that is there."""
        self._tried("written", lambda: self._files.pipe_file(self._path(name), content))

    def create(self, name: str, content: bytes) -> bool:
        """Writes an object unless one is there; returns whether it did."""

        def create() -> bool:
            try:
                self._files.pipe_file(self._path(name), content, mode="create")
            except FileExistsError:
                return False
            return True

        return self._tried("written", create)

    def download(self, files: Mapping[Path, str]) -> None:
        """Downloads objects to files, which appear once they are complete.

        Args:
          files: for each file its object. If that is gone, the file does not exist afterwards.
        """

        def one(file: Path) -> None:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.unlink(missing_ok=True)
            with contextlib.suppress(FileNotFoundError), whole_file(file) as unfinished:
                if not self._tried("read", lambda: get(files[file], unfinished)):
                    raise FileNotFoundError(files[file])

        def get(name: str, target: Path) -> bool:
            try:
                self._files.get_file(self._path(name), str(target))
            except FileNotFoundError:
                return False
            return True

        self._each("download", one, files)

    def upload(self, files: Mapping[str, Path]) -> None:
        """Writes files as objects."""

        def one(name: str) -> None:
            self._tried("written", lambda: self._put(files[name], self._path(name)))

        self._each("upload", one, files)

    def _put(self, source: Path, target: str) -> None:
        """Writes a file as an object.

        gcsfs ends a part of a message with a line feed, where MIME requires a carriage return, too.
        If a file ends with a carriage return, the reader takes it for that, and the object lacks
        its last byte. So such a file is sent in a message of its own.
        """
        is_part = self.url.startswith("gs://") and source.stat().st_size < SENT_AS_PART
        if is_part and (content := source.read_bytes()).endswith(b"\r"):
            self._files.pipe_file(target, content, chunksize=len(content))
        else:
            self._files.put_file(str(source), target)

    def copy(self, names: Mapping[str, str]) -> None:
        """Copies objects within the bucket; `names` maps each target to its source."""

        def one(name: str) -> None:
            source, target = self._path(names[name]), self._path(name)
            self._tried("written", lambda: self._files.cp_file(source, target))

        self._each("copy", one, names)

    def remove(self, names: Iterable[str]) -> None:
        """Removes objects, if they exist."""

        def remove(name: str) -> None:
            with contextlib.suppress(FileNotFoundError):
                self._files.rm_file(self._path(name))

        self._each("remove", lambda name: self._tried("removed", lambda: remove(name)), names)

    def _each(self, what: str, one: Callable[[Any], None], names: Iterable[Any]) -> None:
        """Calls `one` for each of several objects, a few at a time."""
        todo = list(names)
        with ThreadPoolExecutor(AT_A_TIME) as pool:
            done = pool.map(one, todo)
            # A few are done before anybody would see a bar.
            few = len(todo) < 2 * AT_A_TIME
            for _ in tqdm(done, what, len(todo), unit="file", disable=True if few else None):
                pass

    def _path(self, name: str) -> str:
        return f"{self.url}/{name}" if name else self.url

    def _tried(self, what: str, action: Callable[[], T]) -> T:
        try:
            return action()
        except Exception as error:  # The clients have no common type of error.
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise self._failed(what, error) from error

    def _failed(self, what: str, error: Exception) -> UserError:
        reason = (str(error).strip() or type(error).__name__).split("\n")[0][:200]
        return UserError(
            f"{self.setting}={self.url}: cannot be {what} ({reason}); check the network, and that "
            "the bucket exists and may be read and written; the same command continues"
        )


def _version(about: Mapping[str, Any]) -> str:
    """Returns a version from a store's listing, which changes with the object's content."""
    return f"{about.get('ETag') or about.get('etag')} {about['size']}"
