"""Asks a server of ddad_jax about photographs; Python's standard library is all it needs.

python client.py http://127.0.0.1:8000/detectors/part photograph.png another.jpg

Where the server asks for a token, it is taken from the environment: DDAD_JAX_TOKEN.
"""

import json
import os
import sys
import time
import urllib.error
import urllib.request


def ask(address: str, photograph: bytes) -> dict:
    """What the detector says; a busy server is asked again when it says that it may be."""
    headers = {"Content-Type": "application/octet-stream"}
    if token := os.environ.get("DDAD_JAX_TOKEN"):
        headers["Authorization"] = f"Bearer {token}"
    while True:
        try:
            with urllib.request.urlopen(urllib.request.Request(address, photograph, headers)) as r:
                return json.load(r)
        except urllib.error.HTTPError as error:
            if error.code != 503:
                return json.load(error)
            time.sleep(float(error.headers.get("Retry-After", 1)))


if __name__ == "__main__":
    for path in sys.argv[2:]:
        with open(path, "rb") as file:
            said = ask(sys.argv[1], file.read())
        print(path, said.get("error") or f"{said['decision']} {said['score']:.3f}", sep=": ")
