"""The command line as a user meets it, each call in a process of its own.

It takes four seconds of a core to import everything. So processes are forks of one that has, and
has started nothing: JAX has no devices yet, and what they are told is read as by a new one.
"""

import multiprocessing
import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
# Seconds after which a command hangs.
MOST = 1200

_forks = multiprocessing.get_context("forkserver")
_forks.set_forkserver_preload(["ddad_jax.main", "tests.commands"])


@dataclass(frozen=True)
class Ended:
    """How a command ended, and what it said."""

    returncode: int
    stdout: str
    stderr: str


def ddad(*arguments: object, devices: int = 1, cwd: Path = ROOT, platforms: str = "cpu") -> Ended:
    """Runs a command to its end.

    Args:
      *arguments: of the command line.
      devices: how many the CPU is taken for.
      cwd: where it is run.
      platforms: JAX_PLATFORMS.
    """
    with tempfile.TemporaryDirectory() as said:
        outputs = [Path(said, name) for name in ("out", "err")]
        told = list(map(str, arguments))
        process = _forks.Process(target=_run, args=(told, devices, cwd, platforms, outputs))
        process.start()
        process.join(MOST)
        if process.exitcode is None:
            process.kill()
            raise TimeoutError(f"{told} did not end: {outputs[1].read_text()}")
        return Ended(process.exitcode, *(path.read_text() for path in outputs))


def _run(
    arguments: list[str], devices: int, cwd: Path, platforms: str, outputs: list[Path]
) -> None:
    """What the console script does, in a fork."""
    for number, path in enumerate(outputs, start=1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), number)
    os.chdir(cwd)
    os.environ["XLA_FLAGS"] += f" --xla_force_host_platform_device_count={devices}"
    # JAX has read it when it was imported; the program names it in an error.
    import jax

    os.environ["JAX_PLATFORMS"] = platforms
    jax.config.update("jax_platforms", platforms)
    sys.argv = ["ddad_jax", *arguments]
    from ddad_jax import main

    main.command()
