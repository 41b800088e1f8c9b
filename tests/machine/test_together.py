"""Images that two processes divide over loopback."""

import json
import os
import subprocess
import sys

import pytest

from ddad_jax.machine import together
from tests.machine.test_processes import ROOT, free_address

DIVIDED = """
import json, sys
import jax
import numpy as np
from ddad_jax.detection.batching import batched
from ddad_jax.machine import processes, together

number, count = int(sys.argv[2]), int(sys.argv[3])
if count > 1:
    processes.start(sys.argv[1], count, number)
images = np.random.default_rng(0).integers(0, 256, (7, 4, 4, 3), np.uint8)
seen = []

def work(batch):
    seen.append(batch.shape[0])
    return {"sum": batch.sum((1, 2, 3)).astype(np.int32), "image": batch, "none": None}

said = {}
for of in (7, 2, 1, 0):
    seen.clear()
    with together.dividing():
        found = list(batched(work, images[:of], 2, ""))
    said[of] = [[each["sum"].tolist() for each in found], len(seen)]
    assert np.array_equal(np.concatenate([images[:0], *(e["image"] for e in found)]), images[:of])
with together.dividing():
    said["everywhere"] = [together.everywhere(number == 0), together.everywhere(True)]
said["exchanged"] = together.exchange({"number": number})
together.ITEMS = 2
made = (f"{number}-{item}" for item in range(1 + 4 * number))
said["joined"] = list(together.joined(made))
assert not list(made)
seen.clear()
list(batched(work, images, 2, ""))
said["alone"] = len(seen)
print(json.dumps(said))
"""


def run(count):
    """What each of so many processes says."""
    address = free_address()
    started = [
        subprocess.Popen(
            [sys.executable, "-c", DIVIDED, address, str(number), str(count)],
            cwd=ROOT, env=os.environ | {"JAX_PLATFORMS": "cpu"}, stdout=subprocess.PIPE, text=True,
        )
        for number in range(count)
    ]  # fmt: skip
    ended = [process.communicate(timeout=300)[0] for process in started]
    assert [process.returncode for process in started] == [0] * count
    return [json.loads(said.splitlines()[-1]) for said in ended]


def test_nothing_is_divided_by_one_process():
    assert together.share() == (0, 1)
    with together.dividing():
        assert together.share() == (0, 1)
        assert together.gather({"a": 1}) == [{"a": 1}]
        assert together.everywhere(True) and not together.everywhere(False)


@pytest.mark.slow
def test_every_process_has_all_results_and_computes_its_share():
    (alone,) = run(1)
    pair = run(2)
    for said in pair:
        for of in ("7", "2", "1", "0"):
            assert said[of][0] == alone[of][0]
        # Of four batches two each; where there is but one, both compute it.
        assert [said[of][1] for of in ("7", "2", "1", "0")] == [2, 1, 1, 0]
        assert said["everywhere"] == [False, True]
        assert said["alone"] == alone["alone"] == 4
        assert said["exchanged"] == [{"number": 0}, {"number": 1}]
    assert [alone[of][1] for of in ("7", "2", "1", "0")] == [4, 1, 1, 0]
    # As each has made them, two at a time, and by process 0 alone.
    assert pair[0]["joined"] == ["0-0", "1-0", "1-1", "1-2", "1-3", "1-4"]
    assert (pair[1]["joined"], alone["joined"]) == ([], ["0-0"])
