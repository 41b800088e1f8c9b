import os
import platform
import subprocess
import sys

import jax
import pytest

from ddad_jax.hardware import choose_cpu_kernels, memory_bandwidth, peak_flops


@pytest.mark.parametrize(
    "kind, bfloat16, float32, bandwidth",
    [
        ("TPU v3", 61.5e12, 61.5e12, 450e9),
        ("TPU v5 lite", 197e12, 197e12, 819e9),
        ("TPU v5p", 459e12, 459e12, 2765e9),
        ("TPU v6 lite", 918e12, 918e12, 1640e9),
        ("TPU7x", 1153.5e12, 1153.5e12, 3690e9),
        ("Tesla V100-SXM2-16GB", None, 15.7e12, 900e9),
        ("NVIDIA A100-SXM4-40GB", 312e12, 156e12, 1555e9),
        ("NVIDIA A100-SXM4-80GB", 312e12, 156e12, 2039e9),
        ("NVIDIA H100 80GB HBM3", 989e12, 494.5e12, 3350e9),
        ("NVIDIA H100 PCIe", 756e12, 378e12, 2000e9),
        ("NVIDIA L40S", 362e12, 183e12, 864e9),
        ("NVIDIA L4", 121e12, 60e12, 300e9),
        ("NVIDIA GeForce RTX 4090", 165.2e12, 82.6e12, 1008e9),
    ],
)
def test_a_device_is_known_by_the_name_of_its_kind(kind, bfloat16, float32, bandwidth):
    assert peak_flops(kind, "bfloat16") == bfloat16
    assert peak_flops(kind, "float32") == float32
    assert memory_bandwidth(kind) == bandwidth


@pytest.mark.parametrize("kind", [jax.devices("cpu")[0].device_kind, "NVIDIA Unheard-of 9000"])
def test_nothing_is_said_of_a_device_that_is_not_known(kind):
    assert peak_flops(kind, "float32") is None
    assert memory_bandwidth(kind) is None


@pytest.fixture
def xla_flags(monkeypatch):
    """Function: machine, XLA_FLAGS before, JAX's version -> XLA_FLAGS afterwards."""

    def flags_of(machine, before="", version=(0, 10, 2)):
        monkeypatch.setattr(platform, "machine", lambda: machine)
        monkeypatch.setattr(jax, "__version_info__", version)
        monkeypatch.setenv("XLA_FLAGS", before)
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


def test_this_xla_knows_the_flag():
    """XLA ends a process with flags that it does not know."""
    program = "from ddad_jax import hardware as h; import os; os.environ['XLA_FLAGS'] = ''\n"
    program += "h.platform.machine = lambda: 'x86_64'; h.choose_cpu_kernels()\n"
    program += "import jax.numpy as jnp; print(os.environ['XLA_FLAGS'], jnp.ones(2).sum())"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("--xla_cpu_experimental_ynn") and "2.0" in result.stdout
