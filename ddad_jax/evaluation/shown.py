"""How figures are named and rounded wherever people read them."""

NAMES = {
    "images": "images",
    "recall": "recall at threshold",
    "false_alarm_rate": "false-alarm rate",
    "image_auroc": "image AUROC",
    "image_ap": "image AP",
    "image_f1_max": "image F1-max",
    "pixel_auroc": "pixel AUROC",
    "pixel_ap": "pixel AP",
    "pixel_f1_max": "pixel F1-max",
    "aupro": "AUPRO (0.3)",
    "aupro_0.05": "AUPRO (0.05)",
    "normality_restored": "normality restored",
    "image_auroc_d3ad": "image AUROC, D3AD's code",
    "recall_d3ad": "recall, threshold from test labels",
    "false_alarm_rate_d3ad": "false-alarm rate, threshold from test labels",
    "pixel_auroc_d3ad": "pixel AUROC, D3AD's code",
    "pro_d3ad": "PRO, D3AD's code",
}
# The figures that protocol "paper" adds.
D3AD_FIGURES = tuple(name for name in NAMES if name.endswith("_d3ad"))

# What the figures of a protocol are, in one sentence.
PROTOCOL_NOTES = {
    "exact": "Protocol exact: masks binarised, per-region overlap by MVTec AD's definition.",
    "paper": (
        "Protocol paper: figures named after D3AD's code are computed as there, from maps "
        "normalised over the test set, a threshold chosen on the test labels, masks that are not "
        "binarised and an overlap curve of 200 rescaled thresholds; all others by MVTec AD's "
        "definition."
    ),
}


def shown(value: float | int | None) -> str:
    """Four decimals, a count as it is, a dash for what cannot be had."""
    if value is None:
        return "–"
    return str(value) if isinstance(value, int) else f"{value:.4f}"
