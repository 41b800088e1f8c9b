import numpy as np
import pytest

from ddad_jax.evaluation.d3ad import pixel_figures

pytest.importorskip("torch")

from ddad_jax.peers.torch_evaluation import overlap  # noqa: E402


def test_the_overlap_is_that_of_the_official_code():
    rng = np.random.default_rng(0)
    masks = np.zeros((4, 32, 32))
    masks[0, 4:9, 4:20] = masks[0, 20:25, 3:6] = masks[2, 10:12, 10:30] = 1.0
    maps = (masks + rng.normal(size=masks.shape)).astype(np.float32)
    expected = pixel_figures(maps, masks)["pro_d3ad"]
    assert overlap(maps, masks == 1) == pytest.approx(expected, abs=1e-6)
