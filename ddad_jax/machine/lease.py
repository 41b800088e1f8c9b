"""The right to write to a folder of a bucket: one command at a time has it while it is alive."""

import json
import os
import socket
import threading
import time
from collections.abc import Mapping
from typing import Any
from uuid import uuid4

from absl import logging

from ddad_jax.errors import UserError
from ddad_jax.machine.objects import Store
from ddad_jax.machine.storage import OWNER

# Seconds between signs of life, and seconds without one after which a command counts as gone.
RENEWED_EVERY, GONE_AFTER = 10.0, 45.0
POLLED_EVERY = 3.0


class Lease:
    """An object that says who holds a folder, renewed while the block lasts.

    A store has no lock that ends with its process. A command that is killed leaves the object: it
    no longer counts if it is not renewed, or if its process was on this machine and has ended.
    """

    def __init__(self, store: Store):
        self._store = store
        self._sign: dict[str, Any] = {
            "host": socket.gethostname(), "process": os.getpid(), "token": uuid4().hex, "signs": 0
        }  # fmt: skip
        self._ended = threading.Event()
        self._renewing = threading.Thread(target=self._renew, daemon=True)

    def __enter__(self) -> "Lease":
        """Raises UserError if another command holds the folder, with its host and process."""
        while True:
            other = self._read()
            if other is not None:
                self._wait_until_gone(other)
            if self._store.create(OWNER, self._content()):
                break
        self._renewing.start()
        return self

    def check(self) -> None:
        """Returns if this command still holds the folder.

        Raises:
          UserError: another command has taken it over, because this one gave no sign of life; or
            the object or the folder was removed.
        """
        other = self._read()
        if other is None:
            raise UserError(
                f"{self._store.setting}={self._store.url}: cannot be written ({OWNER} is gone from "
                "it); somebody removed it, the folder or the bucket; the same command begins anew"
            )
        if other["token"] != self._sign["token"]:
            raise UserError(
                f"{self._store.setting}={self._store.url}: was taken over by another command "
                f"({_named(other)}), since this one gave no sign of life; only one may write to it"
            )

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._renewing.join()
        other = self._read()
        if other is not None and other["token"] == self._sign["token"]:
            self._store.remove([OWNER])

    def _wait_until_gone(self, other: Mapping[str, Any]) -> None:
        """Returns when another command no longer holds the folder; raises if it is alive."""
        if not _has_ended(other):
            logging.info(
                "%s: was held by %s; waiting up to %.0f seconds for a sign of life from it",
                self._store.url, _named(other), GONE_AFTER,
            )  # fmt: skip
            deadline = time.monotonic() + GONE_AFTER
            while time.monotonic() < deadline:
                time.sleep(POLLED_EVERY)
                now = self._read()
                if now is None:
                    return
                if now != other:
                    raise self._refused(now)
        self._store.remove([OWNER])

    def _refused(self, other: Mapping[str, Any]) -> UserError:
        return UserError(
            f"{self._store.setting}={self._store.url}: another command is writing to it "
            f"({_named(other)}); wait until it ends, or choose another folder"
        )

    def _renew(self) -> None:
        while not self._ended.wait(RENEWED_EVERY):
            self._sign["signs"] += 1
            try:
                self.check()
                self._store.write(OWNER, self._content())
            except UserError as error:
                # It is checked again before the next write.
                logging.warning("%s", error)

    def _read(self) -> dict[str, Any] | None:
        content = self._store.read(OWNER)
        return None if content is None else json.loads(content)

    def _content(self) -> bytes:
        return json.dumps(self._sign).encode()


def _named(owner: Mapping[str, Any]) -> str:
    return f"host {owner['host']}, process {owner['process']}"


def _has_ended(owner: Mapping[str, Any]) -> bool:
    """Whether the owner was a process of this machine that has ended."""
    if owner["host"] != socket.gethostname():
        return False
    try:
        os.kill(owner["process"], 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    # After a restart, a container's process may have the same number as the one before.
    return owner["process"] == os.getpid()
