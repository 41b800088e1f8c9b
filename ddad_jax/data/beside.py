"""Images, each with its mask file beside it; the mask of a good image is empty."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from absl import logging

from ddad_jax.data.files import examples, name_of
from ddad_jax.data.read import read_mask
from ddad_jax.data.sample import ANOMALOUS, NORMAL, Sample
from ddad_jax.errors import UserError
from ddad_jax.machine.parallel import map_in_threads


@dataclass(frozen=True)
class Marked:
    """An image, its mask, and whether the mask marks anything."""

    image: Path
    mask: Path
    defective: bool


def read_marks(images: Sequence[Path], ending: str) -> list[Marked]:
    """Reads the mask of each image to see whether it marks a defect.

    Args:
        images: the images' files.
        ending: what follows the image's stem in the name of its mask.

    Raises:
        UserError: an image has no mask, or its mask cannot be read.
    """

    def read(image: Path) -> Marked:
        mask = image.with_name(f"{image.stem}{ending}")
        if not mask.is_file():
            raise UserError(
                f"{image}: has no mask '{mask.name}' beside it; download the data set again"
            )
        return Marked(image, mask, bool(read_mask(mask, "nonzero").any()))

    return [marked for _, marked in map_in_threads(read, images)]


def sample_of(
    marked: Marked, root: Path, category: str, split: str, group: str | None = None
) -> Sample:
    """Returns the sample of a marked image; the only kind of defect is called "defect"."""
    return Sample(
        name=name_of(marked.image, root),
        label=ANOMALOUS if marked.defective else NORMAL,
        defect="defect" if marked.defective else "good",
        split=split,
        category=category,
        group=group,
        image=marked.image,
        mask=marked.mask if marked.defective else None,
    )


def without_defects(samples: Sequence[Sample], root: Path) -> list[Sample]:
    """Returns the normal ones of training samples; the log counts the others."""
    normal = [sample for sample in samples if sample.label == NORMAL]
    left_out = [sample.name for sample in samples if sample.label != NORMAL]
    if left_out:
        logging.info(
            "%s: %d training images have a defect, and are left out: %s",
            root, len(left_out), examples(left_out),
        )  # fmt: skip
    return normal
