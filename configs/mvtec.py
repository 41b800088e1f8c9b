r"""MVTec AD, all categories, the published networks of D3AD (arXiv 2401.04463).

    python -m ddad_jax.main --config=configs/mvtec.py --workdir=runs/mvtec \
        --config.data.root=<folder with bottle, cable, ...>

--config.preset=paper gives the published method, --config.data.category=bottle one category, and
--config.denoiser.network.base_channels=64 a smaller denoiser. The weights of Stable Diffusion's
autoencoder and of ResNet-34 are downloaded once (420 MB), or given as paths with
--config.autoencoder.weights and --config.extractor.weights. Meant for an accelerator; not
measured.
"""

from ml_collections import ConfigDict

from ddad_jax.experiment.config import load_config


def get_config() -> ConfigDict:
    config = load_config("default")
    config.data.source = "mvtec"

    config.autoencoder.name = "kl"
    config.autoencoder.weights = "sd_vae_ft_mse"

    # The paper picks 0 to 3 epochs per category; one epoch for all needs no labels.
    config.extractor.training.epochs = 1
    return config
