r"""DAGM 2007, all ten classes, the published networks of D3AD (arXiv 2401.04463).

    python -m ddad_jax.main --config=configs/dagm.py --workdir=runs/dagm \
        --config.data.root=<folder with Class1, Class2, ...>

Otherwise as configs/mvtec.py. Meant for an accelerator; not measured.
"""

from ml_collections import ConfigDict

from ddad_jax.experiment.config import load_config


def get_config() -> ConfigDict:
    config = load_config("mvtec")
    config.data.source = "dagm"
    return config
