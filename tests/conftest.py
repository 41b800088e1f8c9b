"""Fixtures that every test may use."""

import json
import os
from pathlib import Path
from zlib import crc32

import numpy as np
import pytest

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture(scope="session")
def golden() -> Path:
    """The folder of reference tensors computed with the official code."""
    return GOLDEN


@pytest.fixture(scope="session")
def golden_weights():
    """Function: network name -> the PyTorch state dict that its golden tensors were made with."""
    shapes = json.loads((GOLDEN / "state_dict_shapes.json").read_text())

    def weight(name: str, shape: list[int]) -> np.ndarray:
        if name.endswith("num_batches_tracked"):
            return np.ones(shape, np.int64)
        values = np.random.RandomState(crc32(name.encode())).standard_normal(shape)
        values = np.asarray(values, np.float32)
        if name.endswith("running_var"):
            return 1 + 0.5 * np.abs(values)
        if name.endswith(("running_mean", "bias")):
            return np.float32(0.1) * values
        if len(shape) == 1:
            return 1 + np.float32(0.1) * values
        return values / np.sqrt(np.prod(shape[1:])).astype(np.float32)

    return lambda network: {name: weight(name, s) for name, s in shapes[network].items()}


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data and weights that lies beside the checkout, never inside it."""
    default = Path(__file__).resolve().parents[2] / "shared"
    folder = Path(os.environ.get("DDAD_JAX_SHARED", default))
    if folder.is_dir():
        return folder
    message = (
        f"real data: {folder} does not exist; set DDAD_JAX_SHARED to the folder "
        "that holds data/mvtec and weights/taef2"
    )
    if os.environ.get("CI"):
        pytest.fail(message)
    pytest.skip(message)
