r"""Real-IAD, all thirty categories, the published networks of D3AD (arXiv 2401.04463).

    python -m ddad_jax.main --config=configs/real_iad.py --workdir=runs/real_iad \
        --config.data.root=<folder with realiad_1024 and realiad_jsons>

--config.data.settings.images=realiad_256 gives smaller images, and
--config.data.settings.split=realiad_jsons_sv the split with one view of each part. Otherwise as
configs/mvtec.py. Meant for an accelerator; not measured.
"""

from ml_collections import ConfigDict

from ddad_jax.experiment.config import load_config


def get_config() -> ConfigDict:
    config = load_config("mvtec")
    config.data.source = "real_iad"
    return config
