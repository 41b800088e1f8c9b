"""A run of the least size: twelve grey pictures of 32², and networks with hardly any layers."""

import numpy as np
import pytest
from PIL import Image

from ddad_jax.experiment.config import default_config, override, read_config
from ddad_jax.experiment.opening import open_categories, open_subjects
from ddad_jax.experiment.trained import Trained
from tests.tiny import drawn

LEAST = (
    "data.source=folder", "data.size=32", "data.heldout_fraction=0.25",
    "autoencoder.name=pixels", "autoencoder.latent_scale=0",
    "denoiser.network={'base_channels': 32, 'channel_multipliers': (1,), 'num_res_blocks': 1,"
    " 'attention_resolutions': (), 'num_heads': 1}",
    "denoiser.training.validate_every=2", "extractor.name=efficientnet_lite0",
    "extractor.network.depth=0.25", "build.calibration_size=0", "build.patch_bank_size=16",
    "build.planted=0",
)  # fmt: skip


@pytest.fixture(scope="module")
def open_category(tmp_path_factory):
    """Function: assignments -> the category of the twelve pictures, in a folder of its own."""
    photographs = tmp_path_factory.mktemp("photographs")
    rng = np.random.default_rng(0)
    for number in range(12):
        # Each of a grey of its own, so that a picture is known by its mean.
        pixels = np.clip(rng.normal(20 * number + 10, 2.0, (32, 32, 3)), 0, 255)
        Image.fromarray(pixels.astype(np.uint8)).save(photographs / f"{number:02d}.png")

    def opened(*assignments):
        config = default_config()
        given = (*LEAST, f"data.root={photographs}", *assignments)
        override(config, [tuple(each.split("=", 1)) for each in given])
        (category,) = open_categories(read_config(config), tmp_path_factory.mktemp("run"))
        return category

    return opened


@pytest.fixture(scope="module")
def made(open_category):
    """Networks of a category, drawn; the extractor's adapted parameters are not the first ones."""
    category = open_category()
    first, adapted = (drawn(category.networks.extractor, seed) for seed in (0, 1))
    return Trained(
        category,
        pretrained_extractor=first,
        autoencoder={},
        denoiser=drawn(category.networks.denoiser, 2),
        extractor={**first, "params": adapted["params"]},
    )


def pictures(images):
    """The numbers of the pictures, by their greys."""
    return {round((float(image.mean()) - 10) / 20) for image in np.asarray(images)}


@pytest.fixture(scope="module")
def colours(tmp_path_factory):
    """Three categories in MVTec AD's layout: red, green and blue pictures, of which some are light.

    Eight, nine and ten good ones to learn from, and of each two good ones and one with a black
    square to test on.
    """
    root = tmp_path_factory.mktemp("colours")
    rng = np.random.default_rng(1)
    for channel, colour in enumerate(("red", "green", "blue")):
        for folder, count in (("train/good", 8 + channel), ("test/good", 2), ("test/hole", 1)):
            home = root / colour / folder
            home.mkdir(parents=True)
            for number in range(count):
                pixels = rng.normal(40, 2.0, (32, 32, 3))
                pixels[..., channel] += 100 + 10 * number
                if folder == "test/hole":
                    pixels[10:20, 10:20] = 0
                picture = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
                picture.save(home / f"{number:02d}.png")
    return root


@pytest.fixture(scope="module")
def open_colours(colours):
    """Function: a folder, assignments -> what `open_subjects` makes of the three categories."""

    def opened(workdir, *assignments):
        config = default_config()
        given = (*LEAST, "data.source=mvtec", f"data.root={colours}", *assignments)
        override(config, [tuple(each.split("=", 1)) for each in given])
        return open_subjects(read_config(config), workdir)

    return opened
