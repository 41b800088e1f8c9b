"""A server under load, beside `detect` alone; each line of what it prints is a figure.

python -m tests.serving.load <detector.safetensors> <folder of photographs>
    [--clients=32] [--seconds=300] [--requests=0] [--overload=0]

Clients ask one after another for as long, or for as many requests, as it says. Then, with
`--overload=10`, requests come ten times as fast as were answered, whatever becomes of them.
"""

import argparse
import http.client
import re
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import numpy as np

import ddad_jax
from ddad_jax.data.files import images_below
from ddad_jax.deploy.predictor import Predictor
from ddad_jax.detection.detector import with_reconstruct
from ddad_jax.serving.settings import ServeSettings

HEADERS = {"Content-Type": "application/octet-stream"}
# Photographs that `detect` is timed on, and requests after which memory is first looked at.
TIMED, SETTLED = 64, 500
# Requests under way at a time, where they come whatever becomes of them.
MOST_AT_A_TIME = 500
OVERLOAD_SECONDS = 20.0


def detect_rate(path: Path, photographs: list[bytes]) -> float:
    """Photographs a second of `detect` alone, in batches as the server makes them."""
    fitted = ddad_jax.load(path)
    detector = with_reconstruct(fitted.detector, False)
    batch_size = ServeSettings().batch_size
    predictor = Predictor(detector, fitted.preprocessing, batch_size)
    read = [predictor.read(photographs[n % len(photographs)], "") for n in range(TIMED)]
    list(predictor.find(read[:batch_size]))
    began = time.monotonic()
    for start in range(0, TIMED, batch_size):
        list(predictor.find(read[start : start + batch_size]))
    return TIMED / (time.monotonic() - began)


@contextmanager
def server(path: Path):
    """Its process and its port."""
    command = [sys.executable, "-m", "ddad_jax", "--mode=serve", f"--detector={path}"]
    process = subprocess.Popen(
        [*command, "--config.serve.port=0"], stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    port, said = 0, []
    for line in process.stderr:
        said.append(line)
        found = re.search(r"at http://127.0.0.1:(\d+)/", line)
        port = int(found[1]) if found else port
        if ": ready, threshold" in line:
            break
    # Whatever it says from now on, it never waits to be heard.
    threading.Thread(target=lambda: said.extend(process.stderr), daemon=True).start()
    try:
        yield process, port
    finally:
        process.terminate()
        code = process.wait(120)
        unusual = [line for line in said if "Error" in line or "Traceback" in line]
        print(f"the server ended with code {code}, {len(unusual)} errors in its log", flush=True)


def memory(process: subprocess.Popen) -> float:
    """Of a process, in MB."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(re.findall(r"VmRSS:\s+(\d+)", status)[0]) / 1024


class Tally:
    """What became of requests."""

    def __init__(self):
        self.seconds, self.statuses = [], Counter()

    def ask(self, connection: http.client.HTTPConnection, name: str, photograph: bytes) -> None:
        began = time.monotonic()
        try:
            connection.request("POST", f"/detectors/{name}", photograph, HEADERS)
            response = connection.getresponse()
            response.read()
            status = str(response.status)
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            status = type(error).__name__
        self.statuses[status] += 1
        if status == "200":
            self.seconds.append(time.monotonic() - began)

    def quantile(self, share: float) -> float:
        return float(np.quantile(self.seconds, share)) if self.seconds else float("nan")

    def __str__(self):
        middle, last = self.quantile(0.5), self.quantile(0.99)
        return f"{dict(self.statuses)}, p50 {middle:.3f} s, p99 {last:.3f} s"


def closed(process, port, name, photographs, clients, seconds, requests):
    """Clients that ask one after another; how many were answered a second."""
    tally, sizes, numbers = Tally(), [], count()
    began = time.monotonic()

    def client():
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
        for number in numbers:
            over = number >= requests if requests else time.monotonic() - began > seconds
            if over:
                break
            tally.ask(connection, name, photographs[number % len(photographs)])
            if number % SETTLED == SETTLED - 1:
                sizes.append(memory(process))
        connection.close()

    with ThreadPoolExecutor(clients) as pool:
        for each in [pool.submit(client) for _ in range(clients)]:
            each.result()
    rate = len(tally.seconds) / (time.monotonic() - began)
    print(f"{clients} clients: {rate:.2f} photographs a second; {tally}")
    if sizes:
        shown = ", ".join(f"{size:.0f}" for size in sizes)
        print(f"memory in MB every {SETTLED} requests: {shown}", flush=True)
    return rate, tally


def overloaded(process, port, name, photographs, rate):
    """Requests that come at a rate, whatever becomes of them."""
    tally, began = Tally(), time.monotonic()

    def one(number):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
        tally.ask(connection, name, photographs[number % len(photographs)])
        connection.close()

    with ThreadPoolExecutor(MOST_AT_A_TIME) as pool:
        for number in range(int(rate * OVERLOAD_SECONDS)):
            time.sleep(max(0.0, began + number / rate - time.monotonic()))
            pool.submit(one, number)
    print(f"{rate:.1f} requests a second: {tally}; {memory(process):.0f} MB", flush=True)
    return tally


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("detector", type=Path)
    parser.add_argument("photographs", type=Path)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--requests", type=int, default=0)
    parser.add_argument("--overload", type=float, default=0.0)
    given = parser.parse_args()
    photographs = [path.read_bytes() for path in images_below(given.photographs)]
    name = given.detector.stem
    name = given.detector.resolve().parent.name if name == "detector" else name
    before = detect_rate(given.detector, photographs)
    with server(given.detector) as (process, port):
        rate, tally = closed(
            process, port, name, photographs, given.clients, given.seconds, given.requests
        )
        if given.overload:
            over = overloaded(process, port, name, photographs, given.overload * rate)
            times = over.quantile(0.99) / tally.quantile(0.99)
            print(f"p99 of those answered is {times:.2f} times that of {given.clients} clients")
    after = detect_rate(given.detector, photographs)
    alone = (before + after) / 2
    print(f"detect alone: {before:.2f} before, {after:.2f} after; the server reaches "
          f"{rate / alone:.3f} of it")  # fmt: skip


if __name__ == "__main__":
    main()
