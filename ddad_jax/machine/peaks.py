"""Peak performance of devices, by the name that JAX gives their kind.

Dense peaks, without sparsity, per JAX device, from Google Cloud's pages on TPU versions and from
NVIDIA's data sheets and architecture white papers. JAX sees two devices in a chip of TPU v2, v3
and v7, each with half of the chip's figures.

The peak of float32 is for JAX's default precision: a TPU multiplies in bfloat16, a GPU since Ampere
in TF32.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Device:
    """Peaks of one JAX device.

    Attributes:
      bfloat16: floating-point operations per second; None without units for bfloat16.
      float32: the same for float32 matrix products, at the default precision.
      bandwidth: of its memory, in bytes per second.
      memory: its memory, in bytes; None if nothing here needs it.
    """

    bfloat16: float | None
    float32: float
    bandwidth: float
    memory: float | None = None


GIB = 2.0**30
# The first name that is part of the kind counts: "TPU v5 lite" comes before "TPU v5".
DEVICES = {
    "TPU v2": Device(22.5e12, 22.5e12, 350e9),
    "TPU v3": Device(61.5e12, 61.5e12, 450e9),
    "TPU v4 lite": Device(137e12, 137e12, 614e9, 8 * GIB),
    "TPU v4": Device(275e12, 275e12, 1200e9, 32 * GIB),
    "TPU v5 lite": Device(197e12, 197e12, 819e9, 16 * GIB),
    "TPU v5e": Device(197e12, 197e12, 819e9, 16 * GIB),
    "TPU v5": Device(459e12, 459e12, 2765e9, 95 * GIB),
    "TPU v6": Device(918e12, 918e12, 1640e9, 32 * GIB),
    "TPU7": Device(1153.5e12, 1153.5e12, 3690e9),
    "V100-SXM": Device(None, 15.7e12, 900e9),
    "V100-PCIE": Device(None, 14e12, 900e9),
    "T4": Device(None, 8.1e12, 320e9),
    "A100-SXM4-80GB": Device(312e12, 156e12, 2039e9),
    "A100 80GB PCIe": Device(312e12, 156e12, 1935e9),
    "A100": Device(312e12, 156e12, 1555e9),
    "L40S": Device(362e12, 183e12, 864e9),
    "L40": Device(181e12, 90.5e12, 864e9),
    "L4": Device(121e12, 60e12, 300e9),
    "H100 PCIe": Device(756e12, 378e12, 2000e9),
    "H100 NVL": Device(835e12, 417.5e12, 3900e9),
    "H100": Device(989e12, 494.5e12, 3350e9),
    "H200 NVL": Device(835.5e12, 417.5e12, 4800e9),
    "H200": Device(989e12, 494.5e12, 4800e9),
    "B200": Device(2250e12, 1100e12, 7700e9),
    "RTX 3090": Device(71e12, 35.6e12, 936e9),
    "RTX 4090": Device(165.2e12, 82.6e12, 1008e9),
}


def peak_flops(device_kind: str, dtype: str) -> float | None:
    """Returns the peak floating-point operations per second.

    Args:
      device_kind: `jax.Device.device_kind`.
      dtype: "bfloat16" or "float32", the type of the operands.

    Returns:
      The peak, or None if the device is unknown, such as a CPU, or lacks units for the type.
    """
    device = _find(device_kind)
    if device is None:
        return None
    return {"bfloat16": device.bfloat16, "float32": device.float32}[dtype]


def memory_bandwidth(device_kind: str) -> float | None:
    """Returns the peak bytes per second between a device and its memory, or None if unknown."""
    device = _find(device_kind)
    return None if device is None else device.bandwidth


def memory_bytes(device_kind: str) -> float | None:
    """Returns the bytes of a device's memory, or None if unknown."""
    device = _find(device_kind)
    return None if device is None else device.memory


def _find(device_kind: str) -> Device | None:
    return next((device for name, device in DEVICES.items() if name in device_kind), None)
