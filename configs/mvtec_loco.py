r"""MVTec LOCO AD, all five categories, the published networks of D3AD (arXiv 2401.04463).

    python -m ddad_jax.main --config=configs/mvtec_loco.py --workdir=runs/loco \
        --config.data.root=<folder with breakfast_box, juice_bottle, ...>

Otherwise as configs/mvtec.py. Meant for an accelerator; not measured.
"""

from ml_collections import ConfigDict

from ddad_jax.experiment.config import load_config


def get_config() -> ConfigDict:
    config = load_config("mvtec")
    config.data.source = "mvtec_loco"
    # Saturation thresholds are in pixels of the original images.
    config.evaluation.resolution = "original"
    return config
