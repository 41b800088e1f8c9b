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


@pytest.fixture(scope="session")
def fitted(detector, network_description):
    """The detector of small networks as a user has it."""
    images = {"train": ["a"], "heldout": ["b"]}
    made_of = {"settings": SETTINGS, "images": images, "networks": {}}
    return FittedDetector(detector, Preprocessing(size=64), network_description, made_of)
