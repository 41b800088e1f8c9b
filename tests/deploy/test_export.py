"""Exported files, each run by a process or a library that knows nothing of this package."""

import json
import subprocess
import sys
from dataclasses import replace

import jax
import numpy as np
import pytest

from ddad_jax.deploy import export as exporting
from ddad_jax.deploy.program import program
from ddad_jax.errors import UserError
from ddad_jax.main import run

# Reads a file of photographs, and writes what the exported program says of them.
WITHOUT_THE_PACKAGE = """
import sys
sys.modules["ddad_jax"] = None  # Whoever imports it fails.
import jax, numpy as np
exported = jax.export.deserialize(bytearray(open(sys.argv[1], "rb").read()))
with np.load(sys.argv[2]) as given:
    found = exported.call(given["images"], given["threshold"])
np.savez(sys.argv[3], **found)
"""


@pytest.fixture(scope="module")
def strict(fitted):
    """A threshold that some of the photographs exceed."""
    return fitted.with_threshold(float(np.median(fitted.scores)))


@pytest.fixture(scope="module")
def photographs(part_images):
    """Of the networks' size and of others, as many of each as a batch takes."""
    wide = part_images[:3].repeat(2, axis=2)[:, :50]
    # Held out: of a patch in the bank itself the distance is the root of what rounding leaves.
    return {"square": part_images[14:], "wide": wide, "one": part_images[14:15]}


@pytest.fixture(scope="module")
def onnx_path(strict, photographs, tmp_path_factory):
    path = tmp_path_factory.mktemp("onnx") / "part.onnx"
    agreement = strict.export(path, [*photographs["square"], *photographs["wide"]])
    assert agreement.photographs == 9 and agreement.is_close
    return path


@pytest.fixture(scope="module")
def stablehlo_path(strict, photographs, tmp_path_factory):
    path = tmp_path_factory.mktemp("stablehlo") / "part.stablehlo"
    strict.export(path, photographs["wide"], reconstruction=False)
    return path


def require_same(found, predictions):
    """Checks what a file says of photographs against what the detector says."""
    assert found["decision"].tolist() == [each.decision for each in predictions]
    for name in ("score", "anomaly_map"):
        expected = np.stack([getattr(each, name) for each in predictions])
        np.testing.assert_allclose(found[name], expected, atol=2e-4)
    if "reconstruction" in found:
        expected = np.stack([each.reconstruction for each in predictions]).astype(int)
        assert np.abs(found["reconstruction"] - expected).max() <= 1


