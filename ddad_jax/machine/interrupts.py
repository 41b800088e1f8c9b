"""Requests to end, by Ctrl-C or SIGTERM, wherever the program is.

An exception that is raised while a compiler runs may be lost in it, or come out as another. So the
request is remembered, and long work checks for it between its parts.
"""

import signal
from types import FrameType

_received: list[int] = []


def listen() -> None:
    """Makes SIGINT and SIGTERM raise KeyboardInterrupt, and remembers that they came."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _end)


def _end(number: int, _: FrameType | None) -> None:
    _received.append(number)
    raise KeyboardInterrupt


def was_asked() -> bool:
    """Whether the program was asked to end."""
    return bool(_received)


def forget() -> None:
    """Forgets the request, because it is being dealt with; a new one still ends the program."""
    _received.clear()


def check() -> None:
    """Raises KeyboardInterrupt if the program was asked to end."""
    if _received:
        raise KeyboardInterrupt
