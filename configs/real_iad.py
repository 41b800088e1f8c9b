r"""Real-IAD, all thirty categories, the published networks of D3AD (arXiv 2401.04463).

    python -m ddad_jax.main --config=configs/real_iad.py --workdir=runs/real_iad \
        --config.data.root=<folder with realiad_1024 and realiad_jsons>

Images of another size with --config.data.settings.images=realiad_256, the split of one view of each
part with --config.data.settings.split=realiad_jsons_sv. As configs/mvtec.py otherwise. Meant for an
accelerator; not measured.
"""

from ml_collections import ConfigDict

from ddad_jax.experiment.config import load_config


def get_config() -> ConfigDict:
    config = load_config("mvtec")
    config.data.source = "real_iad"
    return config
