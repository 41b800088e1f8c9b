r"""Your own photographs of good parts, on one CPU machine.

    python -m ddad_jax.main --config=configs/folder.py --workdir=runs/mine \
        --config.data.root=<folder of good images> \
        --config.data.settings.test=<folder with good/ and a folder for each kind of defect>

The test folder is optional, and so are masks (--config.data.settings.masks). Afterwards
--mode=predict --images=<folder or image> scores new images with the same workdir. The weights of
the autoencoder (5 MB) are downloaded once; --config.autoencoder.weights= names a local copy.
"""

from ml_collections import ConfigDict

from configs import mvtec_small


def get_config() -> ConfigDict:
    config = mvtec_small.get_config()
    config.data.source = "folder"
    config.data.settings = ConfigDict(
        {
            "test": "",
            "masks": "",
            "recursive": False,
            # Finds in a file name which part the image shows: "part(\\d+)_".
            "group_pattern": "",
            "mask_rule": "auto",
            # Value of 16-bit grey images that stands for white; 4095 for 12-bit cameras.
            "white_level": 65535,
        }
    )
    return config
