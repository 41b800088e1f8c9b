"""ONNX files, run by libraries that know nothing of the package.

What they take lies in an environment of its own, where CI runs them:
pip install 'ddad_jax[export,test-export]'
"""

import importlib.util
import json
import os
import subprocess
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from ddad_jax import models
from ddad_jax.data.resize import fit_image
from ddad_jax.deploy import export as exporting
from ddad_jax.deploy import onnx_file
from ddad_jax.deploy.resampling import fit_images
from ddad_jax.detection.reconstruction import extract, to_network_range
from ddad_jax.models import initialise
from tests.conftest import lacking
from tests.deploy.conftest import WITH_OPENVINO, answers_of, require_same

pytestmark = pytest.mark.slow

CLIENT = Path(__file__).parents[2] / "docs/clients/client.cpp"

TRANSFORMER = {"width": 32, "depth": 3, "heads": 2, "hidden": 64}
BACKBONES = {
    "dinov2_small": TRANSFORMER | {"grid": 5},
    "dinov2_small_registers": TRANSFORMER | {"grid": 5},
    "dinov3_small_plus": TRANSFORMER,
    "dinov3_convnext_tiny": {"repeats": (1, 1, 1, 1)},
}


@pytest.fixture(scope="module", autouse=True)
def _installed():
    for name in ("jax2onnx", "onnx", "onnxruntime", "openvino"):
        if importlib.util.find_spec(name) is None:
            lacking(f"{name}: pip install 'ddad_jax[export,test-export]'")


@pytest.fixture(scope="module")
def path(strict, photographs, tmp_path_factory):
    path = tmp_path_factory.mktemp("onnx") / "part.onnx"
    agreement = strict.export(path, [*photographs["square"], *photographs["wide"]])
    assert agreement.photographs == 9 and agreement.is_close
    return path


@pytest.fixture(scope="module")
def session(path):
    import onnxruntime

    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def test_patch_evidence_of_every_kind(otherwise, photographs, tmp_path):
    found = otherwise.export(tmp_path / "part.onnx", photographs["square"])
    assert found.photographs == 6 and found.is_close


@pytest.mark.parametrize("which", ["square", "wide", "one"])
def test_onnx_runtime_says_what_the_detector_says(session, strict, photographs, which):
    names = [output.name for output in session.get_outputs()]
    images = photographs[which]
    found = dict(zip(names, session.run(None, {"images": images}), strict=True))
    predictions = strict.predict(images)
    require_same(found, predictions)
    # Regions leave specks out, and keep at least the highest pixel.
    for mask, prediction in zip(found["mask"], predictions, strict=True):
        assert mask[prediction.mask].all() and mask.any() == prediction.mask.any()


def test_another_threshold_may_be_given(session, strict, photographs):
    images = photographs["square"]
    scores = np.array([each.score for each in strict.predict(images)])
    for threshold in (scores.min() - 0.01, (scores.min() + scores.max()) / 2, scores.max() + 0.01):
        given = {"images": images, "threshold": np.array(threshold, np.float32)}
        decision, mask = session.run(["decision", "mask"], given)
        np.testing.assert_array_equal(decision, scores > threshold)
        np.testing.assert_array_equal(mask.any((1, 2)), decision)


def test_any_onnx_tool_reads_what_the_file_says_of_itself(path, strict):
    import onnx

    model = onnx.load(path)
    onnx.checker.check_model(model)
    about = {each.key: each.value for each in model.metadata_props}
    assert about["format"] == exporting.FORMAT and about["version"]
    assert float(about["threshold"]) == strict.threshold
    assert json.loads(about["settings"]) == strict.made_of["settings"]
    assert json.loads(about["agreement"])["photographs"] == 9
    assert "Apache-2.0" in json.loads(about["licences"])["extractor"]
    assert json.loads(about["good_images"])["highest"] == strict.scores.max()


def test_openvino_reads_the_same_file(path, strict, photographs):
    for which, found in answers_of(WITH_OPENVINO, path, photographs).items():
        require_same(found, strict.predict(photographs[which]))


@pytest.mark.parametrize("name", BACKBONES)
def test_features_of_every_kind_of_backbone(name, part_images):
    """At a resolution of their own, and of photographs of any size."""
    network = models.build_extractor(name, size=98, **BACKBONES[name])
    variables = initialise(network, jax.random.key(0))

    def features(photographs, threshold):
        pixels = to_network_range(fit_images(photographs, 64, "stretch"), 64)
        stages = extract(network, variables, pixels)
        return {f"stage {number}": stage for number, stage in enumerate(stages)}

    run = onnx_file.runner(onnx_file.encode(features, 0.0, 8))
    wide = part_images[:2].repeat(2, axis=2)[:, :50]
    squares = np.stack([fit_image(image, 64, "stretch") for image in wide])
    expected = extract(network, variables, to_network_range(jax.numpy.asarray(squares), 64))
    for found, stage in zip(run(wide).values(), expected, strict=True):
        np.testing.assert_allclose(found, stage, atol=1e-4 * np.abs(stage).max())


def test_the_client_in_cpp_says_what_the_detector_says(path, strict, photographs, tmp_path):
    """Compiled with headers as Debian has them, and the library that Python's package brings."""
    import onnxruntime

    headers = Path(os.environ.get("ONNXRUNTIME_INCLUDE", "/usr/include/onnxruntime"))
    if not (headers / "onnxruntime_cxx_api.h").exists():
        lacking("ONNX Runtime's headers: install Debian's libonnxruntime-dev, "
                "or name their folder in ONNXRUNTIME_INCLUDE")  # fmt: skip
    (library,) = Path(onnxruntime.__file__).parent.glob("capi/libonnxruntime.so.1.*")
    (tmp_path / "libonnxruntime.so.1").symlink_to(library)
    client = tmp_path / "client"
    subprocess.run(
        ["g++", "-std=c++17", "-Wall", "-Wextra", "-Werror", CLIENT, "-isystem", headers,
         tmp_path / "libonnxruntime.so.1", f"-Wl,-rpath,{tmp_path}", "-o", client],
        check=True,
    )  # fmt: skip
    images = [*photographs["square"], *photographs["wide"]]
    names = [tmp_path / f"{number}.ppm" for number in range(len(images))]
    for name, image in zip(names, images, strict=True):
        Image.fromarray(image).save(name)
    said = subprocess.run([client, path, *names], check=True, capture_output=True, text=True)
    predictions = [strict.predict([image])[0] for image in images]
    assert len({each.decision for each in predictions}) == 2
    for line, name, expected in zip(said.stdout.splitlines(), names, predictions, strict=True):
        decision, score = line.removeprefix(f"{name}: ").split()
        assert decision == ("anomalous" if expected.decision else "normal")
        assert float(score) == pytest.approx(expected.score, abs=2e-4)

    (tmp_path / "cut.ppm").write_bytes(names[0].read_bytes()[:100])
    for wrong, why in (("cut.ppm", "ends too early"), ("client", "not a PPM file of 8 bits")):
        done = subprocess.run([client, path, tmp_path / wrong], capture_output=True, text=True)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.splitlines()[-1] == f"{tmp_path / wrong}: {why}"
