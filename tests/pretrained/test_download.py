"""Downloads from a server on this machine, which cuts connections and lies when told to."""

import hashlib
import http.server
import json
import threading
from pathlib import Path

import huggingface_hub
import pytest

from ddad_jax.errors import UserError
from ddad_jax.pretrained.download import default_cache, fetch_hugging_face, fetch_url

CONTENT = bytes(range(256)) * 2000
SHA256 = hashlib.sha256(CONTENT).hexdigest()
COMMIT = "c" * 40


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves CONTENT under any name; the server's `cuts` shorten one answer each."""

    def log_message(self, *arguments):
        pass

    def do_HEAD(self):
        self._answer(body=False)

    def do_GET(self):
        self._answer(body=True)

    def _answer(self, body):
        server = self.server
        server.requests.append((self.command, self.path, self.headers.get("Range")))
        if self.path.startswith("/owner/gated"):
            self._send(403, b"", {"X-Error-Code": "GatedRepo"}, body)
            return
        if self.path.startswith("/missing"):
            self.send_error(404)
            return
        if self.path.startswith("/api/"):
            self._send(200, json.dumps({"sha": COMMIT}).encode(), {}, body)
            return
        wanted = self.headers.get("Range") if server.ranges else None
        start = int(wanted.removeprefix("bytes=").split("-")[0]) if wanted else 0
        if start >= len(CONTENT):
            self.send_error(416)
            return
        headers = {"ETag": f'"{SHA256}"', "X-Repo-Commit": COMMIT}
        if wanted:
            headers["Content-Range"] = f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}"
        self._send(206 if wanted else 200, CONTENT[start:], headers, body)

    def _send(self, status, data, headers, body):
        self.send_response(status)
        for name, value in {"Content-Length": len(data), **headers}.items():
            self.send_header(name, str(value))
        self.end_headers()
        if body:
            cut = self.server.cuts.pop(0) if self.server.cuts else len(data)
            self.wfile.write(data[:cut])
        self.close_connection = True


@pytest.fixture
def server():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.requests, server.cuts, server.ranges = [], [], True
        server.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        huggingface_hub.close_session()
        server.shutdown()
        thread.join()


def test_once_fetched_the_network_is_left_alone(server, tmp_path):
    url = f"{server.url}/net-{SHA256[:8]}.pth"
    path = fetch_url(url, tmp_path, SHA256[:8], "net")
    assert path.read_bytes() == CONTENT
    assert fetch_url(url, tmp_path, SHA256[:8], "net") == path
    assert len(server.requests) == 1


def test_a_cut_connection_goes_on_where_it_broke(server, tmp_path):
    server.cuts = [100_000, 50_000]
    path = fetch_url(f"{server.url}/net.pth", tmp_path, SHA256, "net")
    assert path.read_bytes() == CONTENT
    assert [wanted for _, _, wanted in server.requests] == [None, "bytes=100000-", "bytes=150000-"]


def test_a_later_run_goes_on_where_an_earlier_one_gave_up(server, tmp_path):
    server.cuts = [1000] * 4
    with pytest.raises(UserError, match=r"cannot fetch .*net.pth \(0.5 MB\): .*put it at"):
        fetch_url(f"{server.url}/net.pth", tmp_path, SHA256, "net", 0.5)
    assert not (tmp_path / "net.pth").exists()
    path = fetch_url(f"{server.url}/net.pth", tmp_path, SHA256, "net")
    assert path.read_bytes() == CONTENT
    assert server.requests[-1][2] == "bytes=4000-"


def test_a_server_that_knows_no_ranges(server, tmp_path):
    server.ranges, server.cuts = False, [100_000]
    path = fetch_url(f"{server.url}/net.pth", tmp_path, SHA256, "net")
    assert path.read_bytes() == CONTENT


def test_leftovers_of_another_file_are_thrown_away(server, tmp_path):
    (tmp_path / "net.pth.part").write_bytes(bytes(len(CONTENT) + 5))
    path = fetch_url(f"{server.url}/net.pth", tmp_path, SHA256, "net")
    assert path.read_bytes() == CONTENT


def test_a_wrong_checksum_leaves_nothing_behind(server, tmp_path):
    with pytest.raises(UserError, match=f"has SHA-256 {SHA256}, expected 0123;"):
        fetch_url(f"{server.url}/net.pth", tmp_path, "0123", "net")
    assert [file.name for file in tmp_path.iterdir()] in ([], ["net.pth.lock"])


# Right but for one digit, at the beginning, in the middle or at the end.
WRONG = [
    SHA256[:place] + ("0" if SHA256[place] != "0" else "1") + SHA256[place + 1 :]
    for place in (0, 7, 8, 31, 63)
]


@pytest.mark.parametrize("sha256", WRONG)
def test_every_digit_of_a_checksum_counts(server, tmp_path, sha256):
    with pytest.raises(UserError, match=f"has SHA-256 {SHA256}, expected {sha256};"):
        fetch_url(f"{server.url}/net.pth", tmp_path / "plain", sha256, "net")
    with pytest.raises(UserError, match=f"has SHA-256 {SHA256}, expected {sha256};"):
        fetch_hugging_face(
            "owner/net", "net.safetensors", "main", sha256, "net",
            cache_dir=tmp_path / "hub", endpoint=server.url,
        )  # fmt: skip


def test_what_the_server_lacks(server, tmp_path):
    with pytest.raises(UserError, match="weights 'net': cannot fetch .*404"):
        fetch_url(f"{server.url}/missing.pth", tmp_path, SHA256, "net")
    assert len(server.requests) == 1


def test_no_network_is_said_at_once(tmp_path):
    with pytest.raises(UserError, match="fetch it elsewhere and put it at .*net.pth, or give the"):
        fetch_url("http://127.0.0.1:9/net.pth", tmp_path, SHA256, "net")


def test_hugging_face(server, tmp_path):
    arguments = ("owner/net", "net.safetensors", "main", SHA256, "net")
    where = {"cache_dir": tmp_path, "endpoint": server.url}
    path = fetch_hugging_face(*arguments, **where)
    assert path.read_bytes() == CONTENT
    count = len(server.requests)
    assert fetch_hugging_face(*arguments, **where) == path
    assert len(server.requests) == count


def test_hugging_face_with_another_checksum(server, tmp_path):
    with pytest.raises(UserError, match="expected 0123; delete it and fetch it again"):
        fetch_hugging_face(
            "owner/net", "net.safetensors", "main", "0123", "net",
            cache_dir=tmp_path, endpoint=server.url,
        )  # fmt: skip


def test_hugging_face_offline(tmp_path):
    with pytest.raises(UserError, match="`hf download owner/net net.safetensors --revision main`"):
        fetch_hugging_face(
            "owner/net", "net.safetensors", "main", "", "net",
            cache_dir=tmp_path, endpoint="http://127.0.0.1:9",
        )  # fmt: skip


def test_hugging_face_by_agreement(server, tmp_path):
    with pytest.raises(UserError, match="agree to the Some License at http.*owner/gated and run"):
        fetch_hugging_face(
            "owner/gated", "net.safetensors", "main", "", "net",
            gated="Some License", cache_dir=tmp_path, endpoint=server.url,
        )  # fmt: skip


def test_where_downloads_are_kept(monkeypatch, tmp_path):
    monkeypatch.setenv("DDAD_JAX_CACHE", str(tmp_path / "own"))
    assert default_cache() == tmp_path / "own"
    monkeypatch.delenv("DDAD_JAX_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache() == Path(tmp_path, "ddad_jax", "weights")
