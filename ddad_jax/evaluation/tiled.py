"""Running a detector over images that it sees tile by tile.

An image's map is the mean of its tiles' maps, weighted so that no seam shows, and its score the
maximum of that map. Memory holds the tiles of one batch and the map of one image.
"""

from collections.abc import Iterator
from itertools import groupby
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from scipy.special import expit

from ddad_jax.data.prepare import ImageSet
from ddad_jax.data.resize import scale_map
from ddad_jax.data.sample import NORMAL, Sample
from ddad_jax.data.tiled import TiledSource
from ddad_jax.data.tiling import Blend
from ddad_jax.detection.batching import batched, fitted_batch_size
from ddad_jax.detection.build import BuildSettings
from ddad_jax.detection.calibration import fit_threshold
from ddad_jax.detection.detect import compile_detect
from ddad_jax.detection.detector import Calibration, Detector
from ddad_jax.evaluation.originals import as_picture, for_showing, on_disk
from ddad_jax.evaluation.predictions import Predictions

# What is said of each tile, but for its map and its reconstruction.
FIGURES = ("scores", "noise_levels", "knn_distances", "reconstructed_knn_distances")


def predict_tiled(
    detector: Detector, source: TiledSource, tiles: ImageSet, batch_size: int
) -> Predictions:
    """What the detector says of every image, beside what is known of it.

    Noise level and distances are those of an image's tile with the highest score. Maps and masks
    have the images' resolution.

    Args:
      detector: its threshold is one for images, as `calibrate_on_images` makes it.
      source: of the tiles.
      tiles: all tiles of each image.
      batch_size: tiles at a time.
    """
    rows: dict[str, list[Any]] = {}
    for sample, found, layers in _detect_by_image(detector, source, tiles, batch_size):
        image = source.whole.read_image(sample)
        shown = for_showing(image)
        colours = [scale_map(layers[..., c], *shown.shape[:2]) for c in (1, 2, 3)]
        mask = source.whole.read_mask(sample)
        row = found | {
            "samples": sample,
            "labels": sample.label,
            "images": shown,
            "masks": np.broadcast_to(np.False_, image.shape[:2]) if mask is None else mask,
            "has_mask": sample.label == NORMAL or mask is not None,
            "scores": layers[..., 0].max(),
            "maps": on_disk(layers[..., 0]),
            "reconstructions": as_picture(colours),
        }
        for name, value in row.items():
            rows.setdefault(name, []).append(value)
    arrays = {name: np.array(rows.pop(name)) for name in ("labels", "has_mask", *FIGURES)}
    threshold = float(detector.calibration.threshold)
    return Predictions(
        samples=tuple(rows.pop("samples")),
        calibrated_scores=expit((arrays["scores"] - threshold) / detector.calibration.spread),
        decisions=arrays["scores"] > threshold,
        threshold=threshold,
        **arrays,
        **rows,
    )


def calibrate_on_images(
    detector: Detector, source: TiledSource, tiles: ImageSet, build: BuildSettings
) -> Calibration:
    """The detector's calibration with a threshold for images, where it had one for tiles.

    Args:
      detector: calibrated on tiles.
      source: of the tiles.
      tiles: all tiles of each normal image that no network or bank was fitted to.
      build: the false alarm rate, of images, and how many tiles are taken at a time.
    """
    images = _detect_by_image(detector, source, tiles, build.batch_size)
    scores = np.array([layers[..., 0].max() for _, _, layers in images], np.float64)
    threshold, spread = fit_threshold(scores, build.false_alarm_rate)
    return detector.calibration.replace(
        threshold=jnp.float32(threshold), spread=jnp.float32(spread)
    )


def _detect_by_image(
    detector: Detector, source: TiledSource, tiles: ImageSet, batch_size: int
) -> Iterator[tuple[Sample, dict[str, np.generic], Float[np.ndarray, "h w 4"]]]:
    """Each image, the figures of its tile with the highest score, its map and reconstruction."""
    found = zip(tiles.samples, _detect_tiles(detector, tiles, batch_size), strict=True)
    for sample, parts in groupby(found, lambda part: source.origins[part[0].name].sample):
        height, width = source.whole.read_image(sample).shape[:2]
        blend = Blend(height, width, source.overlap, channels=(4,))
        figures = []
        for tile, (tile_figures, tile_map, reconstruction) in parts:
            origin = source.origins[tile.name]
            layers = (tile_map, *np.moveaxis(reconstruction.astype(np.float32), -1, 0))
            scaled = np.dstack([scale_map(layer, source.tile, source.tile) for layer in layers])
            blend.add(origin.top, origin.left, scaled)
            figures.append(tile_figures)
        yield sample, max(figures, key=lambda each: each["scores"]), blend.mean()


def _detect_tiles(
    detector: Detector, tiles: ImageSet, batch_size: int
) -> Iterator[tuple[dict[str, np.generic], Float[np.ndarray, "h w"], np.ndarray]]:
    """The figures, the map and the reconstruction of each tile."""
    batch_size = fitted_batch_size(batch_size, len(tiles), detector.device_count)
    program = compile_detect(detector, batch_size)

    def detect_batch(batch):
        f = program(batch)
        figures = (f.score, f.noise_level, f.knn_distance, f.reconstructed_knn_distance)
        return *figures, f.anomaly_map, f.reconstruction

    for results in batched(detect_batch, tiles.images, batch_size, "detect"):
        for *figures, tile_map, reconstruction in zip(*results, strict=True):
            yield dict(zip(FIGURES, figures, strict=True)), tile_map, reconstruction
