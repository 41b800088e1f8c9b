"""Being asked to end, by Ctrl-C or SIGTERM, wherever the program is.

An exception that is raised while a compiler runs may be lost in it, or come out as another. So what
was asked for is kept, and long work looks for it between its parts.
"""

import signal
from types import FrameType

_received: list[int] = []


def listen() -> None:
    """Makes SIGINT and SIGTERM raise KeyboardInterrupt, and keeps that they came."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _end)


def _end(number: int, _: FrameType | None) -> None:
    _received.append(number)
    raise KeyboardInterrupt


def was_asked() -> bool:
    """Whether the program was asked to end."""
    return bool(_received)


def forget() -> None:
    """Says that what was asked for is being done; only being asked again ends the program now."""
    _received.clear()


def check() -> None:
    """Raises KeyboardInterrupt if the program was asked to end."""
    if _received:
        raise KeyboardInterrupt
