"""Fixtures of the data tests."""

import os

import pytest


@pytest.fixture
def unprivileged():
    """Runs a test as a user whom file permissions bind; as root, nothing is unreadable."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    yield
    os.seteuid(0)
