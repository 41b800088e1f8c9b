from pathlib import Path

import numpy as np
import pytest

from ddad_jax.data.sample import ANOMALOUS, NORMAL, UNKNOWN, Sample
from ddad_jax.evaluation import metrics
from ddad_jax.evaluation.aupro import PRO_LIMIT, area_up_to, pro_curve, tell_apart
from ddad_jax.evaluation.bootstrap import resample
from ddad_jax.evaluation.predictions import Predictions


def compute_metrics(predictions, resized_masks=None):
    """All figures, with the intervals of the same predictions."""
    return metrics.compute_metrics(predictions, resample(predictions), resized_masks)


def aupro(maps, masks, limit=PRO_LIMIT):
    """AUPRO up to a false positive rate."""
    return area_up_to(*pro_curve(tell_apart(maps, masks)), limit)


@pytest.fixture(scope="session")
def make_predictions():
    """Function: labels, scores, maps and masks -> predictions over grey images."""

    def make(labels, scores=None, maps=None, masks=None, threshold=0.5):
        labels = np.asarray(labels, np.int64)
        count = len(labels)
        maps = np.zeros((count, 16, 16), np.float32) if maps is None else maps
        scores = maps.max((1, 2)) if scores is None else np.asarray(scores, np.float32)
        names = {NORMAL: "good", ANOMALOUS: "scratch", UNKNOWN: "unknown"}
        samples = tuple(
            Sample(
                name=f"test/{names[label]}/{row:03d}.png",
                label=int(label),
                defect=names[label],
                split="test",
                category="part",
                image=Path("none"),
            )
            for row, label in enumerate(labels.tolist())
        )
        has_mask = labels == NORMAL
        if masks is None:
            masks = np.zeros(maps.shape, bool)
        else:
            has_mask = has_mask | (labels == ANOMALOUS)
        grey = np.full((*maps.shape, 3), 128, np.uint8)
        return Predictions(
            samples=samples,
            images=grey,
            masks=masks,
            has_mask=has_mask,
            labels=labels,
            scores=scores,
            calibrated_scores=1 / (1 + np.exp(threshold - scores)),
            decisions=scores > threshold,
            noise_levels=np.full(count, 40),
            knn_distances=np.where(labels == ANOMALOUS, 3.0, 1.0).astype(np.float32),
            reconstructed_knn_distances=np.where(labels == ANOMALOUS, 2.0, 1.5).astype(np.float32),
            maps=maps,
            reconstructions=grey,
            threshold=threshold,
            pixel_threshold=threshold,
            sigma_threshold=threshold,
            smallest_region=0.0,
            test_normalised_maps=maps,
        )

    return make
