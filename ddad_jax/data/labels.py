"""The words that label images, in one table for the folders and manifests of all sources.

Case, spaces and punctuation do not count: "Non-Defective" is "nondefective".
"""

import re

from ddad_jax.data.sample import ANOMALOUS, NORMAL, UNKNOWN

NORMAL_WORDS = (
    "good", "ok", "okay", "io", "pass", "passed", "normal", "nominal", "clean", "intact",
    "nondefective", "defectfree", "nodefect", "nodefects", "undamaged",
)  # fmt: skip
ANOMALOUS_WORDS = (
    "bad", "ng", "ko", "nok", "nio", "notok", "notgood", "fail", "failed", "reject", "rejected",
    "anomaly", "anomalous", "abnormal", "defect", "defects", "defective", "faulty", "damaged",
)  # fmt: skip
UNKNOWN_WORDS = ("unknown", "unlabelled", "unlabeled")
LABELS = {
    **dict.fromkeys(NORMAL_WORDS, NORMAL),
    **dict.fromkeys(ANOMALOUS_WORDS, ANOMALOUS),
    **dict.fromkeys(UNKNOWN_WORDS, UNKNOWN),
}


def label_of(word: str) -> int | None:
    """Returns 0 for normal, 1 for anomalous, -1 for unknown; None if the word is not known."""
    return LABELS.get(re.sub(r"[\W_]", "", word.casefold()))


def is_normal(name: str) -> bool:
    """Whether a folder or a kind of defect with this name is of good images."""
    return label_of(name) == NORMAL
