r"""MVTec 3D-AD in colour, all ten categories, the published networks of D3AD (arXiv 2401.04463).

    python -m ddad_jax.main --config=configs/mvtec_3d.py --workdir=runs/mvtec_3d \
        --config.data.root=<folder with bagel, cable_gland, ...>

Otherwise as configs/mvtec.py. Meant for an accelerator; not measured.
"""

from ml_collections import ConfigDict

from ddad_jax.experiment.config import load_config


def get_config() -> ConfigDict:
    config = load_config("mvtec")
    config.data.source = "mvtec_3d"
    return config
