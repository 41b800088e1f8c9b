r"""Your own photographs of good parts, on one CPU machine.

    python -m ddad_jax.main --config=configs/folder.py --workdir=runs/mine \
        --config.data.root=<folder of good images> \
        --config.data.settings.test=<folder with good/ and a folder for each kind of defect>

The test folder is optional. Afterwards --mode=predict --images=<folder or image> with the same
workdir scores new images. The weights of the autoencoder (5 MB) are downloaded once;
--config.autoencoder.weights= names a local copy.

Other settings of this source, as --config.data.settings.<name>: masks (folder of masks), recursive
(also take images in folders below the root), group_pattern (finds the part that an image shows in
its file name, such as "part(\\d+)_"), mask_rule, and white_level (the value of white in 16-bit
images: 4095 for a 12-bit camera).

The networks and their training are those of configs/mvtec_small.py, which gives results and times.
"""

from ml_collections import ConfigDict

from ddad_jax.experiment.config import load_config


def get_config() -> ConfigDict:
    config = load_config("mvtec_small")
    config.data.source = "folder"
    return config
