r"""DDAD (arXiv 2305.15956), the predecessor: diffusion on pixels, one noise level, noise added.

    python -m ddad_jax.main --config=configs/ddad.py --workdir=runs/ddad \
        --config.data.root=<MVTec AD>

The weights of WideResNet-101-2 are downloaded once (255 MB), or given as a path with
--config.extractor.weights. Unlike the official code, this evaluates the whole image, not its
centre, and uses the same settings for all categories. Meant for an accelerator; not measured.
"""

from ml_collections import ConfigDict

from ddad_jax.experiment.config import load_config


def get_config() -> ConfigDict:
    config = load_config("mvtec")
    config.preset = "paper"
    config.diffusion.beta_start = 1e-4
    config.diffusion.beta_end = 0.02

    config.autoencoder.name = "pixels"
    config.autoencoder.weights = ""
    config.autoencoder.latent_scale = 1.0

    config.denoiser.network.base_channels = 64
    config.denoiser.network.channel_multipliers = (1, 1, 2, 2, 4, 4)
    config.denoiser.network.attention_resolutions = (32, 16, 8)
    config.denoiser.network.num_heads = 4

    config.extractor.name = "wide_resnet101_2"
    config.extractor.weights = "wide_resnet101_2"
    # λ_DL keeps the adapted features near the published ones.
    config.extractor.distillation_weight = 0.1

    config.detection.noise_level = "static"
    config.detection.max_noise_level = 250
    config.detection.start = "noised"
    config.detection.stochasticity = 1.0
    config.detection.feature_pooling = 3
    # The pixel map weighs as much as the feature map (v = 1).
    config.detection.latent_weight = 0.5
    return config
