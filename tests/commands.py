"""The command line as a user meets it, each call in a process of its own.

It takes four seconds of a core to import everything. So processes are forks of one that has, and
has started nothing: JAX has no devices yet, and what they are told is read as by a new one.
"""

import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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


class Started:
    """A command that runs.

    Attributes:
      process: its own.
    """

    def __init__(
        self,
        *arguments: object,
        devices: int = 1,
        cwd: Path = ROOT,
        platforms: str = "cpu",
        environment: Mapping[str, str] | None = None,
    ):
        """Starts it.

        Args:
          *arguments: of the command line.
          devices: how many the CPU is taken for.
          cwd: where it is run.
          platforms: JAX_PLATFORMS.
          environment: more variables.
        """
        self._said = tempfile.TemporaryDirectory()
        self._outputs = [Path(self._said.name, name) for name in ("out", "err")]
        self._told = list(map(str, arguments))
        variables = {"JAX_PLATFORMS": platforms, **(environment or {})}
        self.process = _forks.Process(
            target=_run, args=(self._told, devices, cwd, variables, self._outputs)
        )
        self.process.start()

    def end(self) -> Ended:
        """Waits until it has ended."""
        self.process.join(MOST)
        if self.process.exitcode is None:
            self.process.kill()
            raise TimeoutError(f"{self._told} did not end: {self._outputs[1].read_text()}")
        texts = [path.read_text() if path.exists() else "" for path in self._outputs]
        self._said.cleanup()
        return Ended(self.process.exitcode, *texts)


def ddad(*arguments: object, **options: Any) -> Ended:
    """Runs a command to its end; arguments as of `Started`."""
    return Started(*arguments, **options).end()


def timed(
    *arguments: object, environment: Mapping[str, str] | None = None
) -> tuple[float, float, str]:
    """Seconds and peak gigabytes of a command in a new process of Python, and what it logged.

    Exits where it fails.

    Args:
      *arguments: of the command line.
      environment: more variables.
    """
    command = [sys.executable, "-m", "ddad_jax.main", *map(str, arguments)]
    began = time.monotonic()
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(
            command, stderr=said, stdout=said, env=os.environ | (environment or {})
        )
        _, status, usage = os.wait4(process.pid, 0)
        said.seek(0)
        text = said.read()
    if os.waitstatus_to_exitcode(status):
        sys.exit(f"{' '.join(command)}: {text[-2000:]}")
    return time.monotonic() - began, usage.ru_maxrss / 1e6, text


def _run(
    arguments: list[str], devices: int, cwd: Path, variables: Mapping[str, str], outputs: list[Path]
) -> None:
    """What the console script does, in a fork."""
    for number, path in enumerate(outputs, start=1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), number)
    os.chdir(cwd)
    os.environ["XLA_FLAGS"] += f" --xla_force_host_platform_device_count={devices}"
    os.environ.update(variables)
    # JAX has read it when it was imported; the program names it in an error.
    import jax

    jax.config.update("jax_platforms", variables["JAX_PLATFORMS"])
    sys.argv = ["ddad_jax", *arguments]
    from ddad_jax import main

    main.command()
