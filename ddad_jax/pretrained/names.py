"""Converts between our networks' variables and PyTorch's state dicts.

Each network has one table, made from the network itself: the path of each variable and its PyTorch
key. Both directions read it, so they cannot disagree. Layouts need no table: PyTorch puts output
and input channels first, we put input and output channels last, whatever the number of axes.
"""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import flax.traverse_util
import jax
import numpy as np

from ddad_jax import models
from ddad_jax.errors import UserError

LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
    "count": "num_batches_tracked",
    "embedding": "weight",
}
# Variables that PyTorch lays out as we do: tokens, embeddings, and factors of channels.
OWN_NAMES = frozenset(
    (
        "cls_token",
        "mask_token",
        "register_tokens",
        "position_embeddings",
        "embedding",
        "lambda1",
        "gamma",
    )
)


class Entry(NamedTuple):
    """One variable: its path in our tree, its PyTorch key, and our shape and type of it."""

    path: tuple[str, ...]
    key: str
    shape: tuple[int, ...]
    dtype: np.dtype


def table(network: nn.Module) -> list[Entry]:
    """Returns every variable of a network with both its names, in our order."""
    names = network.NAMES
    flat = flax.traverse_util.flatten_dict(models.abstract_variables(network))
    return [
        Entry(
            path,
            names.key(".".join([*map(names.module, path[1:-1]), LEAVES.get(path[-1], path[-1])])),
            leaf.shape,
            np.dtype(leaf.dtype),
        )
        for path, leaf in flat.items()
    ]


def from_state_dict(
    state_dict: Mapping[str, np.ndarray], network: nn.Module, name: str
) -> dict[str, Any]:
    """Returns our variables, from a PyTorch state dict.

    Args:
      state_dict: in PyTorch's names and layout. A `module.` that DataParallel put before every key
        is removed, the aliases of the network's family are understood, and keys of other networks
        (`Names.others`) are left out.
      network: decides which variables there must be, and their types.
      name: name of the state dict in errors.

    Raises:
      UserError: a key is missing, surplus, of another shape, or not finite; names the first one.
    """
    state_dict = {
        _canonical(key, network): value
        for key, value in _unwrapped(state_dict).items()
        if not (network.NAMES.others and re.match(network.NAMES.others, key))
    }
    entries = table(network)
    kind = type(network).__name__
    missing = [e.key for e in entries if e.key not in state_dict and e.path[-1] != "count"]
    if missing:
        raise UserError(
            f"{name}: key {missing[0]!r} is missing{_others(missing)}; expected the weights of "
            f"this {kind}: check the network's settings"
        )
    if surplus := sorted(state_dict.keys() - {entry.key for entry in entries}):
        raise UserError(
            f"{name}: key {surplus[0]!r} is surplus{_others(surplus)}; this {kind} has no such "
            "weight: check the network's settings"
        )
    flat = {entry.path: _to_ours(entry, state_dict.get(entry.key), name) for entry in entries}
    return flax.traverse_util.unflatten_dict(flat)


def to_state_dict(variables: Mapping[str, Any], network: nn.Module) -> dict[str, np.ndarray]:
    """Returns the PyTorch state dict of a network's variables; inverse of `from_state_dict`."""
    flat = flax.traverse_util.flatten_dict(variables)
    return {entry.key: _to_torch(entry, flat[entry.path]) for entry in table(network)}


def _others(keys: list[str]) -> str:
    return f" (and {len(keys) - 1} more)" if len(keys) > 1 else ""


def _unwrapped(state_dict: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
    if all(key.startswith("module.") for key in state_dict):
        return {key.removeprefix("module."): value for key, value in state_dict.items()}
    return state_dict


def _canonical(key: str, network: nn.Module) -> str:
    for pattern, replacement in network.NAMES.aliases:
        key = re.sub(pattern, replacement, key)
    return key


def _to_ours(entry: Entry, value: np.ndarray | None, name: str) -> jax.Array:
    if value is None:
        # PyTorch has counted batches since 0.4.1; it, too, reads older files as a count of zero.
        return jax.numpy.zeros(entry.shape, entry.dtype)
    if value.ndim >= 2 and entry.path[-1] not in OWN_NAMES:
        value = np.transpose(value, (*range(2, value.ndim), 1, 0))
    if value.shape != entry.shape:
        found, expected = (_torch_shape(entry, shape) for shape in (value.shape, entry.shape))
        raise UserError(
            f"{name}: key {entry.key!r} has shape {found}, expected {expected}: check the "
            "network's settings"
        )
    converted = value.astype(entry.dtype)
    if np.issubdtype(entry.dtype, np.integer):
        if np.any(converted != value):
            raise UserError(f"{name}: key {entry.key!r} does not fit {entry.dtype}")
    elif not np.isfinite(converted).all():
        raise UserError(
            f"{name}: key {entry.key!r} holds values that are not finite numbers; the weights are "
            "broken"
        )
    return jax.numpy.asarray(converted)


def _to_torch(entry: Entry, value: jax.Array) -> np.ndarray:
    array = np.asarray(value)
    if entry.path[-1] == "count":
        return array.astype(np.int64)
    if array.ndim >= 2 and entry.path[-1] not in OWN_NAMES:
        array = np.transpose(array, (array.ndim - 1, array.ndim - 2, *range(array.ndim - 2)))
    return np.ascontiguousarray(array)


def _torch_shape(entry: Entry, shape: tuple[int, ...]) -> tuple[int, ...]:
    if len(shape) < 2 or entry.path[-1] in OWN_NAMES:
        return shape
    return (*shape[:-3:-1], *shape[:-2])
