"""Weights that are drawn, of the sizes that trained ones have."""

from zlib import crc32

import numpy as np


def drawn(entry):
    """Those of one variable of `ddad_jax.pretrained.names.table`, in our layout."""
    values = np.random.RandomState(crc32(entry.key.encode())).standard_normal(entry.shape)
    values = np.asarray(values, np.float32)
    kind = entry.path[-1]
    if kind == "count":
        return np.zeros(entry.shape, entry.dtype)
    if kind in ("scale", "lambda1", "gamma", "var"):
        return 1 + np.float32(0.1) * values
    if kind == "kernel":
        return values / np.sqrt(np.prod(entry.shape[:-1])).astype(np.float32)
    return np.float32(0.1) * values
