"""What a request is told that gets no answer."""


class Refusal(Exception):
    """A request that is not answered, and why.

    Attributes:
      status: of HTTP.
      line: one line for whoever sent it.
      headers: that the response has besides.
    """

    def __init__(self, status: int, line: str, **headers: str):
        super().__init__(line)
        self.status, self.line = status, " ".join(line.split())
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


def busy(line: str, seconds: float) -> Refusal:
    """One for want of room; the same request may be sent again after that many seconds."""
    return Refusal(503, line, Retry_After=str(max(1, round(seconds))))
