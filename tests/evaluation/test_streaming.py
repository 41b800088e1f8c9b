import numpy as np
import pytest

from ddad_jax.evaluation.aupro import aupro
from ddad_jax.evaluation.streaming import StreamingPro


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize("limit", [0.3, 0.05])
def test_agrees_with_the_exact_figure(golden, scale, limit):
    tensors = np.load(golden / "metrics.npz")
    maps, masks = tensors["anomaly_maps"] * np.float32(scale), tensors["masks"] > 0
    streaming = StreamingPro()
    for start in range(0, len(maps), 5):
        streaming.update(maps[start : start + 5], masks[start : start + 5])
    assert streaming.aupro(limit) == pytest.approx(aupro(maps, masks, limit), abs=1e-4)


def test_ties_and_both_zeros_are_found_together():
    masks = np.zeros((1, 4, 4), bool)
    masks[0, 0] = True
    maps = np.where(masks, -0.0, 0.0).astype(np.float32)
    streaming = StreamingPro()
    streaming.update(maps, masks)
    assert streaming.aupro() == pytest.approx(0.15)


def test_without_region_it_is_refused():
    streaming = StreamingPro()
    streaming.update(np.zeros((1, 4, 4), np.float32), np.zeros((1, 4, 4), bool))
    with pytest.raises(ValueError, match="0 regions"):
        streaming.curve()
