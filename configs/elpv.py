r"""Real solar cells (ELPV), learnt from those with defect probability 0, on one CPU machine.

    pip install elpv-dataset
    python -m ddad_jax.main --config=configs/elpv.py --workdir=runs/elpv \
        --config.data.category=mono

The category is "mono", "poly" or, for both together, empty. There are no masks, so there are
image-level figures only; those for each defect probability stand in metrics.json.
"""

from ml_collections import ConfigDict

from configs import mvtec_small


def get_config() -> ConfigDict:
    config = mvtec_small.get_config()
    config.data.source = "elpv"
    # The package is used where no root is given.
    config.data.settings = ConfigDict({"test_good_fraction": 0.25})
    return config
