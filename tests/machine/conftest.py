"""Buckets to write to."""

import pytest

from ddad_jax.machine import copies
from tests.machine import stores


@pytest.fixture(scope="session")
def servers():
    """By scheme, the port of a server with a bucket called "runs"."""
    with stores.served("s3") as s3, stores.served("gs") as gs:
        yield {"s3": s3, "gs": gs}


@pytest.fixture
def reach(servers, monkeypatch, tmp_path):
    """Function: scheme, port -> has this process reach the server behind it; gives its port."""

    def reach(scheme, port=None):
        port = port or servers[scheme]
        for name, value in stores.environment(scheme, port).items():
            monkeypatch.setenv(name, value)
        stores.forget_clients()
        return port

    monkeypatch.setattr(copies, "_scratch", tmp_path / "scratch")
    yield reach
    stores.forget_clients()


@pytest.fixture(params=["s3", pytest.param("gs", marks=pytest.mark.slow)])
def bucket(request, reach):
    """The URL of a folder that nothing is in yet."""
    reach(request.param)
    return f"{request.param}://runs/{request.node.name.translate({91: '-', 93: ''})}"
