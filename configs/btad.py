r"""BTAD, all three products, the published networks of D3AD (arXiv 2401.04463).

    python -m ddad_jax.main --config=configs/btad.py --workdir=runs/btad \
        --config.data.root=<folder with 01, 02 and 03>

Otherwise as configs/mvtec.py. Meant for an accelerator; not measured.
"""

from ml_collections import ConfigDict

from ddad_jax.experiment.config import load_config


def get_config() -> ConfigDict:
    config = load_config("mvtec")
    config.data.source = "btad"
    return config
