"""Seconds an image from pixels to heat map, ours and PyTorch's, alternating.

    python -m benchmarks.detect --batch_sizes=16,1 --repeats=7

The outputs are compared first. "paper" does what PyTorch does; "fused" adds the nearest-patch
distances, which the official code has not.
"""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import torch
from absl import app, flags

from benchmarks.networks import drawn, small
from benchmarks.timing import alternate, summary
from benchmarks.torch_pipeline import Pipeline
from ddad_jax.detection.build import BuildSettings, build_detector
from ddad_jax.detection.detect import detect
from ddad_jax.detection.detector import Detector, Settings
from ddad_jax.diffusion.schedule import linear_alpha_bar

BATCH_SIZES = flags.DEFINE_list("batch_sizes", ["16", "1"], "Images at a time.")
REPEATS = flags.DEFINE_integer("repeats", 7, "Rounds of the alternation.")
DTYPE = flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16"], "Our compute type.")
BANK = flags.DEFINE_integer("bank", 200, "Training images of the k-NN bank.")

# Largest difference of two heat maps, as a share of their range.
TOLERANCE = {"float32": 1e-3, "bfloat16": 0.1}


def make_detector(dtype: str, bank: int, scoring: str) -> Detector:
    """A detector of drawn weights, its banks and calibration of drawn images."""
    networks = small(dtype)
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (40, 16, 16, 3), np.uint8)
    images = coarse.repeat(16, 1).repeat(16, 2)
    channels = networks.autoencoder.latent_channels
    detector = build_detector(
        networks,
        Settings(scoring=scoring),
        BuildSettings(patch_bank_size=8192, patch_candidates=16384, calibration_size=0),
        autoencoder=drawn(networks.autoencoder, 0),
        denoiser=drawn(networks.denoiser, 2),
        extractor=drawn(networks.extractor, 4),
        latent_shift=jnp.zeros(channels),
        latent_scale=jnp.ones(channels),
        alpha_bar=jnp.asarray(linear_alpha_bar(0.0015, 0.0195, 1000)),
        train_images=images[:32],
        train_parts=np.arange(32),
        heldout_images=images[32:],
        seed=0,
    )
    # What the search costs depends on the number of rows, not on what they hold.
    return detector.replace(bank=jnp.resize(detector.bank, (bank, detector.bank.shape[1])))


def require_agreement(detector: Detector, peer: Pipeline, images: np.ndarray, dtype: str) -> None:
    """Checks that both sides compute the same.

    Raises:
      SystemExit: they do not.
    """
    ours, theirs = detect(detector, images), peer.detect(images)
    if not np.array_equal(ours.noise_level, theirs["noise_level"]):
        raise SystemExit("the noise levels differ")
    difference = np.abs(np.asarray(ours.anomaly_map) - theirs["heat_map"]).max()
    share = difference / np.ptp(theirs["heat_map"])
    print(f"heat maps differ by at most {share:.1e} of their range")
    if share > TOLERANCE[dtype]:
        raise SystemExit(f"more than the {TOLERANCE[dtype]:.0e} allowed")


def main(argv: list[str]) -> None:
    """Compares, then times."""
    del argv
    fused = make_detector(DTYPE.value, BANK.value, "fused")
    paper = fused.replace(settings=dataclasses.replace(fused.settings, scoring="paper"))
    peer = Pipeline(paper)
    print(f"{DTYPE.value}; PyTorch {torch.__version__} with {torch.get_num_threads()} threads; "
          f"JAX {jax.__version__} on {jax.devices()}")  # fmt: skip
    rng = np.random.default_rng(1)
    for batch_size in map(int, BATCH_SIZES.value):
        coarse = rng.integers(0, 256, (batch_size, 16, 16, 3), np.uint8)
        images = coarse.repeat(16, 1).repeat(16, 2)
        print(f"\nbatch size {batch_size}")
        require_agreement(paper, peer, images, DTYPE.value)
        contenders = {
            "PyTorch": partial(peer.detect, images),
            "ddad_jax, paper": lambda: jax.block_until_ready(detect(paper, images)),  # noqa: B023
            "ddad_jax, fused": lambda: jax.block_until_ready(detect(fused, images)),  # noqa: B023
        }
        seconds = alternate(contenders, REPEATS.value)
        print(summary(seconds, "PyTorch", batch_size, "image"))


if __name__ == "__main__":
    app.run(main)
