"""The package as it is installed: from a wheel, in an empty folder, far from the checkout."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import ddad_jax

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The folder that the wheel is installed into, without what it requires."""
    home = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "-q"]
    subprocess.run([*pip, "wheel", "--no-deps", "-w", home, ROOT], check=True)
    (wheel,) = home.glob("*.whl")
    subprocess.run(
        [*pip, "install", "--no-deps", "--target", home / "site", wheel], check=True
    )  # fmt: skip
    return home / "site"


def call(installed, folder, *command):
    environment = os.environ | {"PYTHONPATH": str(installed), "JAX_PLATFORMS": "cpu"}
    return subprocess.run(
        [*map(str, command)], cwd=folder, env=environment, capture_output=True, text=True
    )  # fmt: skip


@pytest.mark.slow
def test_it_works_from_an_empty_folder(installed, tmp_path):
    script = installed / "bin" / "ddad_jax"
    for program in ([script], [sys.executable, "-m", "ddad_jax"],
                    [sys.executable, "-m", "ddad_jax.main"]):  # fmt: skip
        done = call(installed, tmp_path, *program, "--version")
        assert done.stdout == f"ddad_jax {ddad_jax.__version__}\n", done.stderr
    shown = call(installed, tmp_path, script, "--help").stdout
    assert "mvtec_small" in shown and "--mode=predict" in shown
    where = call(installed, tmp_path, sys.executable, "-c", "import ddad_jax; print(ddad_jax)")
    assert str(installed) in where.stdout
    assert (installed / "ddad_jax" / "py.typed").exists()

    for index in range(4):
        path = tmp_path / "photos" / f"{index}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(np.full((32, 40, 3), 20 * index, np.uint8)).save(path)
    for config in ("folder", "configs/folder.py"):
        done = call(
            installed, tmp_path, sys.executable, "-m", "ddad_jax.main", f"--config={config}",
            "--workdir=runs/x", "--config.data.root=photos", "--mode=prepare",
            "--config.data.size=64", "--config.autoencoder.weights=",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert "verdict: ready" in done.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photos", "runs"]
