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
    "pro_d3ad": "PRO, D3AD's code",
    "pixel_auroc_d3ad": "pixel AUROC, D3AD's code",
}


def shown(value: float | int | None) -> str:
    """Four decimals, a count as it is, a dash for what cannot be had."""
    if value is None:
        return "–"
    return str(value) if isinstance(value, int) else f"{value:.4f}"
