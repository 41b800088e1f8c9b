"""A server of small detectors at a free port, and a client that needs no library."""

import http.client
import io
import json
import threading
import time
from dataclasses import dataclass, replace

import numpy as np
import pytest
from PIL import Image

from ddad_jax.data.preprocessing import Preprocessing
from ddad_jax.data.read import allow_large_images
from ddad_jax.deploy.fitted import FittedDetector, load_detector
from ddad_jax.detection.detector import with_reconstruct
from ddad_jax.serving import server
from ddad_jax.serving.detectors import Detectors
from ddad_jax.serving.metrics import Metrics
from ddad_jax.serving.settings import ServeSettings
from tests.deploy.conftest import SETTINGS

PNG = {"Content-Type": "image/png"}


@dataclass(frozen=True)
class Answer:
    """A response."""

    status: int
    headers: dict
    body: bytes

    @property
    def json(self):
        return json.loads(self.body)


class Running:
    """A server in a thread of this process."""

    def __init__(self, place, monkey, **settings):
        self.settings = ServeSettings(**{"port": 0, "reload_seconds": 0.0} | settings)
        metrics = Metrics()
        self.detectors = Detectors(
            place, load, self.settings.batch_size, self.settings.reload_seconds, metrics
        )
        listener = server.listen(self.settings)
        self.port = listener.getsockname()[1]
        self.address = f"127.0.0.1:{self.port}"
        token = server.token_of(self.settings)
        arguments = (listener, self.detectors, self.settings, metrics, token)

        def made(config, make=server.uvicorn.Server):
            self._uvicorn = make(config)
            return self._uvicorn

        monkey.setattr(server.uvicorn, "Server", made)
        self._thread = threading.Thread(target=server.serve, args=arguments)
        self._thread.start()
        while not self.detectors.is_ready:
            assert self._thread.is_alive()
            time.sleep(0.02)
        monkey.undo()

    def end(self):
        """Ends as a signal does."""
        self._uvicorn.should_exit = True
        self._thread.join(60)
        assert not self._thread.is_alive()

    def ask(self, path, body=None, headers=PNG, method=None, timeout=60):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            connection.request(method or ("GET" if body is None else "POST"), path, body, headers)
            response = connection.getresponse()
            found = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, found, response.read())
        finally:
            connection.close()


def load(path):
    """As `--mode=serve` does."""
    fitted = load_detector(path)
    return replace(fitted, detector=with_reconstruct(fitted.detector, False))


@pytest.fixture(scope="session")
def fitted(detector, network_description):
    """The detector of small networks as a user has it; a third of the good parts raise alarms."""
    allow_large_images()
    made_of = {"settings": SETTINGS, "images": {"train": [], "heldout": []}, "networks": {}}
    whole = FittedDetector(detector, Preprocessing(size=64), network_description, made_of)
    return whole.with_false_alarm_rate(0.3)


@pytest.fixture(scope="session")
def place(fitted, tmp_path_factory):
    """A folder of two detectors: "part", and "tiled", which cuts photographs into squares of 64."""
    folder = tmp_path_factory.mktemp("detectors")
    fitted.save(folder / "part.safetensors")
    tiling = Preprocessing(size=64, tile=64, overlap=16)
    replace(fitted, preprocessing=tiling).save(folder / "tiled/detector.safetensors")
    return folder


@pytest.fixture(scope="session")
def serve():
    """Function: place, settings -> a server; it ends with the session."""
    running = []

    def serve(place, **settings):
        with pytest.MonkeyPatch.context() as monkey:
            running.append(Running(place, monkey, **settings))
        return running[-1]

    yield serve
    for each in running:
        each.end()


@pytest.fixture(scope="session")
def served(serve, place):
    """A server of both detectors."""
    return serve(place, receive_seconds=2.0, most_bytes=2_000_000, most_pixels=4_000_000)


@pytest.fixture(scope="session")
def photographs(part_images):
    """Four good parts, and one that has a patch of another colour."""
    broken = part_images[8].copy()
    broken[20:44, 20:44] = (255, 0, 255)
    return [encode(each) for each in (*part_images[:4], broken)]


@pytest.fixture(scope="session")
def large(part_images):
    """A photograph of 160×96 pixels."""
    return encode(np.asarray(Image.fromarray(part_images[8]).resize((160, 96))))


def encode(pixels, kind="png"):
    """The bytes of a file."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()
