"""The detector over eight devices, in a process of its own: JAX counts its devices once."""

import os
import subprocess
import sys

import jax
import numpy as np
import pytest

from ddad_jax.data.preprocessing import Preprocessing
from ddad_jax.deploy.fitted import FittedDetector
from ddad_jax.detection.detect import detect

PROGRAM = """
import sys
from pathlib import Path
import jax, numpy as np
from jax.sharding import Mesh
from ddad_jax.deploy.fitted import load_detector
from ddad_jax.detection.detect import detect
from ddad_jax.detection.detector import shard_detector

artifact, images, output = sys.argv[1:]
mesh = Mesh(np.array(jax.devices()).reshape(1, 4, 2), ("category", "data", "model"))
detector = shard_detector(load_detector(Path(artifact)).detector, mesh)
images = np.load(images)
found = jax.device_get(detect(detector, images))
shards, patch_shards = ([shard.data.shape[0] for shard in bank.addressable_shards]
                        for bank in (detector.bank, detector.patch_bank))
program = detect.lower(detector, images).compile()
np.savez(output, bank_rows=shards, patch_rows=patch_shards, program=program.as_text(),
         **{str(row): leaf for row, leaf in enumerate(jax.tree.leaves(found))})
"""


@pytest.fixture(scope="module")
def images(part_images):
    """Eight parts that are in no bank, where distances are not all rounding."""
    return np.concatenate([part_images[14:], part_images[14:16, ::-1]])


@pytest.fixture(scope="module")
def over_eight(detector, network_description, images, tmp_path_factory):
    """What the same detector, read from its file, says over eight devices."""
    folder = tmp_path_factory.mktemp("devices")
    fitted = FittedDetector(detector, Preprocessing(size=64), network_description, {})
    fitted.save(folder / "detector.safetensors")
    np.save(folder / "images.npy", images)
    flags = os.environ["XLA_FLAGS"] + " --xla_force_host_platform_device_count=8"
    paths = (folder / name for name in ("detector.safetensors", "images.npy", "found.npz"))
    subprocess.run(
        [sys.executable, "-c", PROGRAM, *map(str, paths)],
        env=os.environ | {"XLA_FLAGS": flags},
        check=True,
    )
    return np.load(folder / "found.npz")


@pytest.mark.slow
def test_eight_devices_say_what_one_says(detector, images, over_eight):
    alone = jax.tree.leaves(jax.device_get(detect(detector, images)))
    for row, expected in enumerate(alone):
        span = max(float(np.ptp(np.float64(expected))), 1e-3)
        difference = np.abs(np.float64(over_eight[str(row)]) - np.float64(expected))
        # A byte may round to its neighbour.
        assert difference.max() <= max(1e-4 * span, float(expected.dtype == np.uint8))


@pytest.mark.slow
def test_each_device_holds_its_part_of_the_banks_and_never_all(detector, over_eight):
    for bank, held in ((detector.bank, "bank_rows"), (detector.patch_bank, "patch_rows")):
        np.testing.assert_array_equal(over_eight[held], [-(-len(bank) // 8)] * 8)
    # An image's patches are as many as the patch bank's rows, and have the same shape.
    rows, width = detector.bank.shape
    whole = (f"f32[{rows},{width}]", f"f32[{8 * -(-rows // 8)},{width}]")
    assert not any(shape in str(over_eight["program"]) for shape in whole)
