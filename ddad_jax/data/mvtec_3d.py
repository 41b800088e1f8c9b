"""The colour images of MVTec 3D-AD (Bergmann et al., VISAPP 2022), CC BY-NC-SA 4.0.

    <root>/<category>/train/good/rgb/NNN.png
    <root>/<category>/validation/good/rgb/NNN.png
    <root>/<category>/test/<good or defect>/rgb/NNN.png
    <root>/<category>/test/<good or defect>/gt/NNN.png

The depth of each pixel, in the folders xyz, is not used. Ten categories with 2,656 training, 294
validation and 1,197 test images.
"""

from pathlib import Path

from ddad_jax.data.dataset import Dataset, folders_with
from ddad_jax.data.files import FileSource, require_root
from ddad_jax.data.layout import Layout, read_layout

_LAYOUT = Layout(
    train="train/good/rgb",
    validation="validation/good/rgb",
    masks="test/{kind}/gt",
    images="rgb",
)


def mvtec_3d_source(root: str | Path, category: str) -> FileSource:
    """Returns one category of MVTec 3D-AD in colour; its validation images are held out.

    Args:
        root: the folder that holds the categories.
        category: a folder in `root`.

    Raises:
        UserError: a folder is missing or empty, or a defective image has no mask.
    """
    samples = read_layout(require_root(root), category, _LAYOUT)
    return FileSource(category=category, samples=samples)


DATASET = Dataset("mvtec_3d", "MVTec 3D-AD", mvtec_3d_source, folders_with("train/good/rgb"))
