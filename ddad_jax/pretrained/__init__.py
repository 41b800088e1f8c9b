"""Weights that others published: found, read safely, renamed."""

from typing import Any

import flax.linen as nn

from ddad_jax.pretrained.names import from_state_dict, to_state_dict
from ddad_jax.pretrained.read import read_state_dict
from ddad_jax.pretrained.registry import PACKAGES, locate

__all__ = ["PACKAGES", "from_state_dict", "load", "read_state_dict", "to_state_dict"]


def load(weights: str, network: nn.Module) -> dict[str, Any]:
    """The variables {"params": …, …} of a network.

    Args:
      weights: the name of a registered set of weights, or the path of a file or folder.
      network: what they are for.

    Raises:
      UserError: they cannot be found or fetched, are broken, or are another network's.
    """
    return from_state_dict(read_state_dict(locate(weights)), network, weights)
