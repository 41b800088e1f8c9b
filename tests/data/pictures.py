"""Small pictures and folders of them, for tests."""

from pathlib import Path

import numpy as np
from PIL import Image


def picture(seed: int = 0, width: int = 24, height: int = 20) -> np.ndarray:
    """A smooth colour picture, so that lossy formats keep it."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (3, 3, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BILINEAR))


def save(pixels: np.ndarray, path: Path, **options) -> Path:
    """Writes pixels to a file, making its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path


def square_mask(width: int = 24, height: int = 20, value: int = 255) -> np.ndarray:
    """A mask whose upper left quarter is marked."""
    mask = np.zeros((height, width), np.uint8)
    mask[: height // 2, : width // 2] = value
    return mask


def make_mvtec(root: Path, category: str = "plate") -> Path:
    """A data set in the layout of MVTec AD: 3 train, 2 good and 2 + 1 defective test images."""
    home = root / category
    for index in range(3):
        save(picture(index), home / f"train/good/{index:03d}.png")
    for index in range(2):
        save(picture(10 + index), home / f"test/good/{index:03d}.png")
    for defect, count in (("dent", 2), ("scratch", 1)):
        for index in range(count):
            save(picture(20 + index), home / f"test/{defect}/{index:03d}.png")
            save(square_mask(), home / f"ground_truth/{defect}/{index:03d}_mask.png")
    return root
