"""The settings of a server."""

from dataclasses import dataclass

from ddad_jax.settings import Checked, setting


@dataclass(frozen=True)
class ServeSettings(Checked):
    """How --mode=serve answers.

    Attributes:
      host: the address to listen at; by default only this machine can reach it, and "0.0.0.0" is
        every address.
      port: the port to listen at; 0: a free port, which the log names.
      batch_size: the most photographs that are judged at a time.
      longest_wait: the most seconds that a photograph waits for others to be judged with it, while
        the detector is free.
      queue: the most photographs that may be waiting or being judged. A request that finds too
        little room is answered with 503 and a time to try again, one for more than that with 413.
      most_bytes: the most bytes in the body of a request.
      most_pixels: the most pixels of a photograph that is sent as a file.
      receive_seconds: how long a request may take to arrive.
      answer_seconds: how long it may then wait to be judged.
      token_file: a file with the token that requests must carry; empty: none is needed.
      origins: web sites, such as https://line.example, whose pages may send requests; "*": all.
      reload_seconds: seconds between checks for new or replaced detectors; 0: never.
    """

    host: str = setting("127.0.0.1", changes="nothing")
    port: int = setting(8000, changes="nothing", low=0, high=65535)
    batch_size: int = setting(16, changes="nothing", low=1)
    longest_wait: float = setting(0.005, changes="nothing", low=0)
    queue: int = setting(48, changes="nothing", low=1)
    most_bytes: int = setting(32_000_000, changes="nothing", low=1)
    most_pixels: int = setting(50_000_000, changes="nothing", low=1)
    receive_seconds: float = setting(10.0, changes="nothing", above=0)
    answer_seconds: float = setting(60.0, changes="nothing", above=0)
    token_file: str = setting("", changes="nothing", path=True)
    origins: tuple[str, ...] = setting((), changes="nothing")
    reload_seconds: float = setting(2.0, changes="nothing", low=0)
