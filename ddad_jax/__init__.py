"""Diffusion-based anomaly detection with a dynamic noise level (D3AD) and DDAD, in JAX."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import ddad_jax.deploy.artifact

__version__ = "0.2.0.dev0"


def load(path: str | Path) -> "ddad_jax.deploy.artifact.FittedDetector":
    """The fitted detector in a file, `detector.safetensors` of a run's folder.

    Raises:
      UserError: no such file, or it holds no detector.
    """
    # Imported late, so that `import ddad_jax` takes no time.
    from ddad_jax.deploy.artifact import load_detector
    from ddad_jax.machine.kernels import choose_cpu_kernels

    # Those of the command line, so that answers are the same; without effect once JAX has begun.
    choose_cpu_kernels()
    return load_detector(path)
