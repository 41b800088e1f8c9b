"""The curves that a report and a paper show."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from ddad_jax.data.sample import ANOMALOUS, NORMAL
from ddad_jax.evaluation.aupro import (
    PRO_LIMIT,
    Maps,
    Masks,
    can_tell_apart,
    pro_curve,
    tell_apart,
)
from ddad_jax.evaluation.predictions import Predictions

PRO_POINTS = 200

Curve = tuple[Float[np.ndarray, " _points"], Float[np.ndarray, " _points"]]


@dataclass(frozen=True, eq=False)
class Curves:
    """Points (x, y) of each curve; None if the test set lacks what it compares.

    Attributes:
      roc: false-alarm rate and recall of images.
      precision_recall: recall and precision of images.
      pro: false positive rate of pixels, up to 0.3, and per-region overlap.
    """

    roc: Curve | None
    precision_recall: Curve | None
    pro: Curve | None


def compute_curves(predictions: Predictions) -> Curves:
    """Returns all points of the image curves, and enough of the overlap curve for a drawing."""
    # Imported late: it takes as long as everything else that the command line imports.
    from sklearn.metrics import precision_recall_curve, roc_curve

    p = predictions
    labelled = (p.labels == NORMAL) | (p.labels == ANOMALOUS)
    truth, scores = p.labels[labelled] == ANOMALOUS, p.scores[labelled]
    roc = precision_recall = None
    if truth.any() and not truth.all():
        roc = roc_curve(truth, scores, drop_intermediate=False)[:2]
        precision, recall, _ = precision_recall_curve(truth, scores)
        precision_recall = (recall[::-1].copy(), precision[::-1].copy())
    return Curves(roc, precision_recall, _drawn_pro(*p.measured(labelled)))


def _drawn_pro(maps: Maps, masks: Masks) -> Curve | None:
    if not can_tell_apart(masks):
        return None
    rates = PRO_LIMIT * np.linspace(0.0, 1.0, PRO_POINTS) ** 2
    overlaps = np.interp(rates, *pro_curve(tell_apart(maps, masks)))
    return np.append(0.0, rates), np.append(0.0, overlaps)
