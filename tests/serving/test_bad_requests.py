"""Requests that nobody should send: each is told in a line, and none does anything else."""

import http.client
import io
import json
import pickle
import random
import socket
import struct
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from tests.serving.conftest import PNG, Answer, encode

# How long a good request may take beside bad ones, compared with alone.
SLOWER = 3.0


def chunk(kind, content):
    checksum = struct.pack(">I", zlib.crc32(kind + content))
    return struct.pack(">I", len(content)) + kind + content + checksum


def png(width, height, content, *chunks):
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    data = chunk(b"IDAT", zlib.compress(content, 9))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(chunks) + data + chunk(b"IEND", b"")


def many_pages(pages):
    """A TIFF whose every page is a few bytes, and different from the first."""
    file = io.BytesIO()
    Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(file, "tiff")
    tiff = bytearray(file.getvalue())
    (start,) = struct.unpack_from("<I", tiff, 4)
    (count,) = struct.unpack_from("<H", tiff, start)
    entries = bytes(tiff[start + 2 : start + 2 + 12 * count])
    place = start + 2 + 12 * count
    for _ in range(pages):
        struct.pack_into("<I", tiff, place, len(tiff))
        page = bytearray(entries)
        for entry in range(0, len(page), 12):
            if struct.unpack_from("<H", page, entry)[0] == 256:
                struct.pack_into("<I", page, entry + 8, 15)
        tiff += struct.pack("<H", count) + page + struct.pack("<I", 0)
        place = len(tiff) - 4
    return bytes(tiff)


class Executed:
    """What a pickle runs when it is loaded."""

    def __init__(self, path):
        self._path = str(path)

    def __reduce__(self):
        return open, (self._path, "w")


def postscript(path):
    """Pillow has Ghostscript decode such files."""
    return (
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n%%EndComments\n"
        + f"({path}) (w) file closefile\n".encode()
        + b"showpage\n%%EOF\n"
    )


def bad_photographs(good, large, marker):
    """Name -> body that is no photograph, or none that is taken."""
    rng = random.Random(0)
    found = {
        "empty": b"",
        "text": b"hello",
        "html": b"<!doctype html><script>alert(1)</script>",
        "svg": b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>",
        "pickle": pickle.dumps(Executed(marker)),
        "postscript": postscript(marker),
        "npy": b"\x93NUMPY\x01\x00v\x00{'descr': '|O', 'fortran_order': False, 'shape': (1,), }"
        + pickle.dumps(Executed(marker)),
        "zip": b"PK\x03\x04" + bytes(100),
        "one pixel": encode(np.zeros((1, 1, 3), np.uint8)),
        "seven pixels": encode(np.zeros((7, 64, 3), np.uint8)),
        "bomb": png(30_000, 30_000, bytes(1000)),
        "bomb that unpacks": png(2100, 2100, bytes(2100 * (3 * 2100 + 1))),
        "largest sides": png(2**31 - 1, 2**31 - 1, b""),
        "no sides": png(0, 0, b""),
        "text that unpacks": png(64, 64, bytes(64 * 193), chunk(
            b"zTXt", b"x\0\0" + zlib.compress(bytes(90_000_000), 9)
        )),
        "thousands of pages": many_pages(9000),
        "gif of 60000²": b"GIF89a" + struct.pack("<HH", 60_000, 60_000) + bytes(50),
        "bmp of 50000²": b"BM" + struct.pack("<IIIIiiHHI", 54, 0, 54, 40, 50_000, 50_000, 1, 24, 0)
        + bytes(40),
        "not finite": _tiff(np.full((64, 64), np.nan, np.float32)),
        "infinite": _tiff(np.full((64, 64), np.inf, np.float32)),
        "larger than is taken": bytes(2_000_001),
    }  # fmt: skip
    for number in range(28):
        cut = rng.randrange(1, len(good) - 200)
        found[f"cut at {cut}"] = good[:cut]
        noisy = bytearray(good)
        for place in rng.sample(range(8, 60), 12):
            noisy[place] = rng.randrange(256)
        found[f"broken head {number}"] = bytes(noisy)
        found[f"noise {number}"] = rng.randbytes(rng.randrange(1, 5000))
    return found


