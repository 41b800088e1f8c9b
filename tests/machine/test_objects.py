import os

import pytest

from ddad_jax.errors import UserError
from ddad_jax.machine.objects import Store, is_url
from tests.machine.stores import Road, environment


def test_urls_of_buckets_are_told_from_paths():
    assert is_url("gs://runs/a") and is_url("s3://runs")
    assert not any(map(is_url, ("runs/a", "/s3/runs", "s3:/runs", "https://a/b", "", "C:\\runs")))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning")
@pytest.mark.parametrize("scheme", ["s3", "gs"])
@pytest.mark.parametrize("faults", [["503"], ["cut"], ["slow", "cut"]])
def test_what_fails_for_a_moment_is_tried_again(servers, reach, tmp_path, scheme, faults):
    content = os.urandom(3_000_000)
    (tmp_path / "file").write_bytes(content)
    with Road(servers[scheme]) as road:
        reach(scheme, road.port)
        store = Store(f"{scheme}://runs/{'-'.join(faults)}", "--workdir")
        for action in (
            lambda: store.upload({"file": tmp_path / "file"}),
            lambda: store.write("small", b"1"),
            lambda: store.copy({"copied": "file"}),
            lambda: store.download({tmp_path / "back": "copied"}),
            lambda: store.versions(),
            lambda: store.read("small"),
            lambda: store.remove(["small"]),
        ):
            road.faults[:] = faults
            action()
            road.faults.clear()
        assert (tmp_path / "back").read_bytes() == content
        assert set(store.versions()) == {"file", "copied"}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning")
@pytest.mark.parametrize("end", [b"", b"\r", b"\n", b"\r\n", b"\r\r", b"--"])
@pytest.mark.parametrize("size", [0, 1000, 6_000_000])
def test_objects_end_as_their_files_do(bucket, tmp_path, size, end):
    content = os.urandom(size) + end
    (tmp_path / "file").write_bytes(content)
    store = Store(f"{bucket}/ends", "--workdir")
    store.upload({"file": tmp_path / "file"})
    store.download({tmp_path / "back": "file"})
    assert (tmp_path / "back").read_bytes() == content


def test_a_bucket_that_is_not_there_is_one_line(bucket):
    store = Store(f"{bucket[:2]}://nowhere/runs", "--workdir")
    for action in (store.versions, lambda: store.write("a", b"1")):
        with pytest.raises(
            UserError, match=r"^--workdir=\w\w://nowhere/runs: cannot be (list|writ)"
        ):
            action()


@pytest.mark.slow
def test_a_server_that_is_not_there_is_one_line(reach, monkeypatch):
    reach("s3", 9)
    with pytest.raises(UserError, match=r"^--workdir=s3://runs/a: cannot be listed \(Could not"):
        Store("s3://runs/a", "--workdir").versions()


def test_no_permission_is_one_line_without_a_secret(bucket, monkeypatch):
    store = Store(bucket, "--workdir")

    def refuse(*_, **__):
        raise PermissionError("Access Denied")

    monkeypatch.setattr(store._files, "put_file", refuse)
    monkeypatch.setattr(store._files, "pipe_file", refuse)
    with pytest.raises(UserError, match=r"cannot be written \(Access Denied\); check") as raised:
        store.write("a", b"1")
    for value in environment("s3", 1).values():
        assert value not in str(raised.value)


def test_a_client_that_is_not_installed_is_named(monkeypatch):
    def refuse(*_, **__):
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr("fsspec.filesystem", refuse)
    with pytest.raises(UserError, match=r"s3:// needs a client; pip install 'ddad_jax\[s3\]'$"):
        Store("s3://runs/a", "--workdir")


def test_a_url_without_a_bucket_is_refused():
    with pytest.raises(UserError, match="names no bucket; write gs://<bucket>/<folder>"):
        Store("gs://", "--images")
