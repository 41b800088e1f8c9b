"""Clients that others wrote, and the one in docs."""

import base64
import io
import json
import os
import subprocess
import sys
import warnings
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ddad_jax.detection.detector import with_reconstruct
from tests.serving.conftest import encode

CLIENT = Path(__file__).parents[2] / "docs/clients/client.py"


@pytest.fixture(scope="module")
def triton():
    """Triton's module for clients of the Open Inference Protocol."""
    with warnings.catch_warnings():
        # Of gevent, which it is built on.
        warnings.simplefilter("ignore")
        import tritonclient.http
    return tritonclient.http


@pytest.fixture
def client(triton, served):
    client = triton.InferenceServerClient(served.address)
    yield client
    client.close()


@pytest.fixture(scope="module")
def expected(fitted, part_images):
    without = with_reconstruct(fitted.detector, False)
    broken = part_images[8].copy()
    broken[20:44, 20:44] = (255, 0, 255)
    images = np.stack([part_images[0], broken])
    return images, replace(fitted, detector=without).predict(images)


def test_tritons_client_knows_what_there_is(client):
    assert client.is_server_live() and client.is_server_ready()
    assert client.get_server_metadata()["extensions"] == ["binary_tensor_data"]
    assert client.is_model_ready("part") and not client.is_model_ready("other")
    described = client.get_model_metadata("part")
    assert described["inputs"] == [{"name": "image", "datatype": "UINT8", "shape": [-1, -1, -1, 3]}]
    assert "decision" in {each["name"] for each in described["outputs"]}


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("kind", ["UINT8", "FP32", "BYTES"])
def test_tritons_client_gets_a_decision(triton, client, expected, binary, kind):
    images, known = expected
    if kind == "BYTES":
        files = [encode(each) for each in images]
        values = np.array(files if binary else [base64.b64encode(each) for each in files], object)
    else:
        values = images if kind == "UINT8" else images.astype(np.float32) / 255
    given = triton.InferInput("image", values.shape, kind)
    given.set_data_from_numpy(values, binary_data=binary)
    names = ("score", "decision", "threshold", "regions", "anomaly_map", "mask")
    wanted = [triton.InferRequestedOutput(name, binary_data=binary) for name in names]
    result = client.infer("part", [given], outputs=wanted, request_id="7")
    assert result.get_response()["id"] == "7"
    for name in ("score", "decision", "threshold", "anomaly_map", "mask"):
        found = result.as_numpy(name)
        np.testing.assert_array_equal(found, np.array([getattr(p, name) for p in known]))
    for found, prediction in zip(result.as_numpy("regions"), known, strict=True):
        assert json.loads(found) == json.loads(json.dumps([asdict(r) for r in prediction.regions]))
    assert result.as_numpy("decision").tolist() == [False, True]


def test_tritons_client_gets_a_picture_and_another_threshold(triton, client, expected, large):
    _, known = expected
    given = triton.InferInput("image", [1], "BYTES")
    given.set_data_from_numpy(np.array([large], object))
    wanted = [triton.InferRequestedOutput("picture")]
    picture = client.infer("tiled", [given], outputs=wanted).as_numpy("picture")[0]
    with Image.open(io.BytesIO(picture)) as image:
        assert image.width > 3 * 160
    low = client.infer("tiled", [given], parameters={"threshold": 1e-3})
    high = client.infer("tiled", [given], parameters={"threshold": 1e6})
    assert (low.as_numpy("decision"), high.as_numpy("decision")) == ([True], [False])
    with pytest.raises(triton.InferenceServerException, match="treshold"):
        client.infer("tiled", [given], parameters={"treshold": 1})


def test_the_client_in_docs(served, photographs, tmp_path):
    paths = [tmp_path / "good.png", tmp_path / "bad.png", tmp_path / "broken.png"]
    for path, content in zip(paths, [photographs[0], photographs[-1], b"x"], strict=True):
        path.write_bytes(content)
    address = f"http://{served.address}/detectors/part"
    done = subprocess.run(
        [sys.executable, CLIENT, address, *paths], capture_output=True, text=True, check=True,
        env={**os.environ, "DDAD_JAX_TOKEN": "needed by nobody"},
    )  # fmt: skip
    lines = done.stdout.splitlines()
    assert lines[0].startswith(f"{paths[0]}: normal ")
    assert lines[1].startswith(f"{paths[1]}: anomalous ")
    assert (
        lines[2] == f"{paths[2]}: photograph: is not an image of a known kind, whatever its suffix"
    )
