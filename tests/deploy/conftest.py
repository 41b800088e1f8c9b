import subprocess
import sys
from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest

from ddad_jax.data.preprocessing import Preprocessing
from ddad_jax.deploy.fitted import FittedDetector

SETTINGS = {
    "seed": 0,
    "build.false_alarm_rate": 0.01,
    "build.pixel_alarm_rate": 0.0,
    "build.patch_bank_size": 64,
    "build.calibration_size": 0,
}
# Programs that run an exported file, for `answers_of`.
WITH_ONNX_RUNTIME = """
import onnxruntime
options = onnxruntime.SessionOptions()
options.log_severity_level = 3
session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
names = [output.name for output in session.get_outputs()]
def run(images):
    return dict(zip(names, session.run(names, {"images": images})))
"""
WITH_OPENVINO = """
import openvino
core = openvino.Core()
model = core.compile_model(sys.argv[1], "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
def run(images):
    return {each.any_name: value.copy() for each, value in model({"images": images}).items()}
"""
WITH_JAX = """
import jax
exported = jax.export.deserialize(bytearray(open(sys.argv[1], "rb").read()))
call = jax.jit(exported.call)
def run(images):
    return jax.device_get(call(images, np.float32(np.nan)))
"""
# Stand before and after such a program. Whoever imports the package fails.
BEFORE = """
import sys
sys.modules["ddad_jax"] = None
import numpy as np
"""
AFTER = """
together, answers = int(sys.argv[4]), {}
with np.load(sys.argv[2]) as given:
    for which, images in given.items():
        parts = [run(images[start:start + together]) for start in range(0, len(images), together)]
        for name in parts[0]:
            answers[f"{which} {name}"] = np.concatenate([part[name] for part in parts])
np.savez(sys.argv[3], **answers)
"""


@pytest.fixture(scope="session")
def fitted(detector, network_description):
    """The detector of small networks as a user has it."""
    images = {"train": ["a"], "heldout": ["b"]}
    made_of = {"settings": SETTINGS, "images": images, "networks": {}}
    return FittedDetector(detector, Preprocessing(size=64), network_description, made_of)


@pytest.fixture(scope="module", params=["patch_metric", "score_metric"])
def otherwise(fitted, request):
    """The same with patches by the cosine, of a drawn foreground, and a score of many pixels.

    Either the map compares patches by the cosine, or the score alone.
    """
    d = fitted.detector
    settings = replace(d.settings, foreground=True, score_share=0.02, **{request.param: "cosine"})
    bank, calibration = d.patch_bank, d.calibration
    if settings.scores_by_cosine:
        usual = jnp.array([0.1, 0.0])
        calibration = calibration.replace(
            location={**calibration.location, "cosine": usual[:, None, None]},
            scale={**calibration.scale, "cosine": usual},
        )
    else:
        bank = bank / np.linalg.norm(bank, axis=1, keepdims=True)
    foreground = np.random.default_rng(0).normal(size=len(d.patch_scale) + 1)
    detector = d.replace(
        settings=settings,
        calibration=calibration,
        patch_bank=bank,
        foreground=jnp.asarray(foreground, jnp.float32),
    )
    return replace(fitted, detector=detector)


@pytest.fixture(scope="session")
def strict(fitted):
    """A threshold that some of the photographs exceed."""
    return fitted.with_threshold(float(np.median(fitted.scores)))


@pytest.fixture(scope="session")
def photographs(part_images):
    """Of the networks' size and of others, as many of each as a batch takes."""
    large = part_images[:2].repeat(2, axis=1).repeat(2, axis=2)
    return {
        "square": part_images[14:],
        "wide": part_images[:3].repeat(2, axis=2)[:, :50],
        "large": large[:, :100, :120],
        "one": part_images[14:15],
    }


def answers_of(program, path, photographs, together=sys.maxsize):
    """What a process without this package says of arrays of photographs.

    Args:
      program: defines `run`, which takes photographs and gives arrays by name, of the file that is
        its first argument.
      path: that file.
      photographs: arrays by name.
      together: how many it is given at a time, at most.
    """
    given, answer = path.with_suffix(".given.npz"), path.with_suffix(".answer.npz")
    np.savez(given, **photographs)
    arguments = [path, given, answer, str(together)]
    subprocess.run([sys.executable, "-c", BEFORE + program + AFTER, *arguments], check=True)
    found = {which: {} for which in photographs}
    with np.load(answer) as answers:
        for key in answers:
            which, name = key.split(" ")
            found[which][name] = answers[key]
    return found


def require_same(found, predictions):
    """Checks what a file says of photographs against what the detector says."""
    assert found["decision"].tolist() == [each.decision for each in predictions]
    for name in ("score", "anomaly_map"):
        expected = np.stack([getattr(each, name) for each in predictions])
        np.testing.assert_allclose(found[name], expected, atol=2e-4)
    if "reconstruction" in found:
        expected = np.stack([each.reconstruction for each in predictions]).astype(int)
        assert np.abs(found["reconstruction"] - expected).max() <= 1
