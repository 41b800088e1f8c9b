"""Fixtures that every test may use."""

import atexit
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import NoReturn
from zlib import crc32

# Tests compile hundreds of programs and run each of them once: halve the compiler's work, and share
# what is compiled. Both are read when JAX is first used, and by the processes that tests start,
# among them those that share the tests.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    cache = tempfile.mkdtemp(prefix="ddad_jax_tests")
    atexit.register(shutil.rmtree, cache, ignore_errors=True)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = cache
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")

import jax.numpy as jnp
import numpy as np
import pytest

from ddad_jax.data.synthetic import synthetic_source
from ddad_jax.detection.build import BuildSettings, fill_banks
from ddad_jax.detection.calibration import calibrate
from ddad_jax.detection.detector import Settings
from ddad_jax.detection.networks import build_networks
from ddad_jax.detection.normal import normal_evidence
from ddad_jax.detection.reconstruction import encode, to_network_range
from ddad_jax.diffusion.schedule import linear_alpha_bar
from ddad_jax.machine.kernels import choose_cpu_kernels
from ddad_jax.machine.programs import keep_programs
from tests.tiny import drawn

choose_cpu_kernels()
# Test processes, and the commands that they run, share what they compile.
keep_programs()


def pytest_collection_modifyitems(items):
    """Files with slow tests go first, so that the processes that share the files end together."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture(scope="session")
def golden() -> Path:
    """The folder of reference tensors computed with the official code."""
    return GOLDEN


@pytest.fixture(scope="session")
def golden_weights():
    """Function: network name -> the PyTorch state dict that its golden tensors were made with."""
    shapes = json.loads((GOLDEN / "state_dict_shapes.json").read_text())

    def weight(name: str, shape: list[int]) -> np.ndarray:
        if name.endswith("num_batches_tracked"):
            return np.ones(shape, np.int64)
        values = np.random.RandomState(crc32(name.encode())).standard_normal(shape)
        values = np.asarray(values, np.float32)
        if name.endswith("running_var"):
            return 1 + 0.5 * np.abs(values)
        if name.endswith(("running_mean", "bias")):
            return np.float32(0.1) * values
        if len(shape) == 1:
            return 1 + np.float32(0.1) * values
        return values / np.sqrt(np.prod(shape[1:])).astype(np.float32)

    return lambda network: {name: weight(name, s) for name, s in shapes[network].items()}


def lacking(message: str) -> NoReturn:
    """Skips a test for what this machine lacks; fails in CI, where nothing may be lacking."""
    if os.environ.get("CI"):
        pytest.fail(message)
    pytest.skip(message)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data and weights that lies beside the checkout, never inside it."""
    default = Path(__file__).resolve().parents[2] / "shared"
    folder = Path(os.environ.get("DDAD_JAX_SHARED", default))
    if folder.is_dir():
        return folder
    lacking(
        f"real data: {folder} does not exist; set DDAD_JAX_SHARED to the folder "
        "that holds data/mvtec and weights/taef2"
    )


NETWORKS = {
    "autoencoder": {"name": "tiny", "network": {"width": 8, "blocks": [1, 1, 1, 1]}},
    "denoiser": {
        "network": {
            "base_channels": 32,
            "channel_multipliers": [1],
            "num_res_blocks": 1,
            "attention_resolutions": [8],
            "num_heads": 2,
        }
    },
    "extractor": {"name": "efficientnet_lite0", "network": {"depth": 0.25}},
    "image_size": 64,
    "dtype": "float32",
}


@pytest.fixture(scope="session")
def network_description() -> dict:
    """What builds the small networks of `detector`."""
    return NETWORKS


@pytest.fixture(scope="session")
def part_images() -> np.ndarray:
    """Twenty generated good parts at 64², uint8."""
    source = synthetic_source(image_size=64, num_train=20, num_test_good=0, num_test_per_defect=0)
    return np.stack([source.read_image(sample) for sample in source.samples])


def calibrated_detector(
    networks, settings, build, *, train_images, train_parts, heldout_images, seed, **trained
):
    """A detector with banks of the training images, calibrated."""
    latents = None
    if settings.restores:
        scaling = trained["latent_shift"], trained["latent_scale"]
        pixels = to_network_range(jnp.asarray(train_images), settings.image_size)
        encoded = encode(networks.autoencoder, trained["autoencoder"], *scaling, pixels)
        latents = np.asarray(encoded)
    banks = fill_banks(
        networks,
        settings,
        build,
        train_images=train_images,
        train_latents=latents,
        seed=seed,
        **trained,
    )
    evidence = normal_evidence(banks, build, train_images, train_parts, heldout_images, seed)
    calibration = calibrate(evidence, settings, build.false_alarm_rate, build.pixel_alarm_rate)
    return banks.detector.replace(calibration=calibration)


def drawn_networks(networks):
    """Variables of each of the networks, drawn."""
    return {
        name: drawn(getattr(networks, name), seed)
        for seed, name in enumerate(("autoencoder", "denoiser", "extractor"))
    }


def detector_of(networks, drawn, images, settings, build):
    """A detector with banks of the first of twenty images, calibrated on the last six."""
    return calibrated_detector(
        networks,
        settings,
        build,
        **drawn,
        latent_shift=jnp.zeros(4),
        latent_scale=jnp.ones(4),
        alpha_bar=jnp.asarray(linear_alpha_bar(0.0015, 0.0195, 1000)),
        train_images=images[:14],
        train_parts=np.arange(14),
        heldout_images=images[14:],
        seed=0,
    )


@pytest.fixture(scope="session")
def detector(part_images):
    """A detector of small networks with drawn weights, its banks and calibration of real parts."""
    networks = build_networks(**NETWORKS)
    return detector_of(
        networks,
        drawn_networks(networks),
        part_images,
        Settings(image_size=64, blur=1.0, num_neighbours=5, reconstruction="restored"),
        BuildSettings(patch_bank_size=64, calibration_size=0, batch_size=8),
    )
