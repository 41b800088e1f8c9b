r"""MVTec AD 2, all eight objects, the published networks of D3AD (arXiv 2401.04463).

    python -m ddad_jax.main --config=configs/mvtec_ad2.py --workdir=runs/ad2 \
        --config.data.root=<folder with can, fabric, ...>

This evaluates on test_public. Afterwards --mode=submit writes the results on the private images, as
MVTec's server takes them, to runs/ad2/submission; it needs pip install 'ddad_jax[submission]'.
Otherwise as configs/mvtec.py. Meant for an accelerator; not measured.
"""

from ml_collections import ConfigDict

from ddad_jax.experiment.config import load_config


def get_config() -> ConfigDict:
    config = load_config("mvtec")
    config.data.source = "mvtec_ad2"
    # The server evaluates at this resolution.
    config.evaluation.resolution = "original"
    return config
