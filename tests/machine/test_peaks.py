import jax
import pytest

from ddad_jax.machine.peaks import memory_bandwidth, peak_flops


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
