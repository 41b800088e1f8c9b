import subprocess
import sys

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
# Follows a program that defines `run`: writes what that says of each array of photographs.
ANSWER = """
import numpy as np
with np.load(sys.argv[2]) as given:
    answers = {which: run(given[which]) for which in given}
np.savez(sys.argv[3], **{f"{which} {name}": value for which, found in answers.items()
                         for name, value in found.items()})
"""


@pytest.fixture(scope="session")
def fitted(detector, network_description):
    """The detector of small networks as a user has it."""
    images = {"train": ["a"], "heldout": ["b"]}
    made_of = {"settings": SETTINGS, "images": images, "networks": {}}
    return FittedDetector(detector, Preprocessing(size=64), network_description, made_of)


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


def answers_of(program, path, photographs):
    """What a process that imports nothing of this package says of arrays of photographs.

    Args:
      program: defines `run`, which takes photographs and gives arrays by name, of the file that is
        its first argument.
      path: that file.
      photographs: arrays by name.
    """
    given, answer = path.with_suffix(".given.npz"), path.with_suffix(".answer.npz")
    np.savez(given, **photographs)
    subprocess.run([sys.executable, "-c", program + ANSWER, path, given, answer], check=True)
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
