"""What is exported says what the detector says, or is refused; StableHLO, which JAX itself runs."""

import json
from dataclasses import replace

import jax
import numpy as np
import pytest

from ddad_jax.data.image_set import content_of
from ddad_jax.deploy import export as exporting
from ddad_jax.deploy.program import program
from ddad_jax.errors import UserError
from ddad_jax.main import run
from tests.deploy.conftest import WITH_JAX, answers_of, require_same


@pytest.mark.slow
def test_stablehlo_needs_nothing_of_this_package(strict, photographs, tmp_path):
    path = tmp_path / "part.stablehlo"
    strict.export(path, photographs["wide"], reconstruction=False)
    for which, found in answers_of(WITH_JAX, path, photographs).items():
        assert set(found) == {"score", "decision", "anomaly_map", "mask"}
        require_same(found, strict.predict(photographs[which]))
    exported = jax.export.deserialize(bytearray(path.read_bytes()))
    assert exported.platforms == ("cpu", "cuda", "tpu")
    # On each of them it takes the form that is fastest there.
    assert "stablehlo.case" in exported.mlir_module()
    beside = json.loads(path.with_name("part.stablehlo.json").read_text())
    assert beside["threshold"] == strict.threshold and beside["agreement"]["photographs"] == 3


@pytest.mark.slow
def test_patch_evidence_of_every_kind_as_stablehlo(otherwise, photographs, tmp_path):
    found = otherwise.export(tmp_path / "part.stablehlo", photographs["square"])
    assert found.photographs == 6 and found.is_close


@pytest.mark.slow
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


def test_what_cannot_be_exported_is_said_before_any_work(
    fitted, part_images, tmp_path, monkeypatch
):
    def refusal(detector, name, photographs=()):
        with pytest.raises(UserError) as found:
            detector.export(tmp_path / name, photographs)
        return str(found.value)

    assert "ends in '.pb'; name a file that ends in .onnx or .stablehlo" in refusal(fitted, "a.pb")
    # Whether or not what it takes is installed here.
    monkeypatch.setattr(exporting.importlib.util, "find_spec", lambda name: name)
    tiled = replace(fitted, preprocessing=replace(fitted.preprocessing, tile=64))
    assert "data.tiling.tile" in refusal(tiled, "a.onnx")
    settings = replace(fitted.detector.settings, stochasticity=1.0)
    drawing = replace(fitted, detector=fitted.detector.replace(settings=settings))
    assert "detection.stochasticity" in refusal(drawing, "a.onnx")
    assert "photographs: there are none" in refusal(fitted, "a.stablehlo")
    known = {"images": {"train": [content_of(part_images[:1])], "heldout": []}}
    assert "made of all 2" in refusal(replace(fitted, made_of=known), "a.onnx", part_images[[0, 0]])
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
