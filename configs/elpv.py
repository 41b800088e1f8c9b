r"""Real solar cells (ELPV), trained on those with defect probability 0, on one CPU machine.

    pip install elpv-dataset
    python -m ddad_jax.main --config=configs/elpv.py --workdir=runs/elpv \
        --config.data.category=mono

The category is "mono", "poly" or, for both together, empty. Without a data.root the package is
used. There are no masks, so all metrics are of images; metrics.json also has them for each defect
probability.

Measured on two CPU cores by an earlier version, with ten denoising steps and batches of 16: mono,
image AUROC 0.884, 247 of 486 cells with a defect found, 5 of 147 false alarms, 22 minutes, 4.8 GB.
Not measured: the current version, "poly", and both together.
"""

from ml_collections import ConfigDict

from ddad_jax.experiment.config import load_config


def get_config() -> ConfigDict:
    config = load_config("mvtec_small")
    config.data.source = "elpv"
    return config
