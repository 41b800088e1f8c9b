"""Several processes that work together: how they start, agree, take turns, and end."""

import ctypes
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import jax
import numpy as np
from jax.experimental import multihost_utils
from orbax.checkpoint import multihost

from ddad_jax.errors import EXIT_INTERRUPTED, UserError
from ddad_jax.machine import copies, memory

# Seconds without a sign of life after which a process counts as gone.
LOST_AFTER = 30
# Seconds that processes wait for one that works alone.
LONGEST_WAIT = 7 * 24 * 3600

GONE = (
    "interrupted: another process has ended or cannot be reached; start all with the same "
    "commands, and they continue from what was written last"
)


def start(coordinator: str | None, num_processes: int | None, process_id: int | None) -> None:
    """Joins the processes that work together; must be called before JAX is first used.

    Without arguments JAX finds the processes in the environment, as on a TPU pod or with SLURM; if
    it finds none, this process works alone.

    Args:
      coordinator: address and port of process 0.
      num_processes: number of processes.
      process_id: number of this process, from 0.

    Raises:
      UserError: only some arguments are given, they are invalid, or process 0 is not reached.
    """
    given = (coordinator, num_processes, process_id)
    if any(value is not None for value in given) and None in given:
        raise UserError(
            "--coordinator, --num_processes, --process_id: give all three or none, such as "
            "--coordinator=10.0.0.1:1234 --num_processes=2 --process_id=0"
        )
    try:
        jax.distributed.initialize(
            *given, heartbeat_timeout_seconds=LOST_AFTER, shutdown_timeout_seconds=LOST_AFTER
        )
    except ValueError as error:
        if coordinator is None:
            return
        raise UserError(f"--coordinator={coordinator}: {error}") from error
    except RuntimeError as error:
        reason = str(error).strip().split("\n")[0]
        raise UserError(
            f"--coordinator={coordinator}: process 0 cannot be reached ({reason}); check the "
            "address, and that all processes are started"
        ) from error
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    # JAX aborts a process that has lost another; instead, it shall end with a message and a code.
    ctypes.CDLL(None).signal(signal.SIGABRT, _on_abort)


@ctypes.CFUNCTYPE(None, ctypes.c_int)
def _on_abort(_: int) -> None:
    end_process(GONE)


def end_process(message: str) -> None:
    """Ends this process at once with the exit code of an interrupt, without waiting for others."""
    os.write(2, f"\n{message}\n".encode())
    os._exit(EXIT_INTERRUPTED)


def is_first() -> bool:
    """Whether this is the process that writes."""
    return jax.process_index() == 0


def wait_for_all(name: str) -> None:
    """Returns when every process has called it."""
    everyone = set(range(jax.process_count()))
    multihost.sync_global_processes(name, timeout=LONGEST_WAIT, processes=everyone)


def compile_together(lowered: jax.stages.Lowered) -> jax.stages.Compiled:
    """Compiles a program, and returns when every process has done so.

    On CPUs, processes must meet at a program's first collective operation within half a minute, and
    compilation times may differ by more.

    Args:
      lowered: the program, as returned by `jax.jit(…).lower(…)`.
    """
    memory.forget_traces()
    compiled = lowered.compile()
    memory.give_back()
    wait_for_all("compiled")
    return compiled


@contextmanager
def first_then_others(name: str) -> Iterator[None]:
    """Runs the block in the first process, then in the others, which find what it wrote.

    If the first process fails, the others still try, and fail in the same way or hear that process
    0 has ended. The files are in a folder that all share, or were published in a bucket.
    """
    if not is_first():
        wait_for_all(name)
        copies.refresh()
    try:
        yield
        copies.publish()
    finally:
        if is_first():
            wait_for_all(name)


def gather_bytes(data: bytes) -> list[bytes]:
    """Gathers the data of each process, in their order, on every process."""
    own = np.frombuffer(data, np.uint8)
    lengths = multihost_utils.process_allgather(np.array([len(own)]))[:, 0]
    # Only a few sizes are used, since JAX compiles a program for each.
    size = 1 << int(lengths.max()).bit_length()
    padded = np.pad(own, (0, size - len(own)))
    gathered = multihost_utils.process_allgather(padded)
    return [row[:length].tobytes() for row, length in zip(gathered, lengths, strict=True)]
