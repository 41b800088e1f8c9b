"""A speck of eight pixels in a photograph of twelve million."""

import tracemalloc

import jax.numpy as jnp
import numpy as np
import pytest

from ddad_jax import pretrained
from ddad_jax.data.folder import folder_source
from ddad_jax.data.prepare import prepare
from ddad_jax.data.preprocessing import Preprocessing
from ddad_jax.data.synthetic import synthetic_source
from ddad_jax.detection.build import BuildSettings
from ddad_jax.detection.detector import Settings
from ddad_jax.detection.networks import build_networks
from ddad_jax.diffusion.schedule import linear_alpha_bar
from ddad_jax.evaluation.evaluate import evaluate
from tests.conftest import calibrated_detector
from tests.data.pictures import save
from tests.tiny import drawn

HEIGHT, WIDTH, TILE, OVERLAP = 3072, 4096, 128, 32
SPECK = (1930, 2717)
TILED = Preprocessing(TILE, tile=TILE, overlap=OVERLAP)


def tray(height, width, seed):
    """Generated parts side by side, each 128 pixels wide."""
    source = synthetic_source(
        image_size=128, num_train=16, num_test_good=0, num_test_per_defect=0, seed=seed
    )
    parts = [source.read_image(sample) for sample in source.samples]
    rng = np.random.default_rng(seed)
    rows = [
        np.concatenate([parts[rng.integers(16)] for _ in range(width // 128)], axis=1)
        for _ in range(height // 128)
    ]
    return np.concatenate(rows)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    home = tmp_path_factory.mktemp("trays")
    for index in range(2):
        save(tray(768, 1024, index), home / f"good/{index}.png", compress_level=1)
    large = tray(HEIGHT, WIDTH, 2)
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    large[np.hypot(rows - SPECK[0], columns - SPECK[1]) <= 4] = (40, 150, 60)
    save(large, home / "test/speck/b.png", compress_level=1)
    return home


@pytest.fixture(scope="module")
def tiled_detector(folder):
    """It compares pretrained features with those of one tray; nothing is trained."""
    networks = build_networks(
        {"name": "tiny", "network": {"width": 8, "blocks": [1, 1, 1, 1]}},
        {
            "network": {
                "base_channels": 32,
                "channel_multipliers": [1],
                "num_res_blocks": 1,
                "attention_resolutions": [],
            }
        },
        {"name": "efficientnet_lite0", "network": {}},
        image_size=TILE,
        dtype="float32",
    )
    train = prepare(folder_source(folder / "good"), TILED, folder / "cache")["train"]
    learnt, held_out = (train.take(np.array([number])).squares for number in (0, 1))
    return calibrated_detector(
        networks,
        Settings(image_size=TILE, num_steps=1, blur=2.0, patch_weight=1.0),
        BuildSettings(patch_bank_size=4096, calibration_size=0, batch_size=16),
        autoencoder=drawn(networks.autoencoder, 0),
        denoiser=drawn(networks.denoiser, 1),
        extractor=pretrained.load("efficientnet_lite0", networks.extractor),
        latent_shift=jnp.zeros(4),
        latent_scale=jnp.ones(4),
        alpha_bar=jnp.asarray(linear_alpha_bar(0.0015, 0.0195, 1000)),
        train_images=learnt,
        train_parts=np.zeros(len(learnt), int),
        heldout_images=held_out,
        seed=0,
    )


@pytest.mark.slow
def test_the_speck_is_found_at_its_place_in_bounded_memory(tiled_detector, folder):
    source = folder_source(folder / "good", test=folder / "test")
    test = prepare(source, TILED, folder / "cache")["test"]
    tracemalloc.start()
    found = evaluate(tiled_detector, TILED, source, test, 16)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    heat = found.maps[0].copy()
    assert heat.shape == (HEIGHT, WIDTH)
    place = np.unravel_index(heat.argmax(), heat.shape)
    assert np.hypot(*np.subtract(place, SPECK)) <= 8
    heat[SPECK[0] - 32 : SPECK[0] + 32, SPECK[1] - 32 : SPECK[1] + 32] = 0
    assert heat.max() < 0.95 * found.scores[0]
    # The image takes 38 MB and its map 50 MB; all tiles' maps and reconstructions would be 158 MB.
    assert peak < 700e6
