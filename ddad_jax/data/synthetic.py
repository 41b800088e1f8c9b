"""Generated machined parts with defects at every scale and exact masks.

Every image has its own random stream, given by seed, split, kind and index, so that it does not
depend on the order and number of the others.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image
from scipy import ndimage
from tqdm import tqdm

from ddad_jax.data.dataset import Dataset
from ddad_jax.data.defects import DEFECTS, draw_missing, paint_defect
from ddad_jax.data.machined_part import DESIGNS, draw_part, paint_part, photograph
from ddad_jax.data.sample import ANOMALOUS, NORMAL, Sample
from ddad_jax.errors import UserError

# Part of the digest: raise it whenever the pictures change.
_VERSION = 1
# The smallest difference from the faultless part, in levels of 255, that counts as a defect.
VISIBLE = 6


@dataclass(frozen=True)
class SyntheticSource:
    """Parts drawn when they are read; the settings are those of `synthetic_source`."""

    category: str
    image_size: int
    num_train: int
    num_test_good: int
    num_test_per_defect: int
    seed: int
    variation: float
    design: str

    @cached_property
    def samples(self) -> tuple[Sample, ...]:
        """Training parts, good test parts, then each kind of defect."""
        counts = [("train", "good", self.num_train), ("test", "good", self.num_test_good)]
        counts += [("test", defect, self.num_test_per_defect) for defect in DEFECTS]
        return tuple(
            Sample(
                name=f"{split}/{defect}/{index:04d}",
                label=NORMAL if defect == "good" else ANOMALOUS,
                defect=defect,
                split=split,
                category=self.category,
            )
            for split, defect, count in counts
            for index in range(count)
        )

    def read_image(self, sample: Sample) -> UInt8[np.ndarray, "h w 3"]:
        """Draws the part."""
        return self._draw(sample)[0]

    def read_mask(self, sample: Sample) -> Bool[np.ndarray, "h w"] | None:
        """Returns where the picture visibly differs from one without the defect; None if good."""
        if sample.label == NORMAL:
            return None
        return visible_difference(*self._draw(sample))

    def digest(self, sample: Sample) -> str:
        """Returns the settings that the picture depends on, as text."""
        return (
            f"{_VERSION} {self.image_size} {self.seed} {self.variation} {self.design} {sample.name}"
        )

    def _draw(
        self, sample: Sample
    ) -> tuple[UInt8[np.ndarray, "h w 3"], UInt8[np.ndarray, "h w 3"]]:
        """Returns the part's picture, and that of the same part without the defect."""
        kind = ("good", *DEFECTS).index(sample.defect)
        index = int(sample.name.rsplit("/", 1)[1])
        part_rng, defect_rng = np.random.default_rng(
            [self.seed, sample.split == "test", kind, index]
        ).spawn(2)
        part, design = draw_part(part_rng, self.image_size, self.variation), DESIGNS[self.design]
        board = paint_part(part, design)
        faultless = image = photograph(part, board)
        if sample.defect == "missing_component":
            image = photograph(part, paint_part(part, design, draw_missing(defect_rng)))
        elif sample.label != NORMAL:
            paint_defect(board, sample.defect, defect_rng)
            image = photograph(part, board)
        return image, faultless


def synthetic_source(
    root: str | Path = "",
    category: str = "",
    image_size: int = 256,
    num_train: int = 200,
    num_test_good: int = 40,
    num_test_per_defect: int = 20,
    seed: int = 0,
    variation: float = 1.0,
    design: str = "aluminium",
) -> SyntheticSource:
    """Returns machined parts: good ones to train on, good and defective ones to test on.

    Args:
        root: not used, since nothing is read from disk.
        category: names the results; "" for "machined_part".
        image_size: side of the square images, in pixels.
        num_train: number of good training parts.
        num_test_good: number of good test parts.
        num_test_per_defect: number of test parts of each of the four kinds in `DEFECTS`.
        seed: of everything that is drawn.
        variation: of pose and light; 1 is usual, at 0 they are always the same.
        design: "aluminium" or "anodised".

    Raises:
        UserError: a setting is out of range.
    """
    counts = {
        "num_train": num_train,
        "num_test_good": num_test_good,
        "num_test_per_defect": num_test_per_defect,
        "seed": seed,
        "variation": variation,
    }
    for name, value in counts.items():
        if value < 0:
            raise UserError(f"data.settings.{name}: {value} is negative")
    if design not in DESIGNS:
        raise UserError(f"data.settings.design: '{design}' is not one of {', '.join(DESIGNS)}")
    if num_train < 1:
        raise UserError("data.settings.num_train: 0 good parts to train on; at least 1 is needed")
    if image_size < 32:
        raise UserError(
            f"data.settings.image_size: {image_size} pixels show no part; use 32 or more"
        )
    return SyntheticSource(
        category=category or "machined_part",
        image_size=image_size,
        num_train=num_train,
        num_test_good=num_test_good,
        num_test_per_defect=num_test_per_defect,
        seed=seed,
        variation=variation,
        design=design,
    )


def visible_difference(
    image: UInt8[np.ndarray, "h w 3"], faultless: UInt8[np.ndarray, "h w 3"]
) -> Bool[np.ndarray, "h w"]:
    """Returns where an image visibly differs from one without its defect, small gaps closed."""
    difference = np.abs(image.astype(np.int16) - faultless).max(axis=2)
    return ndimage.binary_closing(np.pad(difference >= VISIBLE, 2), np.ones((3, 3)))[2:-2, 2:-2]


def write_mvtec(source: SyntheticSource, root: str | Path) -> Path:
    """Writes the parts as PNG files in the layout of MVTec AD; returns the category's folder.

    Raises:
        UserError: the folder cannot be written.
    """
    home = Path(root) / source.category
    try:
        for sample in tqdm(source.samples, desc="write parts", unit="image", disable=None):
            _save(source.read_image(sample), home / f"{sample.name}.png")
            mask = source.read_mask(sample)
            if mask is not None:
                name = f"{Path(sample.name).name}_mask.png"
                _save(mask.astype(np.uint8) * 255, home / "ground_truth" / sample.defect / name)
    except OSError as error:
        raise UserError(f"{home}: cannot be written ({error.strerror})") from error
    return home


def _save(pixels: np.ndarray, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


DATASET = Dataset("synthetic", "generated parts", synthetic_source)