@pytest.mark.slow
@pytest.mark.parametrize("which", ["square", "wide", "one"])
def test_onnx_runtime_says_what_the_detector_says(onnx_path, strict, photographs, which):
    import onnxruntime

    session = onnxruntime.InferenceSession(onnx_path, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    images = photographs[which]
    found = dict(zip(names, session.run(None, {"images": images}), strict=True))
    predictions = strict.predict(images)
    require_same(found, predictions)
    # Regions leave specks out, and keep at least the highest pixel.
    for mask, prediction in zip(found["mask"], predictions, strict=True):
        assert mask[prediction.mask].all() and mask.any() == prediction.mask.any()


@pytest.mark.slow
def test_another_threshold_may_be_given(onnx_path, strict, photographs):
    import onnxruntime

    session = onnxruntime.InferenceSession(onnx_path, providers=["CPUExecutionProvider"])
    images = photographs["square"]
    scores = np.array([each.score for each in strict.predict(images)])
    for threshold in (scores.min() - 0.01, (scores.min() + scores.max()) / 2, scores.max() + 0.01):
        given = {"images": images, "threshold": np.array(threshold, np.float32)}
        decision, mask = session.run(["decision", "mask"], given)
        np.testing.assert_array_equal(decision, scores > threshold)
        np.testing.assert_array_equal(mask.any((1, 2)), decision)


@pytest.mark.slow
def test_any_onnx_tool_reads_what_the_file_says_of_itself(onnx_path, strict):
    import onnx

    model = onnx.load(onnx_path)
    onnx.checker.check_model(model)
    about = {each.key: each.value for each in model.metadata_props}
    assert about["format"] == exporting.FORMAT and about["version"]
    assert float(about["threshold"]) == strict.threshold
    assert json.loads(about["settings"]) == strict.made_of["settings"]
    assert json.loads(about["agreement"])["photographs"] == 9
    assert "Apache-2.0" in json.loads(about["licences"])["extractor"]
    assert json.loads(about["good_images"])["highest"] == strict.scores.max()


@pytest.mark.slow
def test_openvino_reads_the_same_file(onnx_path, strict, photographs):
    import openvino

    model = openvino.Core().compile_model(onnx_path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    for images in photographs.values():
        result = model({"images": images})
        names = ("score", "decision", "anomaly_map", "reconstruction")
        require_same({name: np.asarray(result[name]) for name in names}, strict.predict(images))


@pytest.mark.slow
def test_stablehlo_needs_nothing_of_this_package(stablehlo_path, strict, photographs, tmp_path):
    given, answer = tmp_path / "given.npz", tmp_path / "answer.npz"
    code = [sys.executable, "-c", WITHOUT_THE_PACKAGE]
    for images in photographs.values():
        np.savez(given, images=images, threshold=np.float32(np.nan))
        subprocess.run([*code, stablehlo_path, given, answer], check=True)
        with np.load(answer) as found:
            assert set(found) == {"score", "decision", "anomaly_map", "mask"}
            require_same(dict(found), strict.predict(images))
    exported = jax.export.deserialize(bytearray(stablehlo_path.read_bytes()))
    assert exported.platforms == ("cpu", "cuda", "tpu")
    beside = json.loads(stablehlo_path.with_name("part.stablehlo.json").read_text())
    assert beside["threshold"] == strict.threshold and beside["agreement"]["photographs"] == 3


@pytest.mark.parametrize("part", ["score", "anomaly_map", "decision", "mask", "reconstruction"])
def test_a_file_that_differs_is_not_written(strict, photographs, monkeypatch, tmp_path, part):
    """Whatever it is that the file gets wrong; here the program itself stands for the file."""
    exact = jax.jit(program(strict.detector, strict.preprocessing, reconstruction=True))

    def wrong(images):
        found = jax.device_get(exact(images, np.float32(np.nan)))
        value = found[part]
        found[part] = ~value if value.dtype == bool else value + value.dtype.type(1)
        return found

    monkeypatch.setattr(exporting.stablehlo_file, "encode", lambda *_: b"")
    monkeypatch.setattr(exporting.stablehlo_file, "runner", lambda _: wrong)
    with pytest.raises(UserError, match="is not written, since it differs from the detector"):
        strict.export(tmp_path / "part.stablehlo", photographs["one"])
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_exported_is_said_before_any_work(fitted, tmp_path, monkeypatch):
    def refusal(detector, name):
        with pytest.raises(UserError) as found:
            detector.export(tmp_path / name, [])
        return str(found.value)

    assert "ends in '.pb'; name a file that ends in .onnx or .stablehlo" in refusal(fitted, "a.pb")
    tiled = replace(fitted, preprocessing=replace(fitted.preprocessing, tile=64))
    assert "data.tiling.tile" in refusal(tiled, "a.onnx")
    settings = replace(fitted.detector.settings, stochasticity=1.0)
    drawing = replace(fitted, detector=fitted.detector.replace(settings=settings))
    assert "detection.stochasticity" in refusal(drawing, "a.onnx")
    assert "photographs: there are none" in refusal(fitted, "a.stablehlo")
    monkeypatch.setattr(exporting.importlib.util, "find_spec", lambda name: None)
    for name in ("a.onnx", "a.stablehlo"):
        assert "pip install 'ddad_jax[export]'" in refusal(fitted, name)


def test_the_command_line_says_what_is_missing(fitted, tmp_path, capsys):
    fitted.save(tmp_path / "detector.safetensors")
    command = ["ddad_jax", "--mode=export", f"--workdir={tmp_path}"]
    for more, said in (
        ([], "--output is missing"),
        ([f"--output={tmp_path / 'a.txt'}"], "ends in '.txt'"),
        ([f"--output={tmp_path / 'a.stablehlo'}"], "--images is missing"),
        (["--mode=threshold", "--brief"], "--brief: does nothing with --mode=threshold"),
    ):
        assert run([*command, *more]) == 2
        assert said in capsys.readouterr().err
