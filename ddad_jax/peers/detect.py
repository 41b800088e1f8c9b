"""Times detection and its stages, ours and PyTorch's in turns.

    python -m ddad_jax.peers.detect --size=published --batch_sizes=1,8 --rounds=5

The outputs are compared first. Preset "paper" does what PyTorch does; "full" and "fast" take fewer
steps and add the nearest-patch distances, which the official code does not have.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import torch
from absl import app, flags

from ddad_jax.benchmark.programs import WHOLE, detection_entries
from ddad_jax.benchmark.seeded import seeded_images
from ddad_jax.detection.batching import batched
from ddad_jax.detection.detect import detect
from ddad_jax.detection.detector import Detector
from ddad_jax.experiment.schema import PRESETS
from ddad_jax.machine.kernels import choose_cpu_kernels
from ddad_jax.peers import results
from ddad_jax.peers.networks import CONFIGS, make_detector
from ddad_jax.peers.timing import alternate, summary
from ddad_jax.peers.torch_pipeline import Pipeline

PEERS = {
    "eager": {},
    "compiled": {"compiled": True},
    "bfloat16": {"bfloat16": True},
    "compiled bfloat16": {"compiled": True, "bfloat16": True},
}
STAGES = ["encode", "UNet step", "decode"]
# Largest difference between two heat maps, as a share of their range.
TOLERANCE = {"float32": 1e-3, "bfloat16": 0.1}

SIZE = flags.DEFINE_enum("size", "small", list(CONFIGS), "Whose networks.")
BATCH_SIZES = flags.DEFINE_list("batch_sizes", ["16", "1"], "Images at a time.")
WORK = flags.DEFINE_list("work", [WHOLE], f"What is timed: {WHOLE}, {', '.join(STAGES)}.")
ROUNDS = flags.DEFINE_integer("rounds", 7, "Rounds of the alternation.")
DTYPES = flags.DEFINE_list("dtypes", ["float32"], "Our compute types.")
PRESET = flags.DEFINE_list("presets", list(PRESETS), "Ours, where the whole is timed.")
flags.register_validator(
    "presets", lambda given: {*given} <= {*PRESETS}, f"must be some of {', '.join(PRESETS)}"
)
PEER = flags.DEFINE_list("peers", ["eager"], f"PyTorch's: {', '.join(PEERS)}; the first is the "
                         "reference.")  # fmt: skip
BANK = flags.DEFINE_integer("bank", 200, "Training images of the k-NN bank.")
CHECK = flags.DEFINE_bool("check", True, "Whether the outputs are compared first.")
WARM_UP = flags.DEFINE_bool("warm_up", True, "Whether each is called once before it is timed.")
RESULTS = flags.DEFINE_string("results", None, "Where figures are kept, without suffix.")


def require_agreement(
    detector: Detector, peer: Pipeline, images: np.ndarray, tolerance: float
) -> None:
    """Checks that both sides compute the same.

    Raises:
      SystemExit: they do not.
    """
    ours, theirs = detect(detector, images), peer.detect(images)
    if not np.array_equal(ours.noise_level, theirs["noise_level"]):
        raise SystemExit("the noise levels differ")
    difference = np.abs(np.asarray(ours.anomaly_map) - theirs["heat_map"]).max()
    share = difference / np.ptp(theirs["heat_map"])
    print(f"heat maps differ by at most {share:.1e} of their range")
    if not share <= tolerance:
        raise SystemExit(f"more than the {tolerance:.0e} allowed")


def our_work(detector: Detector, work: str, batch_size: int) -> Callable[[], None]:
    """Returns a compiled call that ends when its results are there.

    `detect` runs as in every command: on a CPU one image per call, with several calls in parallel.
    """
    at_a_time = 1 if work == WHOLE and jax.default_backend() == "cpu" else batch_size
    entries = {entry.name: entry for entry in detection_entries(detector, at_a_time)}
    program = entries[work].make()
    compiled = program.function.lower(*program.arguments).compile()
    if at_a_time == batch_size:
        return lambda: jax.block_until_ready(compiled(*program.arguments))
    images = np.array(seeded_images(batch_size, detector.settings.image_size, seed=1))

    def run() -> None:
        for _ in batched(partial(compiled, detector), images, at_a_time, ""):
            pass

    return run


def peer_work(peer: Pipeline, detector: Detector, work: str, batch_size: int) -> Callable[[], Any]:
    """Returns PyTorch's call, for the same work on the same inputs."""
    entries = {entry.name: entry for entry in detection_entries(detector, batch_size)}
    inputs = entries[work].make().arguments[1]
    if work == WHOLE:
        return partial(peer.detect, np.array(inputs))
    state = {name: torch.tensor(np.array(inputs[name])) for name in ("pixels", "latent", "level")}
    pixels, latent = (
        state[name].permute(0, 3, 1, 2).contiguous().to(peer.device)
        for name in ("pixels", "latent")
    )
    level = state["level"].to(peer.device)
    call = {
        "encode": partial(peer.encode, pixels),
        "UNet step": partial(peer.reconstruct, latent, level, 1),
        "decode": partial(peer.decode, latent),
    }[work]

    @torch.no_grad()
    def run() -> None:
        result = call()
        if result.is_cuda:
            torch.cuda.synchronize()

    return run


def main(argv: list[str]) -> None:
    """Compares both, then times them."""
    del argv
    choose_cpu_kernels()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    detectors = {
        (dtype, preset): make_detector(SIZE.value, dtype, preset, BANK.value)
        for dtype in DTYPES.value
        for preset in PRESET.value
    }
    plain = make_detector(SIZE.value, "float32", "paper", BANK.value)
    peers = {name: Pipeline(plain, device=device, **PEERS[name]) for name in PEER.value}
    reference = f"PyTorch, {PEER.value[0]}"
    print(f"PyTorch {torch.__version__} on {device} with {torch.get_num_threads()} threads; "
          f"JAX {jax.__version__} on {jax.devices()}", flush=True)  # fmt: skip
    if CHECK.value:
        example = np.array(seeded_images(1, plain.settings.image_size, seed=1))
        tolerance = TOLERANCE["bfloat16" if "bfloat16" in PEER.value[0] else "float32"]
        require_agreement(plain, peers[PEER.value[0]], example, tolerance)
    for batch_size in map(int, BATCH_SIZES.value):
        for work in WORK.value:
            print(f"\n{work}, batch size {batch_size}", flush=True)
            contenders = {
                f"PyTorch, {name}": peer_work(peer, plain, work, batch_size)
                for name, peer in peers.items()
            }
            for (dtype, preset), detector in detectors.items():
                if work == WHOLE:
                    name = f"ddad_jax, {dtype}, {preset}"
                    contenders[name] = our_work(detector, work, batch_size)
            for dtype in DTYPES.value if work != WHOLE else ():
                of_paper = make_detector(SIZE.value, dtype, "paper", BANK.value)
                contenders[f"ddad_jax, {dtype}"] = our_work(of_paper, work, batch_size)
            seconds = alternate(contenders, ROUNDS.value, warm_up=WARM_UP.value)
            print(summary(seconds, reference, batch_size, "image"), flush=True)
            if RESULTS.value:
                found = results.rows(f"{work}, {SIZE.value} networks", batch_size, seconds,
                                     reference)  # fmt: skip
                results.keep(Path(RESULTS.value), found, reference)


if __name__ == "__main__":
    app.run(main)
