"""Seconds from the start of a process to its first decision, where programs are kept and where not.

python -m tests.deploy.first runs/demo/detector.safetensors photograph.png
"""

import os
import subprocess
import sys
import tempfile
import time

ONE = """
import sys
import ddad_jax
print(ddad_jax.load(sys.argv[1]).predict(sys.argv[2]))
"""


def main(detector: str, photograph: str) -> None:
    """Times a process that finds nothing, and four after it."""
    with tempfile.TemporaryDirectory() as cache:
        for number in range(5):
            began = time.monotonic()
            subprocess.run(
                [sys.executable, "-c", ONE, detector, photograph],
                check=True,
                stdout=subprocess.DEVNULL,
                env=os.environ | {"XDG_CACHE_HOME": cache},
            )
            print(f"process {number + 1}: {time.monotonic() - began:.1f} s", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
