import subprocess
import sys

import pytest

# What is raised while a compiler runs may be lost; here it is lost on purpose.
LOST = """
import os, signal, sys
from ddad_jax.machine.parallel import map_in_threads
from ddad_jax.machine import interrupts

interrupts.listen()
try:
    os.kill(os.getpid(), getattr(signal, sys.argv[1]))
except KeyboardInterrupt:
    pass
assert interrupts.was_asked()
try:
    list(map_in_threads(str, range(3)))
except KeyboardInterrupt:
    print("ended")
"""


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_long_work_ends_though_the_exception_was_lost(name):
    found = subprocess.run([sys.executable, "-c", LOST, name], capture_output=True, text=True)
    assert found.stdout == "ended\n", found.stderr