def _tiff(values):
    file = io.BytesIO()
    Image.fromarray(values).save(file, "tiff")
    return file.getvalue()


def bad_inferences(marker):
    """Bodies, and their headers, that ask for no inference."""

    def of(tensor=None, headers=(), binary=b"", **request):
        usual = {"name": "image", "datatype": "UINT8", "shape": [1, 8, 8, 3], "data": [0] * 192}
        asked = {"inputs": [{k: v for k, v in (usual | (tensor or {})).items() if v is not ...}]}
        text = json.dumps(asked | request).encode()
        more = {"Inference-Header-Content-Length": str(len(text))} if binary else {}
        return text + binary, {"Content-Type": "application/json", **more, **dict(headers)}

    raw = {"data": ...}
    yield from (
        (b"", {}),
        (b"[]", {}),
        (b"{", {}),
        (b"null", {}),
        (b"[" * 100_000, {}),
        (b'{"inputs": NaN}', {}),
        (b'{"inputs": [' + b"1" * 5000 + b"]}", {}),
        (b"\xff\xfe{}", {}),
        (pickle.dumps(Executed(marker)), {}),
        of(inputs=[]),
        of(inputs=[[]]),
        of(inputs=[{}] * 2),
        of({"name": "other"}),
        of({"name": None}),
        of({"datatype": "INT4"}),
        of({"datatype": ["UINT8"]}),
        of({"shape": [1, 8, 8]}),
        of({"shape": [1, 8, 8, -3]}),
        of({"shape": [True, 8, 8, 3]}),
        of({"shape": [1, 2**62, 2**62, 3]}),
        of({"shape": "[1, 8, 8, 3]"}),
        of({"shape": [1, 4, 8, 3]}),
        of({"shape": [1, 1, 64, 3]}),
        of({"shape": [2, 8, 8, 2], "data": [0] * 256}),
        of({"data": [0] * 191}),
        of({"data": [256] * 192}),
        of({"data": [-1] * 192}),
        of({"data": [0.5] * 192}),
        of({"data": ["0"] * 192}),
        of({"data": [[0], [0, 1]]}),
        of({"data": {"a": 1}}),
        of({"data": [10**400] * 192}),
        of({"datatype": "FP32", "data": [float("nan")] * 192}),
        of({"datatype": "FP32", "data": [1e300] * 192}),
        of({"datatype": "FP32", "data": [-0.1] * 192}),
        of({"datatype": "FP32", **raw, "parameters": {"binary_data_size": 768}},
           binary=np.full(192, np.nan, np.float32).tobytes()),
        of({"datatype": "FP32", **raw, "parameters": {"binary_data_size": 767}}, binary=bytes(767)),
        of({**raw, "parameters": {"binary_data_size": 10**12}}, binary=bytes(192)),
        of({**raw, "parameters": {"binary_data_size": -1}}, binary=bytes(192)),
        of({**raw, "parameters": {"binary_data_size": "192"}}, binary=bytes(192)),
        of({"parameters": {"binary_data_size": 192}}, binary=bytes(192)),
        of(raw),
        of({"parameters": {"shared_memory_region": "/dev/shm/x"}}),
        of({"parameters": []}),
        of({"datatype": "BYTES", "shape": [1], "data": ["no base64!"]}),
        of({"datatype": "BYTES", "shape": [1], "data": ["aGVsbG8="]}),
        of({"datatype": "BYTES", "shape": [1], "data": [7]}),
        of({"datatype": "BYTES", "shape": [2], "data": ["aGVsbG8="]}),
        of({"datatype": "BYTES", "shape": [1], **raw, "parameters": {"binary_data_size": 8}},
           binary=struct.pack("<I", 2**31) + b"abcd"),
        of({"datatype": "BYTES", "shape": [1], **raw, "parameters": {"binary_data_size": 3}},
           binary=b"abc"),
        of({"datatype": "BYTES", "shape": [1], **raw, "parameters": {"binary_data_size": 9}},
           binary=struct.pack("<I", 5) + b"hello"),
        of({"datatype": "BYTES", "shape": [500], "data": ["aGVsbG8="] * 500}),
        of(outputs=[{"name": "secret"}]),
        of(outputs=[{"name": ["score"]}]),
        of(outputs="score"),
        of(outputs=[{"name": "score", "parameters": {"classification": 3}}]),
        of(parameters={"threshold": "high"}),
        of(parameters={"threshold": -1}),
        of(parameters={"threshold": True}),
        of(parameters={"treshold": 1}),
        of(id=7),
        of(headers={"Inference-Header-Content-Length": "-1"}),
        of(headers={"Inference-Header-Content-Length": "999999"}),
        of(headers={"Inference-Header-Content-Length": "²"}),
        of(headers={"Content-Encoding": "gzip"}),
    )  # fmt: skip


