"""Speeds with a wide margin, since other work may share the machine."""

import time

import numpy as np
import pytest

from ddad_jax.data.folder import folder_source
from ddad_jax.data.loader import training_batches
from ddad_jax.data.prepare import prepare
from ddad_jax.data.preprocessing import Preprocessing
from tests.data.pictures import save


@pytest.mark.slow
def test_the_cache_feeds_ten_times_as_fast_as_decoding(tmp_path):
    # Noise of a few levels on a smooth picture compresses like a photograph.
    smooth = np.linspace(0, 200, 700)[:, None, None] + np.linspace(0, 40, 700)[:, None]
    for index in range(40):
        noise = np.random.default_rng(index).integers(0, 12, (700, 700, 3))
        save((smooth + noise).astype(np.uint8), tmp_path / f"good/{index:02d}.png")
    start = time.perf_counter()
    images = prepare(folder_source(tmp_path / "good"), Preprocessing(), tmp_path / "cache")[
        "train"
    ].squares
    decoding = 40 / (time.perf_counter() - start)
    batches = training_batches({"image": images}, 32, seed=0)
    next(batches)
    start = time.perf_counter()
    for _ in range(40):
        next(batches)
    loading = 40 * 32 / (time.perf_counter() - start)
    assert loading > 400
    assert loading > 10 * decoding
