"""Reads the bodies of requests, within limits of size, time, and memory for all of them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.requests import Request

from ddad_jax.serving.refusal import Refusal, busy
from ddad_jax.serving.settings import ServeSettings

# How many bodies of the largest size may be in memory at a time.
AT_A_TIME = 16
PAUSE_SECONDS = 1.0


class Bodies:
    """The bodies that are in memory."""

    def __init__(self, settings: ServeSettings):
        self._most, self._seconds = settings.most_bytes, settings.receive_seconds
        self._here = 0

    @asynccontextmanager
    async def of(self, request: Request) -> AsyncIterator[bytes]:
        """Reads the body of a request, which counts as in memory inside the block.

        Raises:
          Refusal: it is too large, compressed or too slow, or there is no room.
          ClientDisconnect: the sender is gone.
        """
        encoding = request.headers.get("content-encoding", "identity")
        if encoding != "identity":
            raise Refusal(415, f"Content-Encoding: {encoding} is not accepted; send the plain body")
        length = request.headers.get("content-length", "0")
        if int(length) > self._most:
            raise Refusal(413, f"the body is {length} bytes; at most {self._most} are accepted")
        parts: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(self._seconds):
                async for part in request.stream():
                    size += len(part)
                    self._here += len(part)
                    self._require_room(size)
                    parts.append(part)
            yield b"".join(parts)
        except TimeoutError as error:
            raise Refusal(408, f"the body took longer than {self._seconds:g} seconds") from error
        finally:
            self._here -= size

    def _require_room(self, size: int) -> None:
        if size > self._most:
            raise Refusal(413, f"the body is larger than {self._most} bytes")
        if self._here > AT_A_TIME * self._most:
            raise busy("too much is being received; try again later", PAUSE_SECONDS)
