import os
import platform
import subprocess
import sys

import jax
import pytest

from ddad_jax.machine import kernels
from ddad_jax.machine.kernels import choose_cpu_kernels


@pytest.fixture
def xla_flags(monkeypatch):
    """Function: machine, XLA_FLAGS before, version of JAX, whether it was used -> XLA_FLAGS."""

    def flags_of(machine, before="", version=(0, 10, 2), begun=False):
        monkeypatch.setattr(platform, "machine", lambda: machine)
        monkeypatch.setattr(jax, "__version_info__", version)
        monkeypatch.setenv("XLA_FLAGS", before)
        monkeypatch.setattr(kernels, "backends_are_initialized", lambda: begun)
        choose_cpu_kernels()
        return os.environ["XLA_FLAGS"]

    return flags_of


def test_on_x86_xla_convolves_by_itself(xla_flags):
    flag = "--xla_cpu_experimental_ynn_fusion_type=LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT,"
    assert xla_flags("x86_64").startswith(flag)
    assert xla_flags("AMD64", "--xla_other=1").startswith(f"--xla_other=1 {flag}")


def test_elsewhere_the_choice_is_xlas(xla_flags):
    assert xla_flags("arm64") == ""
    assert xla_flags("x86_64", version=(0, 12, 0)) == ""
    given = "--xla_cpu_experimental_ynn_fusion_type="
    assert xla_flags("x86_64", given) == given


def test_what_comes_too_late_is_not_claimed(xla_flags):
    assert xla_flags("x86_64", begun=True) == ""


def test_this_xla_knows_the_flag():
    """XLA ends a process with flags that it does not know."""
    program = "from ddad_jax.machine import kernels as h; import os; os.environ['XLA_FLAGS'] = ''\n"
    program += "h.platform.machine = lambda: 'x86_64'; h.choose_cpu_kernels()\n"
    program += "import jax.numpy as jnp; print(os.environ['XLA_FLAGS'], jnp.ones(2).sum())"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("--xla_cpu_experimental_ynn") and "2.0" in result.stdout
