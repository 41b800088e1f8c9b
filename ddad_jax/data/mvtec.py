"""The layout of MVTec AD (Bergmann et al., CVPR 2019).

<root>/<category>/train/good/NNN.png
<root>/<category>/test/<good or defect>/NNN.png
<root>/<category>/ground_truth/<defect>/NNN_mask.png
"""

from pathlib import Path

from ddad_jax.data.dataset import Dataset, folders_with
from ddad_jax.data.files import FileSource, require_root
from ddad_jax.data.layout import Layout, read_layout


def mvtec_source(
    root: str | Path, category: str, group_pattern: str = "", mask_rule: str = "auto"
) -> FileSource:
    """Returns one category of a data set in the layout of MVTec AD.

    Args:
        root: the folder that holds the categories.
        category: the product, a folder in `root`.
        group_pattern: finds the part that an image shows in its file name; see `files.group_of`.
        mask_rule: how masks are read; see `read`.

    Raises:
        UserError: a folder is missing or empty, or a kind of defect has masks for some images only.
    """
    samples = read_layout(require_root(root), category, Layout(), group_pattern)
    return FileSource(category=category, samples=samples, mask_rule=mask_rule)


DATASET = Dataset("mvtec", "MVTec AD", mvtec_source, folders_with("train/good"), shared=True)
