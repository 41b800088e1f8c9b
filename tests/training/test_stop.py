import os
import signal
import subprocess
import sys

import pytest

from ddad_jax.training.stop import stop_requests

UNDER_JAX_DISTRIBUTED = """
import os, signal, socket, time, jax
from ddad_jax.training.stop import stop_requests

with socket.socket() as free:
    free.bind(("localhost", 0))
    port = free.getsockname()[1]
jax.distributed.initialize(f"localhost:{port}", 1, 0)
with stop_requests() as reason:
    for step in range(1, 600):
        if step == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        if reason(step):
            print(reason(step), "after step 3:", step > 3)
            break
        time.sleep(0.1)
"""


class Ended(Exception):
    pass


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_told_by_name_and_handled_as_before_afterwards(number):
    before = signal.getsignal(number)
    with pytest.raises(Ended), stop_requests() as reason:
        assert reason(1) == ""
        os.kill(os.getpid(), number)
        assert reason(2) == signal.Signals(number).name
        raise Ended
    assert signal.getsignal(number) is before


def test_a_signal_that_came_too_late_for_the_steps_is_handed_on():
    """It is meant for the run, whose next stage would take minutes."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt), stop_requests():
            os.kill(os.getpid(), signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


def test_under_jax_distributed_the_preemption_notice_is_told():
    command = [sys.executable, "-c", UNDER_JAX_DISTRIBUTED]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    assert "after step 3: True" in result.stdout
