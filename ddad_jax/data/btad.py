"""BeanTech Anomaly Detection (Mishra et al., ISIE 2021).

    <root>/<01, 02 or 03>/train/ok/*
    <root>/<01, 02 or 03>/test/<ok or ko>/*
    <root>/<01, 02 or 03>/ground_truth/ko/*      with the image's stem

Images are BMP in 01 and 03, PNG in 02; masks are PNG in 01 and 02, BMP in 03.
"""

from pathlib import Path

from ddad_jax.data.dataset import Dataset, folders_with
from ddad_jax.data.files import FileSource, require_root
from ddad_jax.data.layout import Layout, read_layout


def btad_source(root: str | Path, category: str) -> FileSource:
    """Returns one product of BTAD; its only kind of defect is called "ko".

    Args:
        root: the folder that holds 01, 02 and 03.
        category: one of them.

    Raises:
        UserError: a folder is missing or empty, or a defective image has no mask.
    """
    samples = read_layout(require_root(root), category, Layout(train="train/ok"))
    return FileSource(category=category, samples=samples)


DATASET = Dataset("btad", "BTAD", btad_source, folders_with("train/ok"))
