"""The command line: `python -m ddad_jax.main --config=configs/<name>.py --workdir=<folder>`."""

import difflib
import errno
import json
import logging as standard_logging
import os
import sys
from pathlib import Path

import jax
from absl import flags, logging
from ml_collections import config_flags

from ddad_jax.errors import EXIT_BAD_INPUT, EXIT_INTERRUPTED, Interrupted, UserError
from ddad_jax.experiment import config as builders
from ddad_jax.experiment import modes
from ddad_jax.machine import kernels, processes

CONFIG = config_flags.DEFINE_config_file("config", None, "The experiment, a file of configs/.")
WORKDIR = flags.DEFINE_string("workdir", None, "Folder for everything that the run writes.")
MODE = flags.DEFINE_enum(
    "mode",
    "fit",
    list(modes.MODES),
    "fit: all of it. prepare: check the data set and decode it. train: autoencoder and denoiser. "
    "adapt: also the extractor. evaluate: score the test images with the fitted detector. predict: "
    "score the images of --images. ablate: evaluate the trained model with every combination of "
    "what --vary names. compare: two run folders, or two benchmark.json: --mode=compare runs/a "
    "runs/b. benchmark: time training and detection, with drawn weights and images. "
    "convert: write the weights of --network to --output for PyTorch.",
)
IMAGES = flags.DEFINE_string("images", None, "With --mode=predict: a folder of images, or one.")
VARY = flags.DEFINE_multi_string(
    "vary",
    [],
    "With --mode=ablate: a setting of detection or build and its values, such as "
    "detection.start=scaled,noised; may be repeated, all combinations are evaluated.",
)
NETWORK = flags.DEFINE_enum(
    "network", "denoiser", ["autoencoder", "denoiser", "extractor"], "With --mode=convert: which."
)
OUTPUT = flags.DEFINE_string(
    "output", None, "With --mode=convert: a .safetensors, .pth, .pt or .bin file."
)
# Modes that several processes do not share.
ONE_PROCESS = ("ablate", "predict", "benchmark")
COORDINATOR = flags.DEFINE_string(
    "coordinator", None, "Of several processes: address and port of process 0, for all the same."
)
NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "Of several processes: how many.")
PROCESS_ID = flags.DEFINE_integer("process_id", None, "Of several processes: which, from 0.")


def main(argv: list[str]) -> None:
    """Runs the chosen mode and turns the ways it may end into exit codes."""
    if MODE.value == "compare":
        written_to = None if WORKDIR.value is None else _writable(Path(WORKDIR.value))
        modes.compare(argv[1:], written_to)
        return
    if len(argv) > 1:
        raise UserError(f"'{argv[1]}' is no flag; every setting is given as --config.name=value")
    if CONFIG.value is None:
        raise UserError("--config is missing; choose a file, such as --config=configs/demo.py")
    if MODE.value == "convert":
        workdir = Path(WORKDIR.value) if WORKDIR.value else None
        modes.convert(CONFIG.value, workdir, NETWORK.value, OUTPUT.value)
        return
    if WORKDIR.value is None:
        raise UserError("--workdir is missing; name the folder that the run may write to")
    workdir = _writable(Path(WORKDIR.value))
    kernels.choose_cpu_kernels()
    processes.start(COORDINATOR.value, NUM_PROCESSES.value, PROCESS_ID.value)
    if jax.process_count() > 1:
        _require_agreement()
    _log_to(workdir / "log.txt" if processes.is_first() else Path(os.devnull))
    # JAX_COMPILATION_CACHE_DIR names one that several runs share.
    if jax.config.jax_compilation_cache_dir is None:
        cache = workdir.resolve() / "compilation_cache"
        jax.config.update("jax_compilation_cache_dir", str(cache))
    logging.info("%s on %s", MODE.value, ", ".join(str(device) for device in jax.devices()))
    if MODE.value == "benchmark":
        modes.benchmark(CONFIG.value, workdir)
    elif MODE.value == "ablate":
        modes.ablate(CONFIG.value, workdir, VARY.value)
    elif MODE.value == "predict":
        modes.predict(CONFIG.value, workdir, IMAGES.value)
    else:
        modes.run(MODE.value, CONFIG.value, workdir)


