"""`--mode=serve` as a command, as the container file and the systemd unit give it."""

import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from ddad_jax.errors import UserError
from ddad_jax.experiment.config import load_config, override, read_config
from ddad_jax.experiment.serving import serve
from tests.conftest import lacking
from tests.deploy.conftest import fitted  # noqa: F401
from tests.serving.container import instructions

CONTAINER = Path(__file__).parents[2] / "docs/container"


@pytest.fixture
def path(fitted, tmp_path):  # noqa: F811
    fitted.save(tmp_path / "part.safetensors")
    return tmp_path / "part.safetensors"


def entry_point():
    return json.loads(dict(instructions())["ENTRYPOINT"])


def unit_command():
    return re.search(r"ExecStart=(.*)", (CONTAINER / "ddad_jax.service").read_text())[1].split()


def config_of(**settings):
    config = load_config("default")
    override(config, [(f"serve.{name}", str(value)) for name, value in settings.items()])
    return read_config(config)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "number"),
    [
        pytest.param(entry_point(), signal.SIGTERM, id="container"),
        pytest.param(unit_command(), signal.SIGTERM, id="unit"),
        pytest.param(unit_command(), signal.SIGINT, id="by hand"),
    ],
)
def test_it_serves_until_it_is_asked_to_end(command, number, path, tmp_path):
    (tmp_path / "token").write_text("0123456789abcdef")
    arguments = command[command.index("/opt/ddad_jax/bin/ddad_jax") + 1 :]
    arguments = [
        re.sub("=/(srv/)?detectors$", f"={tmp_path}", each).replace("%d", str(tmp_path))
        for each in arguments
    ]
    own = ["--config.serve.host=127.0.0.1", "--config.serve.port=0"]
    with subprocess.Popen(
        [sys.executable, "-m", "ddad_jax", *arguments, *own], stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if found := re.search(r"serving part at (http://\S+)", line):
                address = found[1]
            if "part: ready, threshold" in line:
                break
        with urllib.request.urlopen(f"{address}v2/health/ready") as response:
            assert json.load(response) == {"ready": True}
        process.send_signal(number)
        rest = process.stderr.read()
    assert process.returncode == 0, rest
    assert "all requests are answered" in rest and "0123456789abcdef" not in rest
    assert {each.name for each in tmp_path.iterdir()} == {"part.safetensors", "token"}


def test_the_unit_is_one(tmp_path):
    tool = shutil.which("systemd-analyze")
    if tool is None:
        lacking("systemd-analyze is not installed: it comes with systemd")
    text = (CONTAINER / "ddad_jax.service").read_text()
    unit = tmp_path / "ddad_jax.service"
    unit.write_text(text.replace("/opt/ddad_jax/bin/ddad_jax", "/bin/true"))
    done = subprocess.run([tool, "verify", unit], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    unit.write_text(unit.read_text().replace("DynamicUser=", "DynamicUsr="))
    assert (
        "DynamicUsr"
        in subprocess.run([tool, "verify", unit], capture_output=True, text=True).stderr
    )


def test_what_cannot_be_served_is_said(path, tmp_path):
    with pytest.raises(UserError, match="detection.blur: does nothing with --mode=serve"):
        serve(path, config_of(), ["detection.blur"])
    with pytest.raises(UserError, match="there is no detector here; name its file, or a folder"):
        serve(tmp_path / "none", config_of(port=0), [])
    (tmp_path / "none").mkdir()
    with pytest.raises(UserError, match="there is no detector here"):
        serve(tmp_path / "none", config_of(port=0), [])
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"serve.host: 127.0.0.1:{port} cannot be listened on"):
            serve(path, config_of(port=port), [])
    with pytest.raises(UserError, match="serve.token_file: nowhere cannot be read"):
        serve(path, config_of(token_file="nowhere"), [])
    path.write_bytes(b"no detector")
    with pytest.raises(UserError, match="is not a readable detector"):
        serve(path, config_of(port=0), [])


def test_without_the_extra_it_says_what_to_install(path, monkeypatch):
    for name in [each for each in sys.modules if each.startswith("ddad_jax.serving.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(UserError, match=r"install it with pip install 'ddad_jax\[serve\]'"):
        serve(path, config_of(), [])
