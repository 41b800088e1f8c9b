"""Measures how well scores tell anomalous from normal: AUROC, average precision, F1-max.

The results are exact, ties included. They are computed at the anomalous scores only, where all
bends of the curves are; so millions of normal pixels and few defective ones take little time.
"""

import numpy as np
from jaxtyping import Float


def binary_figures(
    prefix: str, normal: Float[np.ndarray, " k"], anomalous: Float[np.ndarray, " m"]
) -> dict[str, float]:
    """Returns AUROC, average precision, and the largest F1 with the threshold that reaches it.

    Args:
      prefix: "image" or "pixel"; the metrics are named after it.
      normal: scores of the normal ones, ascending; at least one.
      anomalous: scores of the anomalous ones, at least one; higher is more anomalous, and a score
        at or above the threshold counts as found.
    """
    thresholds, counts = np.unique(anomalous, return_counts=True)
    below = np.searchsorted(normal, thresholds, side="left")
    equal = np.searchsorted(normal, thresholds, side="right") - below
    found = np.cumsum(counts[::-1])[::-1]
    alarms = len(normal) - below
    precision = found / (found + alarms)
    f1 = 2 * found / (found + alarms + len(anomalous))
    best = int(np.argmax(f1))
    return {
        f"{prefix}_auroc": float(counts @ (below + 0.5 * equal) / len(normal) / len(anomalous)),
        f"{prefix}_ap": float(counts @ precision / len(anomalous)),
        f"{prefix}_f1_max": float(f1[best]),
        f"{prefix}_f1_max_threshold": float(thresholds[best]),
    }
