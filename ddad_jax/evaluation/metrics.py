"""The figures of an evaluation.

A figure that cannot be had, because the test set lacks what it compares, is None, and `undefined`
says why.
"""

from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

from ddad_jax.data.sample import ANOMALOUS, NORMAL
from ddad_jax.evaluation.aupro import area_up_to, pro_curve
from ddad_jax.evaluation.predictions import Predictions

IMAGE_FIGURES = ("image_auroc", "image_ap", "image_f1_max", "image_f1_max_threshold")
PIXEL_FIGURES = (
    "pixel_auroc", "pixel_ap", "pixel_f1_max", "pixel_f1_max_threshold", "aupro", "aupro_0.05",
)  # fmt: skip
PRO_LIMIT, STRICT_PRO_LIMIT = 0.3, 0.05


def binary_figures(
    prefix: str, truth: Bool[np.ndarray, " n"], scores: Float[np.ndarray, " n"]
) -> dict[str, float]:
    """AUROC, average precision, and the largest F1 with the threshold that reaches it.

    Args:
      prefix: "image" or "pixel"; the figures are named after it.
      truth: which are anomalous; both kinds must occur.
      scores: higher is more anomalous; at or above the threshold counts as found.
    """
    precision, recall, thresholds = precision_recall_curve(truth, scores)
    f1 = 2 * precision * recall / np.maximum(precision + recall, np.finfo(float).tiny)
    best = int(np.argmax(f1[:-1]))
    return {
        f"{prefix}_auroc": float(roc_auc_score(truth, scores)),
        f"{prefix}_ap": float(average_precision_score(truth, scores)),
        f"{prefix}_f1_max": float(f1[best]),
        f"{prefix}_f1_max_threshold": float(thresholds[best]),
    }


def pixel_figures(
    maps: Float[np.ndarray, "n h w"], masks: Bool[np.ndarray, "n h w"]
) -> dict[str, float]:
    """The binary figures over all pixels, and AUPRO up to 0.3 and to 0.05."""
    curve = pro_curve(maps, masks)
    return binary_figures("pixel", masks.ravel(), maps.ravel()) | {
        "aupro": area_up_to(*curve, PRO_LIMIT),
        "aupro_0.05": area_up_to(*curve, STRICT_PRO_LIMIT),
    }


def compute_metrics(predictions: Predictions) -> dict[str, Any]:
    """All figures of one category, ready for JSON.

    Returns:
      The figures of `binary_figures` for images and pixels, AUPRO, what the calibrated threshold
      does (`decision`), the same for each defect type against all normal images (`per_defect`),
      counts, and `undefined`: the reason for every figure that is None.
    """
    p = predictions
    normal, anomalous = p.labels == NORMAL, p.labels == ANOMALOUS
    undefined: dict[str, str] = {}
    metrics: dict[str, Any] = {
        "counts": {
            "normal": int(normal.sum()),
            "anomalous": int(anomalous.sum()),
            "unlabelled": int((~normal & ~anomalous).sum()),
            "with_mask": int((anomalous & p.has_mask).sum()),
        },
        "threshold": p.threshold,
    }
    metrics |= _against_normal(p, normal, anomalous, undefined)
    metrics["decision"] = _decisions(p, normal, anomalous)
    metrics["per_defect"] = {
        defect: _against_normal(p, normal, chosen, {})
        | {"images": int(chosen.sum()), "recall": float(p.decisions[chosen].mean())}
        for defect, chosen in _defects(p, anomalous).items()
    }
    metrics["undefined"] = undefined
    return metrics


def _against_normal(
    p: Predictions,
    normal: Bool[np.ndarray, " n"],
    anomalous: Bool[np.ndarray, " n"],
    undefined: dict[str, str],
) -> dict[str, float | None]:
    """The figures of some anomalous images against all normal ones."""
    figures: dict[str, float | None] = dict.fromkeys((*IMAGE_FIGURES, *PIXEL_FIGURES))
    missing = [
        f"the test set holds no {kind} image"
        for kind, chosen in (("normal", normal), ("anomalous", anomalous))
        if not chosen.any()
    ]
    if missing:
        undefined |= dict.fromkeys(IMAGE_FIGURES, missing[0])
    else:
        labelled = normal | anomalous
        figures |= binary_figures("image", anomalous[labelled], p.scores[labelled])

    masked = (normal | anomalous) & p.has_mask
    masks = p.masks[masked]
    if not masks.any() or masks.all():
        reason = "no test image has a mask" if not masks.any() else "the masks cover every pixel"
        undefined |= dict.fromkeys(PIXEL_FIGURES, reason)
    else:
        figures |= pixel_figures(p.maps[masked], masks)
    return figures


def _decisions(
    p: Predictions, normal: Bool[np.ndarray, " n"], anomalous: Bool[np.ndarray, " n"]
) -> dict[str, float | int | None]:
    """What the threshold, chosen without test labels, does to the test set."""
    found, alarms = int(p.decisions[anomalous].sum()), int(p.decisions[normal].sum())
    return {
        "true_positives": found,
        "false_negatives": int(anomalous.sum()) - found,
        "false_positives": alarms,
        "true_negatives": int(normal.sum()) - alarms,
        "recall": found / int(anomalous.sum()) if anomalous.any() else None,
        "false_alarm_rate": alarms / int(normal.sum()) if normal.any() else None,
    }


def _defects(
    p: Predictions, anomalous: Bool[np.ndarray, " n"]
) -> dict[str, Bool[np.ndarray, " n"]]:
    names = np.array([sample.defect for sample in p.samples])
    return {str(name): anomalous & (names == name) for name in np.unique(names[anomalous])}