def _require_agreement() -> None:
    """Checks that every process has the same config and code.

    Raises:
      UserError: naming what differs; or the mode is for one process.
    """
    if MODE.value in ONE_PROCESS:
        raise UserError(f"--mode={MODE.value}: is for one process; leave out --coordinator")
    config = json.loads(CONFIG.value.to_json_best_effort())
    own = {"mode": MODE.value, "config": config, "code": processes.source_hash()}
    first, *others = map(json.loads, processes.gather_texts(json.dumps(own, sort_keys=True)))
    for number, other in enumerate(others, start=1):
        if other != first:
            name, expected, found = builders.first_difference(first, other, list(first))
            raise UserError(
                f"process {number}: has {name} = {found}, but process 0 has {expected}; start all "
                "with the same command and code"
            )


def _writable(workdir: Path) -> Path:
    probe = workdir / ".writable"
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(
            f"--workdir={workdir}: cannot be written ({error.strerror}); choose another folder"
        ) from error
    return workdir


def _log_to(path: Path) -> None:
    """Copies the log to a file, and keeps other libraries' chatter out of both."""
    handler = standard_logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.PythonFormatter())
    logging.use_absl_handler()
    logging.get_absl_logger().addHandler(handler)
    logging.set_verbosity(logging.INFO)
    # A line that a full disk does not take is lost, and that alone.
    standard_logging.raiseExceptions = False
    for each in (handler, logging.get_absl_handler()):
        each.addFilter(_is_worth_a_line)


def _is_worth_a_line(record: standard_logging.LogRecord) -> bool:
    """All that this package says, and others' warnings; what Orbax fails at, it also raises."""
    if record.pathname.startswith(str(Path(__file__).parent)):
        return True
    return record.levelno > standard_logging.INFO and "/orbax/" not in record.pathname


def _parse_flags(argv: list[str]) -> list[str]:
    """Parses the command line; a mistake becomes one line that says what to do."""
    try:
        rest = flags.FLAGS(argv)
        # A config file that cannot be read is said only when a setting is first asked for.
        if CONFIG.value is not None:
            CONFIG.value.to_dict()
        return rest
    except flags.UnrecognizedFlagError as error:
        raise UserError(_unknown_flag(error)) from error
    except (AttributeError, KeyError) as error:
        raise UserError(_unknown_setting(argv, str(error))) from error
    except OSError as error:
        reason = str(error).rpartition("]")[2].strip()
        raise UserError(
            f"--config: {reason}; choose a file, such as --config=configs/demo.py"
        ) from error
    except (flags.Error, TypeError, ValueError) as error:
        raise UserError(" ".join(str(error).split())) from error


def _unknown_setting(argv: list[str], message: str) -> str:
    """Names the override that config_flags could not place; its error only has the last name."""
    words = [word.strip("\\'\"?") for word in message.replace("\\n", " ").split()]
    given = [argument for argument in argv if argument.startswith("--config.")]
    name = next((argument for argument in given if words[0] in argument.split("=")[0]), words[0])
    near = [word for word in words[1:] if word not in ("Did", "you", "mean", "instead", "of")]
    return f"{name}: there is no setting '{words[0]}'" + (
        f"; did you mean '{near[0]}'?" if near else "; configs/default.py lists all"
    )


def _unknown_flag(error: flags.UnrecognizedFlagError) -> str:
    near = difflib.get_close_matches(error.flagname, list(flags.FLAGS), n=1)
    return f"--{error.flagname}: no such setting" + (f"; did you mean --{near[0]}?" if near else "")


def run(argv: list[str]) -> int:
    """The whole program; returns its exit code."""
    try:
        main(_parse_flags(argv))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_BAD_INPUT
    except Interrupted as error:
        print(f"interrupted: {error}", file=sys.stderr)
        return EXIT_INTERRUPTED
    except jax.errors.JaxRuntimeError as error:
        if jax.process_count() == 1:
            raise
        processes.end_process(f"{processes.GONE} ({str(error).splitlines()[0]})")
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        where = error.filename or f"--workdir={WORKDIR.value}"
        print(
            f"error: {where}: {error.strerror}; make room, and the same command continues",
            file=sys.stderr,
        )
        return EXIT_BAD_INPUT
    return 0


if __name__ == "__main__":
    sys.exit(run(sys.argv))
