"""What a request is told if it is refused."""


class Refusal(Exception):
    """A request is refused; says why.

    Attributes:
      status: the HTTP status.
      line: one line for the sender.
      headers: further headers of the response.
    """

    def __init__(self, status: int, line: str, **headers: str):
        super().__init__(line)
        self.status, self.line = status, " ".join(line.split())
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


def busy(line: str, seconds: float) -> Refusal:
    """Returns a refusal for lack of room, with the seconds after which to try again."""
    return Refusal(503, line, Retry_After=str(max(1, round(seconds))))
