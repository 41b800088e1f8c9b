"""The table of docs/experiments.md: what thresholds from few scores do to new good images.

python -m tests.detection.threshold_table
"""

import numpy as np
from scipy import stats

from ddad_jax.detection.threshold import promised_rate
from tests.detection.test_threshold import DISTRIBUTIONS, false_alarms

COUNTS = (2, 3, 4, 5, 7, 10, 15, 20, 30, 60, 100, 300, 999)


def main() -> None:
    print("| scores | promised | " + " | ".join(DISTRIBUTIONS) + " | cost |")
    print("|---" * (3 + len(DISTRIBUTIONS)) + "|")
    for count in COUNTS:
        promised = promised_rate(count, 0.01)
        cells = [str(count), "nothing" if promised == 1.0 else f"{100 * promised:.1f} %"]
        repeats = 3000 if count < 100 else 1000
        for distribution in DISTRIBUTIONS.values():
            seen, _ = false_alarms(distribution, count, 0.01, repeats)
            cells.append(f"{100 * seen:.1f} %")
        _, thresholds = false_alarms(DISTRIBUTIONS["Gumbel"], count, 0.01, repeats)
        median = stats.gumbel_r.ppf(0.5)
        cells.append(
            f"{(np.median(thresholds) - median) / (stats.gumbel_r.isf(0.01) - median):.2f}"
        )
        print("| " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
