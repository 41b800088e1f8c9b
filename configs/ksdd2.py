r"""KolektorSDD2, the published networks of D3AD (arXiv 2401.04463).

    python -m ddad_jax.main --config=configs/ksdd2.py --workdir=runs/ksdd2 \
        --config.data.root=<folder with train and test>

The images are nearly three times as high as wide; --config.data.resize says how they become square.
Otherwise as configs/mvtec.py. Meant for an accelerator; not measured.
"""

from ml_collections import ConfigDict

from ddad_jax.experiment.config import load_config


def get_config() -> ConfigDict:
    config = load_config("mvtec")
    config.data.source = "ksdd2"
    return config
