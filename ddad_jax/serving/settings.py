"""What can be set of a server."""

from dataclasses import dataclass

from ddad_jax.settings import Checked, setting


@dataclass(frozen=True)
class ServeSettings(Checked):
    """How --mode=serve answers.

    Attributes:
      host: the address that it listens at; by default this machine alone can reach it, "0.0.0.0"
        is every address.
      port: the port that it listens at; 0: a free one, which the log names.
      batch_size: photographs that are judged at a time, at most.
      longest_wait: seconds that a photograph waits, at most, for others to be judged with where
        nothing else keeps it.
      queue: photographs that may be there at a time, waiting or being judged; a request for more is
        answered with 503 and when to try again.
      most_bytes: of the body of a request.
      most_pixels: of a photograph.
      receive_seconds: how long a request may take to arrive.
      answer_seconds: how long it may wait to be judged, from then on.
      token_file: a file that holds the token that requests must bear; empty: none is needed.
      origins: web sites, such as https://line.example, whose pages may ask it; "*": all.
      reload_seconds: how often it looks for detectors that are new or replaced; 0: never.
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
