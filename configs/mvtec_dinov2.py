r"""MVTec AD with features of DINOv2 ViT-S/14 at 392 pixels; otherwise as `mvtec_small`.

    python -m ddad_jax.main --config=configs/mvtec_dinov2.py --workdir=runs/bottle_dinov2 \
        --config.data.root=<MVTec AD> --config.data.category=bottle

The weights of DINOv2 (88 MB) and of the autoencoder (5 MB) are downloaded once, or given as paths
with --config.extractor.weights and --config.autoencoder.weights. Not measured with real weights.
docs/backbones.md lists the other backbones.
"""

from ml_collections import ConfigDict

from ddad_jax.experiment.config import load_config


def get_config() -> ConfigDict:
    config = load_config("mvtec_small")
    config.extractor.name = "dinov2_small"
    config.extractor.weights = "dinov2_small"
    config.extractor.size = 392
    return config
