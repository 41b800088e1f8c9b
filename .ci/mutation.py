"""How many single faults the quick tests catch; docs/mutation.md has the command.

Cosmic Ray says which mutations there are of a room's modules; some of them are drawn. Each is made
in a copy of the package, and the quick tests of its module's own test files are run on it. A
mutation that none of them notices has survived: it is a hole in the tests, or changes nothing.

A test process takes ten seconds to import what it needs. So each is a fork of this one, which has
imported all but the package, and what is compiled is shared.
"""

import argparse
import difflib
import importlib
import multiprocessing
import os
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
# Test files of each module, where they are not those of its own name; of rooms all modules are
# mutated but these.
TESTS = {
    "detection/batching": "detection/test_batching.py",
    "detection/detect": "detection/test_detector.py",
    "detection/evidence": "detection/test_detector.py detection/test_restoration.py "
    "detection/test_calibration.py detection/test_build.py",
    "detection/nearest": "detection/test_noise_level.py detection/test_detector.py",
    "evaluation/binary": "evaluation/test_binary.py evaluation/test_metrics.py",
    "evaluation/bootstrap": "evaluation/test_bootstrap.py evaluation/test_metrics.py",
    "evaluation/drawing": "evaluation/test_outputs.py evaluation/test_report.py",
    "evaluation/encode": "evaluation/test_outputs.py evaluation/test_report.py",
    "evaluation/figures": "evaluation/test_figures.py evaluation/test_curves.py",
    "evaluation/find": "evaluation/test_evaluate.py evaluation/test_large_image.py",
    "evaluation/predictions": "evaluation/test_metrics.py evaluation/test_segmentation.py",
    "evaluation/report_tables": "evaluation/test_measures.py evaluation/test_report.py",
    "evaluation/tables": "evaluation/test_results.py",
    "training/adaptation": "training/test_objectives.py",
    "training/autoencoder": "training/test_objectives.py",
    "training/denoiser": "training/test_objectives.py",
    "training/group": "training/test_loop.py",
    "training/validation": "training/test_loop.py",
    "pretrained/pickled": "pretrained/test_hostile_files.py pretrained/test_torch_file.py",
    "experiment/trained": "experiment/test_tasks.py experiment/test_fitting.py",
}
# An alternative in a type is no choice of the program.
IGNORED = ("BitOr", "ReplaceBinaryOperator_Pow")
# What the tests import besides the package.
PRELOADED = (
    "PIL.Image", "beartype", "clu.metrics", "flax.linen", "grain", "jax.numpy", "jaxtyping",
    "matplotlib.figure", "optax", "orbax.checkpoint", "pytest", "scipy.ndimage", "scipy.stats",
    "sklearn.metrics", "torch",
)  # fmt: skip


def tests_of(module: str, folder: Path) -> list[str]:
    """The test files of a module, such as "diffusion/sampler"; none where it has none."""
    room, name = module.split("/")
    files = TESTS.get(module, f"{room}/test_{name}.py").split()
    return [f"tests/{each}" for each in files if (folder / "tests" / each).exists()]


def mutations(folder: Path, room: str) -> list[tuple[str, str, str, int, dict]]:
    """Module, its path, and the operator, occurrence and arguments of each mutation of a room."""
    from cosmic_ray.commands.init import _all_work_items

    found = []
    for path in sorted((folder / "ddad_jax" / room).glob("*.py")):
        module = f"{room}/{path.stem}"
        if not tests_of(module, folder):
            continue
        for item in _all_work_items([path], {}):
            (one,) = item.mutations
            if not any(each in one.operator_name for each in IGNORED):
                arguments = dict(one.operator_args)
                found.append((module, str(path), one.operator_name, one.occurrence, arguments))
    return found


def mutated(code: str, operator: str, occurrence: int, arguments: dict) -> str | None:
    """The code with one mutation; None where it changes nothing but comments and names of types."""
    from cosmic_ray.mutating import mutate_code
    from cosmic_ray.plugins import get_operator

    return mutate_code(code, get_operator(operator)(**arguments), occurrence)


def _run(folder: str, tests: list[str]) -> None:
    """The tests in a fork, whose exit code is theirs."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for number in (1, 2):
        os.dup2(nowhere, number)
    os.chdir(folder)
    sys.path.insert(0, folder)
    import pytest

    options = ["-x", "-q", "-n", "0", "-m", "not slow", "-p", "no:cacheprovider"]
    # Of what is imported already pytest says that it is.
    options += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]
    os._exit(pytest.main([*options, *tests]))


def outcome(folder: Path, tests: list[str], limit: float) -> str:
    """Killed where the tests fail, survived where they pass, timeout where they do not end."""
    process = multiprocessing.get_context("fork").Process(target=_run, args=(str(folder), tests))
    process.start()
    process.join(limit)
    if process.exitcode is None:
        process.kill()
        process.join()
        return "timeout"
    return "killed" if process.exitcode else "survived"


def main() -> None:
    """Prints every survivor and, at the end, a row of each room."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rooms", nargs="+", help="folders of ddad_jax, such as diffusion")
    parser.add_argument("--sample", type=int, default=20, help="mutations drawn of each room")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=float, default=300.0, help="seconds of a mutation's tests")
    parser.add_argument("--source", type=Path, default=ROOT, help="the checkout that is mutated")
    arguments = parser.parse_args()
    os.environ |= {
        "XLA_FLAGS": "--xla_backend_optimization_level=0",
        "JAX_COMPILATION_CACHE_DIR": tempfile.mkdtemp(prefix="mutation"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    sys.dont_write_bytecode = True
    for name in PRELOADED:
        importlib.import_module(name)
    with tempfile.TemporaryDirectory() as home:
        folder = Path(home) / "checkout"
        ignored = shutil.ignore_patterns(".git", "__pycache__")
        shutil.copytree(arguments.source, folder, ignore=ignored)
        rows = [room_score(folder, room, arguments) for room in arguments.rooms]
    print("| room | mutations | drawn | killed | survived | score |\n|---|---|---|---|---|---|")
    print("\n".join(rows))


def room_score(folder: Path, room: str, arguments: argparse.Namespace) -> str:
    """A row of the table; prints survivors on the way."""
    found = mutations(folder, room)
    drawn = random.Random(arguments.seed).sample(found, min(arguments.sample, len(found)))
    survived = 0
    for tests in sorted({tuple(tests_of(module, folder)) for module, *_ in drawn}):
        if outcome(folder, list(tests), 3 * arguments.limit) != "survived":
            raise SystemExit(f"{' '.join(tests)}: do not pass as they are")
    for module, path, operator, occurrence, options in drawn:
        code = Path(path).read_text(encoding="utf-8")
        changed = mutated(code, operator, occurrence, options)
        if changed is None:
            continue
        began = time.monotonic()
        try:
            Path(path).write_text(changed, encoding="utf-8")
            ended = outcome(folder, tests_of(module, folder), arguments.limit)
        finally:
            Path(path).write_text(code, encoding="utf-8")
        survived += ended == "survived"
        print(f"{ended} {time.monotonic() - began:.0f} s: {module}: {operator}", flush=True)
        if ended == "survived":
            lines = difflib.unified_diff(code.splitlines(), changed.splitlines(), n=0, lineterm="")
            print("\n".join(line for line in lines if line[:3] not in ("---", "+++")), flush=True)
    share = (len(drawn) - survived) / len(drawn)
    return (
        f"| {room} | {len(found)} | {len(drawn)} | {len(drawn) - survived} | {survived} | "
        f"{share:.0%} |"
    )


if __name__ == "__main__":
    main()