def bad_addresses(good):
    """Method, path, headers and body of what there is not."""
    for name in (
        "../../etc/passwd", "..%2f..%2fetc%2fpasswd", "%2e%2e/part", "part/", "part.safetensors",
        "PART", "%00", "part%0a", "%ff", "a" * 5000, "part;ls", "$(id)", "'; drop table",
    ):  # fmt: skip
        yield "POST", f"/detectors/{name.replace(' ', '%20')}", PNG, good
    for path in ("/page/../app.py", "/page.css/../../app.py", "/app.py", "//etc/passwd", "/v1",
                 "/v2/models/part/versions/1", "/v2/models/../part", "/metrics/"):  # fmt: skip
        yield "GET", path, {}, None
    for method in ("GET", "PUT", "DELETE", "PATCH", "TRACE", "OPTIONS", "BREW"):
        yield method, "/v2/models/part/infer", PNG, None
    for query in ("output=shell", "output=../x", "with=all", "threshold=nan", "threshold=inf",
                  "threshold=0", "threshold=", "threshold=1;2", "treshold=1"):  # fmt: skip
        yield "POST", f"/detectors/part?{query}", PNG, good
    for kind in ("", "text/plain", "application/x-www-form-urlencoded", "application/json",
                 "multipart/form-data; boundary=x", "application/python-pickle",
                 "imag"):  # fmt: skip
        yield "POST", "/detectors/part", {"Content-Type": kind}, good


RAW = {
    "no HTTP": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 hello\r\n\r\n",
    "endless line": b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\n\r\n",
    "endless head": b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 40_000 + b"\r\n",
    "two lengths": b"POST /detectors/part HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n"
    b"Content-Length: 2\r\n\r\nab",
    "negative length": b"POST /detectors/part HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
    "length and chunks": b"POST /detectors/part HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n"
    b"Transfer-Encoding: chunked\r\n\r\nxyz",
    "no chunk": b"POST /detectors/part HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\n"
    b"Transfer-Encoding: chunked\r\n\r\nxyz\r\n",
    "no host": b"GET / HTTP/1.1\r\n\r\n",
    "a null": b"GET /\x00 HTTP/1.1\r\nHost: x\r\n\r\n",
    "huge": b"POST /detectors/part HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\n"
    b"Content-Length: 99999999999\r\n\r\nabc",
    "chunks without end": b"POST /detectors/part HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n" + b"10000\r\n" + bytes(65536) + b"\r\n" * 1,
}  # fmt: skip
SLOW = {
    "head": b"POST /detectors/part HTTP/1.1\r\nHost: x\r\n",
    "body": b"POST /detectors/part HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\n"
    b"Content-Length: 1000\r\n\r\n",
    "chunks": b"POST /detectors/part HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n",
    "tensors": b"POST /v2/models/part/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{",
}


