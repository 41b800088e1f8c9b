"""Clients that do not take what they asked for, and many that send much at a time."""

import http.client
import socket
import time
from contextlib import ExitStack, suppress

import numpy as np
import pytest

from tests.serving.conftest import encode

HEAD = (
    "POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: {length}\r\n\r\n"
)
SIDE = 1900
# Bytes of a floating-point map of a photograph of that side.
LEAST = 4 * SIDE * SIDE


def head(length, path="/detectors/part"):
    return HEAD.format(path=path, length=length).encode()


def ask_for_a_large_answer(served):
    """A connection on which an answer comes that no system holds for who does not take it."""
    photograph = encode(np.zeros((SIDE, SIDE, 3), np.uint8))
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
    connection.connect(("127.0.0.1", served.port))
    connection.sendall(head(len(photograph), "/detectors/part?output=tiff") + photograph)
    connection.settimeout(30)
    assert connection.recv(12) == b"HTTP/1.1 200"
    return connection


@pytest.mark.slow
def test_whoever_takes_nothing_of_an_answer_is_left(served):
    with ask_for_a_large_answer(served) as connection:
        time.sleep(2.5 * served.settings.receive_seconds)
        taken = 0
        with suppress(ConnectionResetError):
            while part := connection.recv(1 << 20):
                taken += len(part)
        assert taken < LEAST


@pytest.mark.slow
def test_whoever_takes_it_slowly_gets_it_all(served):
    with ask_for_a_large_answer(served) as connection:
        began, taken = time.monotonic(), 0
        while taken < LEAST:
            part = connection.recv(1 << 18)
            assert part, f"{taken} bytes came"
            taken += len(part)
            time.sleep(0.05)
        assert time.monotonic() - began > served.settings.receive_seconds


@pytest.mark.slow
def test_what_all_bodies_take_together_is_limited(serve, place, photographs):
    size = 20_000
    served = serve(place / "part.safetensors", most_bytes=size, receive_seconds=2.0)
    with ExitStack() as stack:
        connections = []
        for _ in range(20):
            connection = socket.create_connection(("127.0.0.1", served.port), timeout=10)
            connections.append(stack.enter_context(connection))
            connection.sendall(head(size) + bytes(size - 1))
        statuses = [connection.recv(12)[9:] for connection in connections]
    assert set(statuses) == {b"503", b"408"} and statuses.count(b"503") >= 3
    assert served.ask("/detectors/part", photographs[0]).status == 200


def test_one_connection_serves_several_requests_and_a_refused_one_between(served, photographs):
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=30)
    for body, status in ((photographs[0], 200), (b"x", 400), (photographs[0], 200)):
        connection.request("POST", "/detectors/part", body, {"Content-Type": "image/png"})
        response = connection.getresponse()
        assert (response.status, bool(response.read())) == (status, True)
    connection.request("POST", "/detectors/other", photographs[0], {"Content-Type": "image/png"})
    assert connection.getresponse().read().startswith(b'{"error"')
    connection.request("GET", "/v2/health/live")
    assert connection.getresponse().read() == b'{"live": true}'
    connection.close()
