"""Fixtures that every test may use."""

import os
from pathlib import Path

import pytest

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture(scope="session")
def golden() -> Path:
    """The folder of reference tensors computed with the official code."""
    return GOLDEN


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