def send_raw(port, content, *, slowly=False, seconds=20):
    """The response to bytes, sent at once, or one at a time for as long as nothing comes back."""
    with socket.create_connection(("127.0.0.1", port), timeout=seconds) as connection:
        connection.sendall(content)
        connection.settimeout(0.2 if slowly else seconds)
        deadline = time.monotonic() + seconds
        while slowly:
            assert time.monotonic() < deadline, "nothing came back"
            try:
                connection.recv(1, socket.MSG_PEEK)
                break
            except TimeoutError:
                connection.sendall(b"1\r\nx\r\n" if b"chunked" in content else b"x")
        connection.settimeout(seconds)
        with http.client.HTTPResponse(connection) as response:
            response.begin()
            return Answer(response.status, dict(response.getheaders()), response.read())


@pytest.fixture(scope="module")
def bad(served, photographs, large, tmp_path_factory):
    """Name -> a function that sends a bad request, and where a marker would be written."""
    marker = tmp_path_factory.mktemp("executed") / "it was"
    asks = {}

    def add(name, ask, *arguments, **named):
        asks[name] = lambda: ask(*arguments, **named)

    for name, body in bad_photographs(photographs[0], large, marker).items():
        add(f"photograph: {name}", served.ask, "/detectors/part", body)
    for number, (body, headers) in enumerate(bad_inferences(marker)):
        add(
            f"inference {number}: {body[:80]!r}", served.ask, "/v2/models/part/infer", body, headers
        )
    for method, path, headers, body in bad_addresses(photographs[0]):
        add(f"{method} {path[:80]} {headers}", served.ask, path, body, headers, method)
    for name, content in RAW.items():
        slowly = name == "chunks without end"
        add(f"raw: {name}", send_raw, served.port, content, slowly=slowly)
    for name, content in SLOW.items():
        add(f"slow: {name}", send_raw, served.port, content, slowly=True)
    return asks, marker


@pytest.mark.slow
def test_each_of_hundreds_is_told_in_a_line_and_slows_nobody(served, bad, photographs, caplog):
    asks, marker = bad
    assert len(asks) >= 200

    def seconds():
        began = time.monotonic()
        assert served.ask("/detectors/part", photographs[0]).status == 200
        return time.monotonic() - began

    alone = sorted(seconds() for _ in range(20))
    beside, ended = [], threading.Event()

    def go_on():
        while not ended.is_set():
            beside.append(seconds())

    def told(ask):
        try:
            return ask()
        except Exception as error:
            return error

    with ThreadPoolExecutor(9) as pool:
        good = pool.submit(go_on)
        sent = {name: pool.submit(told, ask) for name, ask in asks.items()}
        answers = {name: each.result() for name, each in sent.items()}
        ended.set()
        good.result()
    assert {name: each for name, each in answers.items() if not isinstance(each, Answer)} == {}
    wrong = {name: each for name, each in answers.items() if not 400 <= each.status < 500}
    assert wrong == {}
    for name, answer in answers.items():
        line = answer.body.decode()
        if line.startswith("{"):
            line = answer.json["error"]
        assert "\n" not in line.strip(), name
        assert 0 < len(line) < 600 or answer.status == 405, (name, line)
        assert "Traceback" not in line, name
    assert not marker.exists()
    assert "Traceback" not in caplog.text
    assert served.ask("/v2/health/ready").status == 200
    middle = len(beside) // 2
    print(f"{len(asks)} bad requests; a good one takes {alone[10]:.3f} s alone, "
          f"{sorted(beside)[middle]:.3f} s beside them")  # fmt: skip
    assert sorted(beside)[middle] < SLOWER * max(alone[10], 0.05)
