r"""Images that a table lists (CSV or Parquet), wherever they are, on one CPU machine.

    python -m ddad_jax.main --config=configs/manifest.py --workdir=runs/mine \
        --config.data.root=<table.csv>

Columns: image (a path, absolute or from the table's folder), and where known split (train or
test), label (good, bad, 0, 1, ...), defect, mask, category and group. Parquet needs
pip install 'ddad_jax[parquet]'. Other settings of this source, as --config.data.settings.<name>:
mask_rule and white_level, as in folder.py.

The networks and their training are those of configs/mvtec_small.py, which gives results and times.
"""

from ml_collections import ConfigDict

from ddad_jax.experiment.config import load_config


def get_config() -> ConfigDict:
    config = load_config("mvtec_small")
    config.data.source = "manifest"
    return config
