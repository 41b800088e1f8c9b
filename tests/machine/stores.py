"""Buckets of real servers on loopback, and a road to them that fails as networks do."""

import socket
import socketserver
import subprocess
import sys
import threading
import time
import urllib.request
from contextlib import contextmanager, suppress

import fsspec

GCS = "import sys; from gcp_storage_emulator.__main__ import main; main(sys.argv[1:])"


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def environment(scheme, port):
    """What the clients are told."""
    if scheme == "s3":
        return {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
            "AWS_ACCESS_KEY_ID": "someone",
            "AWS_SECRET_ACCESS_KEY": "a-secret-of-theirs",
            "AWS_DEFAULT_REGION": "us-east-1",
        }
    # The client's newest part asks a gRPC server, which the emulator is not.
    return {
        "STORAGE_EMULATOR_HOST": f"http://127.0.0.1:{port}",
        "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",
    }


def forget_clients():
    """Has the next client read the environment anew."""
    for scheme in ("s3", "gs"):
        fsspec.get_filesystem_class(scheme).clear_instance_cache()


@contextmanager
def served(scheme):
    """A server of one bucket, "runs"; its port."""
    port = free_port()
    if scheme == "s3":
        command = ["-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    else:
        command = ["-c", GCS, "start", "--host=127.0.0.1", f"--port={port}", "--in-memory",
                   "--default-bucket=runs"]  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, *command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        wait_for(port, process)
        if scheme == "s3":
            request = urllib.request.Request(f"http://127.0.0.1:{port}/runs", method="PUT")
            urllib.request.urlopen(request).close()
        yield port
    finally:
        process.terminate()
        process.wait()


def wait_for(port, process):
    deadline = time.monotonic() + 60
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.1)


def allow_requests(port, count):
    """Has an S3 server refuse everything after so many requests more; "inf": nothing."""
    url = f"http://127.0.0.1:{port}/moto-api/reset-auth"
    headers = {"Content-Type": "text/plain"}
    request = urllib.request.Request(url, data=str(count).encode(), headers=headers)
    urllib.request.urlopen(request).close()


class Road(socketserver.ThreadingTCPServer):
    """Passes connections on to a server, some of them badly.

    Attributes:
      faults: what becomes of the next requests, each one's way once: "503", "cut" in the middle of
        what is sent, "slow"; the others pass.
    """

    allow_reuse_address = daemon_threads = True

    def __init__(self, port):
        super().__init__(("127.0.0.1", 0), _Passing)
        self.server_port_behind, self.faults = port, []

    def __enter__(self):
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()

    @property
    def port(self):
        return self.server_address[1]


class _Passing(socketserver.BaseRequestHandler):
    def handle(self):
        first = self.request.recv(65536)
        if not first:
            return
        fault = self.server.faults.pop(0) if self.server.faults else ""
        if fault == "503":
            self.request.sendall(b"HTTP/1.1 503 Slow Down\r\nContent-Length: 0\r\n"
                                 b"Connection: close\r\n\r\n")  # fmt: skip
            return
        if fault == "slow":
            time.sleep(2)
        with socket.create_connection(("127.0.0.1", self.server.server_port_behind)) as behind:
            if fault == "cut":
                behind.sendall(first[: len(first) // 2])
                return
            behind.sendall(first)
            back = threading.Thread(target=_pass, args=(behind, self.request), daemon=True)
            back.start()
            _pass(self.request, behind)
            back.join()


def _pass(source, target):
    try:
        while data := source.recv(65536):
            target.sendall(data)
    except OSError:
        pass
    for each in (source, target):
        with suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)
