"""Published metrics, in percent, to compare with those of a run. None: not published."""

from dataclasses import dataclass

ONE_EACH = "one model a category"
TUNED = "one model a category, settings chosen per category"
ALL_IN_ONE = "one model for all categories"


@dataclass(frozen=True)
class Published:
    """What a paper or its code's README reports as the mean over a benchmark's categories.

    Attributes:
      method: the name of the method.
      image_auroc, pixel_auroc, pro: the figures.
      protocol: how many models there are, and how their settings were chosen.
      source: where it is reported.
      own_pro: whether PRO is computed by the code of D3AD and DDAD, not as MVTec AD defines it.
    """

    method: str
    image_auroc: float
    pixel_auroc: float | None
    pro: float | None
    protocol: str
    source: str
    own_pro: bool = False


@dataclass(frozen=True)
class Benchmark:
    """A data set, and what is published on it.

    Attributes:
      name: its name for readers.
      categories: how many it has.
      means: the means of each method.
      d3ad: image AUROC and PRO of D3AD on each category, by its own code.
    """

    name: str
    categories: int
    means: tuple[Published, ...]
    d3ad: dict[str, tuple[float, float]]


BENCHMARKS = {
    "mvtec": Benchmark(
        "MVTec AD",
        15,
        (
            Published("DDAD", 99.8, 98.1, 92.3, TUNED, "its README", own_pro=True),
            Published("PatchCore, WideResNet-50", 99.2, 98.1, 94.4, ONE_EACH, "its README"),
            Published("EfficientAD-M", 99.1, None, 93.5, ONE_EACH, "nelson1425/EfficientAD"),
            Published("GLASS", 99.9, 99.3, None, ONE_EACH, "its README"),
            Published("TransFusion", 99.4, None, 95.3, ONE_EACH, "its README"),
            Published("Dinomaly-B", 99.6, 98.4, None, ALL_IN_ONE, "its README"),
            Published("DeCo-Diff", 99.2, 98.8, 95.1, ALL_IN_ONE, "its README"),
        ),
        {},
    ),
    "visa": Benchmark(
        "VisA",
        12,
        (
            Published("D3AD", 96.0, 97.9, 94.1, TUNED, "arXiv 2401.04463", own_pro=True),
            Published("DDAD", 98.9, 97.6, 92.7, TUNED, "its README", own_pro=True),
            Published("PatchCore, WideResNet-50", 95.1, None, 91.2, ONE_EACH, "D3AD, table 1"),
            Published("EfficientAD-M", 98.1, None, None, ONE_EACH, "nelson1425/EfficientAD"),
            Published("GLASS", 98.8, 98.8, None, ONE_EACH, "its README"),
            Published("TransFusion", 98.7, None, 94.7, ONE_EACH, "its README"),
            Published("Dinomaly-B", 98.7, None, None, ALL_IN_ONE, "its README"),
            Published("DeCo-Diff", 96.2, 98.3, 91.5, ALL_IN_ONE, "its README"),
        ),
        {
            "candle": (95.6, 92.7),
            "capsules": (88.5, 95.7),
            "cashew": (94.2, 89.4),
            "chewinggum": (99.7, 94.1),
            "fryum": (96.5, 91.7),
            "macaroni1": (94.3, 99.3),
            "macaroni2": (92.5, 98.3),
            "pcb1": (97.7, 96.4),
            "pcb2": (98.3, 94.0),
            "pcb3": (97.4, 94.2),
            "pcb4": (99.8, 86.4),
            "pipe_fryum": (96.9, 97.2),
        },
    ),
    "btad": Benchmark(
        "BTAD",
        3,
        (
            Published("D3AD", 95.2, None, 83.2, TUNED, "arXiv 2401.04463", own_pro=True),
            Published("FastFlow", 91.0, None, 71.4, ONE_EACH, "D3AD, table 3"),
            Published("CFA", 94.2, None, 73.1, ONE_EACH, "D3AD, table 3"),
            Published("PatchCore", 92.7, None, 60.0, ONE_EACH, "D3AD, table 3"),
            Published("RD4AD", 94.3, None, 77.1, ONE_EACH, "D3AD, table 3"),
            Published("RD++", 95.6, None, 77.3, ONE_EACH, "D3AD, table 3"),
        ),
        {"01": (98.9, 80.0), "02": (87.0, 71.7), "03": (99.7, 97.8)},
    ),
    "real_iad": Benchmark(
        "Real-IAD",
        30,
        (Published("Dinomaly-B", 89.3, None, None, ALL_IN_ONE, "arXiv 2405.14325"),),
        {},
    ),
}
