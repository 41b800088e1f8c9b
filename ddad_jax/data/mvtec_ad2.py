"""MVTec AD 2 (Heckler-Kram et al., arXiv 2503.21622), CC BY-NC-SA 4.0.

    <root>/<object>/train/good/NNN_regular.png
    <root>/<object>/validation/good/NNN_regular.png
    <root>/<object>/test_public/<good or bad>/NNN_<lighting>.png
    <root>/<object>/test_public/ground_truth/bad/NNN_<lighting>_mask.png
    <root>/<object>/test_private/NNN_regular.png
    <root>/<object>/test_private_mixed/NNN_mixed.png

Only MVTec's server, https://benchmark.mvtec.com, knows the labels of the private images.
Eight objects with 2,528 training, 302 validation, 1,084 public and twice 2,045 private images.
"""

from pathlib import Path

from ddad_jax.data.dataset import Dataset, folders_with
from ddad_jax.data.files import FileSource, name_of, require_category, require_images, require_root
from ddad_jax.data.layout import Layout, read_layout
from ddad_jax.data.sample import UNKNOWN, Sample
from ddad_jax.errors import UserError

OBJECTS = ("can", "fabric", "fruit_jelly", "rice", "sheet_metal", "vial", "wallplugs", "walnuts")
PUBLIC = "test_public"
# The test sets that MVTec's server evaluates.
PRIVATE = ("test_private", "test_private_mixed")
_LAYOUT = Layout(validation="validation/good", test=PUBLIC, masks=f"{PUBLIC}/ground_truth/{{kind}}")


def mvtec_ad2_source(root: str | Path, category: str, test: str = PUBLIC) -> FileSource:
    """Returns one object of MVTec AD 2; its validation images are held out.

    Args:
        root: the folder that holds the objects.
        category: one of them.
        test: the images to test on, "test_public", "test_private" or "test_private_mixed"; the
            labels of the last two are unknown.

    Raises:
        UserError: a folder is missing or empty, or a defective image has no mask.
    """
    if test not in (PUBLIC, *PRIVATE):
        raise UserError(
            f"data.settings.test: '{test}' is not one of {PUBLIC}, {', '.join(PRIVATE)}"
        )
    root = require_root(root)
    samples = read_layout(root, category, _LAYOUT)
    if test != PUBLIC:
        samples = (
            *(sample for sample in samples if sample.split == "train"),
            *private_samples(root, category, test),
        )
    return FileSource(category=category, samples=samples)


def private_samples(root: str | Path, category: str, test: str) -> list[Sample]:
    """Returns the images of a private test set, whose labels are unknown.

    Args:
        root: the folder that holds the objects.
        category: one of them.
        test: one of `PRIVATE`.

    Raises:
        UserError: the folder is missing or empty.
    """
    root = require_root(root)
    folder = require_category(root, category, test) / test
    return [
        Sample(
            name=name_of(path, root),
            label=UNKNOWN,
            defect="unknown",
            split="test",
            category=category,
            image=path,
        )
        for path in require_images(folder, "data.root", "Download the data set again.")
    ]


DATASET = Dataset("mvtec_ad2", "MVTec AD 2", mvtec_ad2_source, folders_with("train/good", PUBLIC))
