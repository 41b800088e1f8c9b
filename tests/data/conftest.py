"""Fixtures of the data tests."""

import os

import pytest
from PIL import Image

_NOBODY = 65534


@pytest.fixture
def bound_by_permissions(tmp_path):
    """Runs the test as a user to whom permissions apply; nothing is unreadable to root."""
    if os.geteuid() != 0:
        yield
        return
    ancestors = [tmp_path, *tmp_path.parents]
    modes = {folder: folder.stat().st_mode for folder in ancestors}
    os.chown(tmp_path, _NOBODY, _NOBODY)
    for folder in ancestors:
        if not modes[folder] & 0o001:
            folder.chmod(modes[folder] | 0o011)
    # Only root may be able to read the installed packages, so decoders must be loaded by now.
    Image.init()
    os.seteuid(_NOBODY)
    yield
    os.seteuid(0)
    for folder, mode in modes.items():
        folder.chmod(mode)


@pytest.fixture(autouse=True)
def pillow_as_it_comes(monkeypatch):
    """Commands of other tests in this process may have let Pillow read larger images."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1024**3 // 12)
