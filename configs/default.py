"""Every setting at its default, mostly the published value; other configs start from here.

`ddad_jax --help` says how to change a setting; docs/settings.md lists all of them.
"""

from ml_collections import ConfigDict

from ddad_jax.experiment.config import default_config


def get_config() -> ConfigDict:
    return default_config()
