"""Diffusion-based anomaly detection with a dynamic noise level (D3AD) and DDAD, in JAX."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddad_jax.errors import Interrupted, UserError

if TYPE_CHECKING:
    from ddad_jax.data.preprocessing import Photograph
    from ddad_jax.deploy.fitted import FittedDetector

__all__ = ["Interrupted", "UserError", "fit", "load"]
__version__ = "0.2.0.dev0"

# Everything else is imported on first use, so that `import ddad_jax` is fast.


def fit(
    good_images: "str | Path | Iterable[Photograph]",
    *,
    workdir: str | Path | None = None,
    config: str = "folder",
    settings: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> "FittedDetector":
    """Fits a detector to photographs of good parts and returns it; nothing else is needed.

    From then on, programs that JAX compiles are kept in the user's cache folder.

    Args:
      good_images: a folder of photographs, or photographs: paths, the bytes of files, Pillow
        images, or arrays [h w], [h w 1] or [h w 3].
      workdir: folder for everything that is written; the same call continues what was begun there.
        None: a temporary folder.
      config: the name of a config, or the path of a config file, as for `--config`.
      settings: by dotted name, such as {"detection.max_noise_level": 40}, as for `--config.<name>`.
      progress: whether the log and, on a terminal, progress bars go to standard error.

    Raises:
      UserError: bad input; names it and says what to do.
      Interrupted: Ctrl-C or SIGTERM while training, with everything saved.
    """
    _prepare()
    from ddad_jax.experiment import photographs

    return photographs.fit(good_images, workdir, config, settings or {}, progress)


def load(path: str | Path) -> "FittedDetector":
    """Loads a fitted detector from a file, such as `detector.safetensors` in a run's folder.

    From then on, programs that JAX compiles are kept in the user's cache folder.

    Raises:
      UserError: there is no such file, or it holds no detector.
    """
    _prepare()
    from ddad_jax.data.read import allow_large_images
    from ddad_jax.deploy.fitted import load_detector

    allow_large_images()
    return load_detector(path)


def _prepare() -> None:
    """Sets JAX up as the command line does: same results, and compiled programs are reused."""
    from ddad_jax.machine.kernels import choose_cpu_kernels
    from ddad_jax.machine.programs import keep_programs

    # Has no effect once JAX has been initialised.
    choose_cpu_kernels()
    keep_programs()
