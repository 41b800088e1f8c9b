r"""KolektorSDD, the published networks of D3AD (arXiv 2401.04463).

    python -m ddad_jax.main --config=configs/ksdd.py --workdir=runs/ksdd \
        --config.data.root=<folder with kos01, kos02, ...>

The images are nearly three times as high as wide; --config.data.resize says how they become square.
Otherwise as configs/mvtec.py. Meant for an accelerator; not measured.
"""

from ml_collections import ConfigDict

from ddad_jax.experiment.config import load_config


def get_config() -> ConfigDict:
    config = load_config("mvtec")
    config.data.source = "ksdd"
    return config
