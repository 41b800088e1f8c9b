"""Limits how long a client may take to send a request, and to take its answer.

By itself, uvicorn waits without limit for the head of a request, for the rest of a refused body,
and for a client that does not take its answer. Many such clients would use all connections.
"""

import asyncio
import json

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

LATE = "the request took too long to arrive"


class ImpatientProtocol(H11Protocol):
    """A connection that ends if the client keeps it waiting for `timeout_keep_alive`."""

    _patience: asyncio.TimerHandle | None = None
    _unsent = 0
    # Whether the last answer was given; what still comes is then read and dropped.
    _is_over = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        self._wait(begin=False)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if not self._is_over:
            super().data_received(data)

    def send_400_response(self, msg: str) -> None:
        self._end_with(400, b"Bad Request", msg)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._unsent = self.transport.get_write_buffer_size()
        self._wait()

    def _wait(self, begin: bool = True) -> None:
        if self._patience is not None:
            self._patience.cancel()
        self._patience = None
        if begin:
            self._patience = self.loop.call_later(self.timeout_keep_alive, self._look)

    def _look(self) -> None:
        """Decides what happens to the connection when its time is up."""
        unsent = self.transport.get_write_buffer_size()
        if unsent:
            self._wait(begin=unsent < self._unsent)
            self._unsent = unsent
            if self._patience is None:
                self.transport.abort()
        elif self.cycle is not None and not self.cycle.response_complete:
            pass  # A request is being answered; its time is limited elsewhere.
        elif self._is_over or self.conn.their_state is h11.SEND_BODY:
            self.transport.abort()
        elif self.conn.our_state is h11.IDLE and self.conn.trailing_data[0]:
            self._end_with(408, b"Request Timeout", LATE)
        else:
            self.transport.close()

    def _end_with(self, status: int, reason: bytes, line: str) -> None:
        """Sends the client its last answer.

        What the client still sends is read and dropped: if the connection were closed at once, the
        client's system might discard the answer.
        """
        content = json.dumps({"error": line}).encode()
        headers = [
            ("Content-Type", "application/json"),
            ("Content-Length", str(len(content))),
            ("Connection", "close"),
        ]
        response = h11.Response(status_code=status, headers=headers, reason=reason)
        for event in (response, h11.Data(data=content), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")
        self._is_over = True
        if self.cycle is not None:
            # Ends the work on the beginning of a request that is not valid.
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self.transport.write_eof()
        self._wait()
