import json
import os
import socket
import subprocess
import sys
import time

import pytest

from ddad_jax.errors import UserError
from ddad_jax.machine import lease
from ddad_jax.machine.lease import Lease
from ddad_jax.machine.objects import Store
from ddad_jax.machine.storage import OWNER

HOLD = """
import sys, time
from ddad_jax.machine.lease import Lease
from ddad_jax.machine.objects import Store
with Lease(Store(sys.argv[1], "--workdir")):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(lease, "RENEWED_EVERY", 0.2)
    monkeypatch.setattr(lease, "GONE_AFTER", 2.0)
    monkeypatch.setattr(lease, "POLLED_EVERY", 0.3)


@pytest.fixture
def store(bucket):
    return Store(bucket, "--workdir")


def test_a_second_command_is_refused_while_the_first_gives_signs_of_life(
    store, bucket, monkeypatch
):
    here = f"host {socket.gethostname()}, process {os.getpid()}"
    with Lease(store), monkeypatch.context() as patch:
        patch.setattr(socket, "gethostname", lambda: "elsewhere")
        with pytest.raises(UserError, match=rf"^--workdir={bucket}: another .*\({here}\)"):
            Lease(store).__enter__()
    assert store.read(OWNER) is None
    with Lease(store) as held:
        held.check()


def test_one_that_was_killed_here_is_passed_over_at_once(store, bucket, monkeypatch):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, bucket], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    process.kill()
    process.communicate()
    assert json.loads(store.read(OWNER))["process"] == process.pid
    monkeypatch.setattr(lease, "GONE_AFTER", 600.0)
    with Lease(store) as held:
        held.check()


@pytest.mark.slow
def test_one_elsewhere_counts_as_gone_after_a_while(store):
    store.write(
        OWNER, json.dumps({"host": "gone", "process": 1, "token": "x", "signs": 3}).encode()
    )
    began = time.monotonic()
    with Lease(store) as held:
        assert time.monotonic() - began >= lease.GONE_AFTER
        held.check()


def test_who_was_taken_for_gone_may_write_no_more(store):
    with Lease(store) as held:
        other = {"host": "elsewhere", "process": 7, "token": "other", "signs": 0}
        store.write(OWNER, json.dumps(other).encode())
        with pytest.raises(UserError, match=r"taken over by another .* \(host elsewhere, proc"):
            held.check()
    # It is the other's still.
    assert json.loads(store.read(OWNER)) == other
