"""The steps of docs/container/Containerfile in an empty root, where there is no builder of images.

sudo python -m tests.serving.container <detector.safetensors> <photograph>...

Needs debootstrap, the network, 2 GB and some minutes. An empty Debian is made, each COPY and RUN
is done in it, the entry point started as the user that it names, and the client in docs asks it.
"""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

SOURCE = Path(__file__).parents[2]
READY = "http://127.0.0.1:8000/v2/health/ready"


def instructions() -> list[list[str]]:
    """Name and rest of each, in order."""
    text = (SOURCE / "docs/container/Containerfile").read_text()
    lines = re.sub(r"^#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", "").splitlines()
    return [line.split(maxsplit=1) for line in lines if line.strip()]


def build(root: Path) -> tuple[dict[str, str], str, list[str]]:
    """Fills an empty folder; environment, user and command of what runs in it."""
    environment, user = {"PATH": os.defpath + ":/usr/sbin:/sbin"}, "root"
    arguments, command = {}, []
    for name, rest in instructions():
        print(name, rest[:100], flush=True)
        if name == "FROM":
            suite = rest.rpartition(":")[2].removesuffix("-slim")
            subprocess.run(["debootstrap", "--variant=minbase", suite, root],
                           check=True, stdout=subprocess.DEVNULL)  # fmt: skip
            arguments |= reach_the_network(root)
        elif name == "ARG":
            key, _, value = rest.partition("=")
            arguments[key] = value
        elif name == "ENV":
            environment |= dict(each.split("=", 1) for each in shlex.split(rest))
        elif name == "COPY":
            *sources, target = rest.split()
            place = root / target.lstrip("/")
            for source in (SOURCE / each for each in sources):
                if source.is_dir():
                    shutil.copytree(source, place, ignore=shutil.ignore_patterns("__pycache__"))
                else:
                    place.mkdir(parents=True, exist_ok=True)
                    shutil.copy(source, place)
        elif name == "RUN":
            subprocess.run(inside(root, user, ["/bin/sh", "-c", rest]),
                           env=environment | arguments, check=True)  # fmt: skip
        elif name == "USER":
            user = rest
        elif name == "ENTRYPOINT":
            command = json.loads(rest)
    return environment, user, command


def reach_the_network(root: Path) -> dict[str, str]:
    """Gives a root what this machine needs to reach package registries; variables for pip."""
    shutil.copy("/etc/resolv.conf", root / "etc/resolv.conf")
    known = Path("/etc/ssl/certs/ca-certificates.crt")
    shutil.copy(known, root / "etc/certificates.crt")
    return {"PIP_CERT": "/etc/certificates.crt"}


def inside(root: Path, user: str, command: list[str]) -> list[str]:
    """The command in a root, with what a container has of the kernel, and no file from outside."""
    kinds = {"/proc": "proc", "/sys": "sysfs", "/dev/shm": "tmpfs", "/tmp": "tmpfs"}
    steps = [
        f"mkdir -p {root}{at} && mount -t {kind} none {root}{at}" for at, kind in kinds.items()
    ]
    steps.append(f"exec chroot --userspec={user} {root} {shlex.join(command)}")
    return ["unshare", "--mount", "sh", "-c", " && ".join(steps)]


def main(detector: str, *photographs: str) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch) / "root"
        began = time.monotonic()
        environment, user, command = build(root)
        size = sum(each.lstat().st_size for each in root.rglob("*"))
        print(f"built in {time.monotonic() - began:.0f} s, {size / 1e9:.2f} GB", flush=True)
        (root / "detectors").mkdir()
        shutil.copy(detector, root / "detectors/part.safetensors")
        began = time.monotonic()
        server = subprocess.Popen(inside(root, user, command), env=environment)
        try:
            wait_until_ready(server)
            print(f"ready after {time.monotonic() - began:.0f} s", flush=True)
            client = SOURCE / "docs/clients/client.py"
            address = "http://127.0.0.1:8000/detectors/part"
            subprocess.run([sys.executable, client, address, *photographs], check=True)
        finally:
            server.send_signal(signal.SIGTERM)
            print(f"the server ended with code {server.wait(120)}")


def wait_until_ready(server: subprocess.Popen) -> None:
    while server.poll() is None:
        try:
            with urllib.request.urlopen(READY) as response:
                if json.load(response)["ready"]:
                    return
        except OSError:
            time.sleep(1)
    raise SystemExit(f"the server ended with code {server.returncode}")


if __name__ == "__main__":
    main(*sys.argv[1:])
