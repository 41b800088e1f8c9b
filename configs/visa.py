r"""VisA, all twelve categories, the published networks of D3AD (arXiv 2401.04463).

    python -m ddad_jax.main --config=configs/visa.py --workdir=runs/visa \
        --config.data.root=<VisA, as released or rearranged>

Otherwise as configs/mvtec.py. Meant for an accelerator; not measured.
"""

from ml_collections import ConfigDict

from ddad_jax.experiment.config import load_config


def get_config() -> ConfigDict:
    config = load_config("mvtec")
    config.data.source = "visa"
    return config
