"""The evaluation of D3AD's official code in PyTorch, with the networks of one of our detectors.

Unlike ours, it passes over the test set twice, once for the range of the maps and once for the maps
themselves; in each pass it runs the extractor three times per image; and its overlap curve labels
the regions of every mask again for each of 200 thresholds. To be fair to it, it has one copy of the
autoencoder, no copies to the CPU between steps, and no ranges over training images.
"""

from collections.abc import Iterator
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from PIL import Image
from scipy import ndimage
from sklearn.metrics import auc, roc_auc_score

from ddad_jax.peers.torch_pipeline import Pipeline

BATCH_SIZE = 16
THRESHOLDS, LIMIT = 200, 0.3

Batch = tuple[np.ndarray, np.ndarray, np.ndarray]


def evaluate(peer: Pipeline, category: Path, output: Path) -> dict[str, float]:
    """Evaluates a folder of MVTec AD: returns metrics, and writes pictures.

    Args:
      peer: the pipeline.
      category: a folder that holds `test` and `ground_truth`.
      output: the folder for a picture of every test image.
    """
    size = peer.settings.image_size
    lowest, highest = np.inf, -np.inf
    for images, _, _ in _batches(category, size):
        heat = peer.detect(images)["heat_map"]
        lowest, highest = min(lowest, heat.min()), max(highest, heat.max())
    all_maps: list[np.ndarray] = []
    all_masks: list[np.ndarray] = []
    all_labels: list[np.ndarray] = []
    output.mkdir(parents=True, exist_ok=True)
    for images, masks, labels in _batches(category, size):
        found = peer.detect(images)
        maps = (found["heat_map"] - lowest) / (highest - lowest)
        for row in range(len(images)):
            name = output / f"{len(all_maps) * BATCH_SIZE + row}.png"
            _picture(name, images[row], found["reconstruction"][row], masks[row], maps[row])
        all_maps.append(maps)
        all_masks.append(masks)
        all_labels.append(labels)
    maps, masks, labels = (np.concatenate(each) for each in (all_maps, all_masks, all_labels))
    return {
        "image_auroc": roc_auc_score(labels, maps.max((1, 2))),
        "pixel_auroc": roc_auc_score((masks > 0).ravel(), maps.ravel()),
        "pro": overlap(maps, masks == 1),
    }


def _batches(category: Path, size: int) -> Iterator[Batch]:
    """Yields images as uint8, masks in [0, 1] resized without being binarised, and labels."""
    paths = sorted((category / "test").glob("*/*.png"))
    for start in range(0, len(paths), BATCH_SIZE):
        images, masks, labels = [], [], []
        for path in paths[start : start + BATCH_SIZE]:
            image = Image.open(path).convert("RGB").resize((size, size), Image.Resampling.BILINEAR)
            images.append(np.asarray(image))
            mask = category / "ground_truth" / path.parent.name / f"{path.stem}_mask.png"
            good = path.parent.name == "good"
            labels.append(int(not good))
            masks.append(np.zeros((size, size)) if good else _mask(mask, size))
        yield np.stack(images), np.stack(masks), np.array(labels)


def _mask(path: Path, size: int) -> np.ndarray:
    mask = Image.open(path).convert("L").resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(mask) / 255.0


def overlap(maps: np.ndarray, masks: np.ndarray) -> float:
    """Returns the area under the per-region overlap, as the official code computes it."""
    low, high = maps.min(), maps.max()
    overlaps, rates = [], []
    for threshold in np.arange(low, high, (high - low) / THRESHOLDS):
        found = maps > threshold
        shares = []
        for one, mask in zip(found, masks, strict=True):
            labelled, regions = ndimage.label(mask, np.ones((3, 3)))
            for region in range(1, regions + 1):
                rows, columns = np.nonzero(labelled == region)
                shares.append(one[rows, columns].sum() / len(rows))
        overlaps.append(np.mean(shares))
        normal = ~masks
        rates.append(np.logical_and(normal, found).sum() / normal.sum())
    inside = np.array(rates) < LIMIT
    kept = np.array(rates)[inside]
    return auc(kept / kept.max(), np.array(overlaps)[inside])


def _picture(
    path: Path, image: np.ndarray, reconstruction: np.ndarray, mask: np.ndarray, heat: np.ndarray
) -> None:
    figure = Figure(figsize=(11, 3))
    panels = figure.subplots(1, 4)
    shown = (image, (reconstruction + 1.0) / 2.0, mask, heat)
    for axes, each in zip(panels, shown, strict=True):
        axes.imshow(each, cmap=matplotlib.colormaps["viridis"], vmin=0, vmax=1)
        axes.axis("off")
    figure.savefig(path)
