"""KolektorSDD (Tabernik et al., Journal of Intelligent Manufacturing 2020), CC BY-NC-SA 4.0.

    <root>/kosNN/PartN.jpg
    <root>/kosNN/PartN_label.bmp      black where there is no defect

399 images of 50 commutators; 52 images are defective. The published splits have three folds, and
train on defects too; here all defective images are tested, together with a share of the others.
"""

from pathlib import Path

import numpy as np

from ddad_jax.data.beside import read_marks, sample_of
from ddad_jax.data.dataset import Dataset
from ddad_jax.data.files import FileSource, images_below, require_root
from ddad_jax.errors import UserError

_IMAGES = "kos*/Part*.jpg"
_ENDING = "_label.bmp"
_SPLIT_SEED = 0


def ksdd_source(
    root: str | Path, category: str = "", test_good_fraction: float = 0.2
) -> FileSource:
    """Returns KolektorSDD; images of one commutator count as images of one part.

    Args:
        root: the folder that holds kos01, kos02, ...
        category: names the results.
        test_good_fraction: the share of images without a defect that are test images; the choice
            is the same every time.

    Raises:
        UserError: there are no images, a mask is missing, or the share is out of range.
    """
    if not 0 < test_good_fraction < 1:
        raise UserError(
            f"data.settings.test_good_fraction: {test_good_fraction} is not between 0 and 1"
        )
    root = require_root(root)
    images = [path for path in images_below(root) if path.relative_to(root).match(_IMAGES)]
    if not images:
        raise UserError(
            f"data.root: '{root}' holds no {_IMAGES}; name the folder of kos01, kos02, …"
        )
    marked = read_marks(images, _ENDING)
    good = [row for row, each in enumerate(marked) if not each.defective]
    order = np.random.default_rng(_SPLIT_SEED).permutation(good)
    train = {*order[round(test_good_fraction * len(good)) :].tolist()}
    samples = [
        sample_of(
            each, root, category, "train" if row in train else "test", group=each.image.parent.name
        )
        for row, each in enumerate(marked)
    ]
    samples.sort(key=lambda sample: (sample.split != "train", sample.name))
    return FileSource(category, tuple(samples), mask_rule="nonzero")


def _find(root: Path) -> list[str]:
    return [""] if any(root.glob(f"kos*/Part*{_ENDING}")) else []


DATASET = Dataset("ksdd", "KolektorSDD", ksdd_source, _find)
