"""The command line: `ddad_jax --config=<name> --workdir=<folder>`, or `python -m ddad_jax`."""

import contextlib
import difflib
import errno
import logging as standard_logging
import os
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from textwrap import fill

import jax
from absl import flags, logging

import ddad_jax
from ddad_jax.data.files import share_of_images
from ddad_jax.data.read import allow_large_images
from ddad_jax.errors import EXIT_BAD_INPUT, EXIT_INTERRUPTED, Interrupted, UserError
from ddad_jax.experiment import changing, modes
from ddad_jax.experiment.category import DETECTOR as DETECTOR_FILE
from ddad_jax.experiment.config import load_config, override, read_config, shipped_configs
from ddad_jax.experiment.exporting import export
from ddad_jax.experiment.identity import first_difference
from ddad_jax.experiment.predicting import predict
from ddad_jax.experiment.reference import settings_table
from ddad_jax.experiment.schema import NETWORKS, Config
from ddad_jax.experiment.serving import serve
from ddad_jax.experiment.submitting import submit
from ddad_jax.machine import copies, interrupts, kernels, processes, programs
from ddad_jax.machine.description import source_hash
from ddad_jax.machine.objects import is_url
from ddad_jax.machine.storage import local_path, only_run
from ddad_jax.machine.together import exchange
from ddad_jax.machine.workdir import working_copy

PACKAGE = Path(ddad_jax.__file__).parent
INTERRUPTED = "interrupted: the same command continues"
# Packages that log what they also raise.
RAISING = ("/orbax/", "/gcsfs/", "/s3fs/")
# Modes that run as one process only.
ONE_PROCESS = ("submit", "serve", "extend", "threshold", "export")
# Modes that need a detector and no config.
WITH_DETECTOR = ("predict", "serve", "extend", "threshold", "export")

FLAGS = flags.FlagValues()


def _text(name: str, help_text: str) -> flags.FlagHolder:
    return flags.DEFINE_string(name, None, help_text, flag_values=FLAGS)


MODE = flags.DEFINE_enum("mode", "fit", list(modes.MODES), "What to do.", flag_values=FLAGS)
WORKDIR = _text("workdir", "folder for everything that the run writes; may be gs://… or s3://…")
IMAGES = _text("images", "predict: a folder of images, or one image; extend, export: good images")
DETECTOR = _text(
    "detector",
    "predict, serve, extend, threshold, export: a detector's file, instead of --workdir's; "
    "serve: or a folder of them",
)
OUTPUT = _text(
    "output",
    "convert, extend, threshold, export: the file to write; predict, submit: folder for results",
)
WATCH = flags.DEFINE_bool(
    "watch", False, "predict: continue with images that appear in the folder, until it is stopped",
    flag_values=FLAGS,
)  # fmt: skip
UNDO = flags.DEFINE_bool("undo", False, "extend: remove what was added last", flag_values=FLAGS)
BRIEF = flags.DEFINE_bool("brief", False, "export: leave out the reconstruction", flag_values=FLAGS)
RATE = flags.DEFINE_float(
    "rate", None, "threshold: the false-alarm rate to set it for, such as 0.05", flag_values=FLAGS
)
VALUE = flags.DEFINE_float("value", None, "threshold: the value to set", flag_values=FLAGS)
VARY = flags.DEFINE_multi_string(
    "vary", [], "ablate: a setting and its values, such as detection.blur=2,4; may be repeated",
    flag_values=FLAGS,
)  # fmt: skip
NETWORK = flags.DEFINE_enum(
    "network", "denoiser", NETWORKS, "convert: autoencoder, denoiser or extractor",
    flag_values=FLAGS,
)  # fmt: skip
SCRATCH = _text(
    "scratch", "folder on this machine for files that are read from a bucket or go to one"
)
TRAIN_ON = flags.DEFINE_bool(
    "train_on", False, "fit, train, adapt: train further with the current images and settings",
    flag_values=FLAGS,
)  # fmt: skip
COORDINATOR = _text("coordinator", "several processes: address and port of process 0")
NUM_PROCESSES = flags.DEFINE_integer(
    "num_processes", None, "several processes: how many", flag_values=FLAGS
)
PROCESS_ID = flags.DEFINE_integer(
    "process_id", None, "several processes: the number of this one, from 0", flag_values=FLAGS
)
SHOWN = (WORKDIR, IMAGES, DETECTOR, OUTPUT, WATCH, UNDO, BRIEF, RATE, VALUE, VARY, NETWORK,
         TRAIN_ON, SCRATCH, COORDINATOR, NUM_PROCESSES, PROCESS_ID)  # fmt: skip

HELP = """\
ddad_jax {version}: finds defects in photographs of parts after seeing good parts only.

usage: ddad_jax --config=<name or file> --workdir=<folder> [--mode=<mode>] [--config.<setting>=...]

examples:
  ddad_jax --config=demo --workdir=runs/demo
  ddad_jax --config=folder --workdir=runs/mine --config.data.root=photos/good
  ddad_jax --mode=predict --workdir=runs/mine --images=photos/new
  ddad_jax --mode=predict --workdir=runs/mine --images=/camera --watch
  ddad_jax --mode=serve --workdir=runs/mine

modes:
{modes}

flags:
{flags}

{configs}
settings: {settings}
exit codes: 0 done; 2 something in the input is wrong, one line says what; 75 interrupted, the same
command continues
"""


def help_text() -> str:
    """Returns what --help prints."""
    rows = {f"--mode={name}": text for name, text in modes.MODES.items()}
    described = {f"--{each.name}": FLAGS[each.name].help for each in SHOWN}
    config = {"--config": "a config's name or file; --config.<setting>=<value> changes a setting"}
    last = {"--help": "this", "--version": "the version"}
    return HELP.format(
        version=ddad_jax.__version__,
        modes=_columns(rows),
        flags=_columns(config | described | last),
        configs=fill(
            f"configs: {', '.join(shipped_configs())}; or a file of your own",
            width=100,
            subsequent_indent="  ",
        ),
        settings="--config=<name> --help lists every setting with its value in that config",
    )


def _columns(rows: dict[str, str]) -> str:
    width = max(map(len, rows)) + 2
    indent = " " * (width + 2)
    return "\n".join(
        textwrap.fill(f"  {name.ljust(width)}{text}", 100, subsequent_indent=indent)
        for name, text in rows.items()
    )


def main(argv: Sequence[str]) -> None:
    """Runs the chosen mode; raises the errors that `run` turns into exit codes."""
    arguments, name, assignments = _divide(argv)
    asked = {each.lstrip("-") for each in arguments if each.startswith("-")}
    if asked & {"version"}:
        print(f"ddad_jax {ddad_jax.__version__}")
        return
    if asked & {"h", "help", "helpfull", "helpshort"}:
        print(settings_table(_config(name, assignments)) if name else help_text(), end="")
        return
    rest = _parse_flags([argv[0], *arguments])
    # Libraries read absl's own flags, which are never given here.
    flags.FLAGS.mark_as_parsed()
    mode = MODE.value
    if SCRATCH.value:
        copies.use_scratch(_writable(local_path(SCRATCH.value, "--scratch"), "--scratch"))
    with contextlib.ExitStack() as stack:
        _carry_out(mode, rest[1:], name, assignments, stack)
    if jax.distributed.is_initialized():
        # Process 0 may still write for longer than JAX lets the others wait at exit.
        processes.wait_for_all("done")


def _carry_out(
    mode: str,
    rest: Sequence[str],
    name: str | None,
    assignments: Sequence[tuple[str, str]],
    stack: contextlib.ExitStack,
) -> None:
    """Does what the flags ask for; `stack` publishes the copy of a bucket's folder afterwards."""
    if mode == "compare":
        written_to = _writable(_workdir(mode, stack)) if WORKDIR.value else None
        found = [copies.readable_path(each, "--mode=compare", _is_of_training) for each in rest]
        modes.compare(found, written_to)
        return
    if rest:
        raise UserError(f"'{rest[0]}' is not a flag; every setting is given as --config.name=value")
    _require_of_mode(mode)
    if name is None and mode not in WITH_DETECTOR:
        raise UserError("--config is missing; choose one, such as --config=demo; --help says more")
    config = _config(name or "default", assignments)
    if mode == "convert":
        workdir = _workdir(mode, stack) if WORKDIR.value else None
        modes.convert(config, workdir, NETWORK.value, _path(OUTPUT))
        return
    if mode in ONE_PROCESS and (NUM_PROCESSES.value or COORDINATOR.value):
        raise UserError(f"--mode={mode}: is for one process; leave out --coordinator")
    if mode in WITH_DETECTOR and (DETECTOR.value or WORKDIR.value):
        _with_detector(mode, config, [setting for setting, _ in assignments], stack)
        return
    if WORKDIR.value is None:
        or_detector = f", or with --mode={mode} a --detector" if mode in WITH_DETECTOR else ""
        raise UserError(
            f"--workdir is missing; name the folder that the run may write to{or_detector}"
        )
    _start(mode, config)
    workdir = _writable(_workdir(mode, stack))
    with only_run(workdir) if processes.is_first() else contextlib.nullcontext():
        _begin(mode, workdir)
        if mode == "benchmark":
            modes.benchmark(config, workdir)
        elif mode == "submit":
            submit(config, workdir, _path(OUTPUT) or workdir / "submission")
        elif mode == "ablate":
            modes.ablate(config, workdir, VARY.value)
        else:
            modes.run(mode, config, workdir, TRAIN_ON.value)


def _require_of_mode(mode: str) -> None:
    """Raises UserError if a flag that belongs to one mode is given with another."""
    for owner, of_mode in (
        ("predict", (WATCH,)),
        ("extend", (UNDO,)),
        ("export", (BRIEF,)),
        ("threshold", (RATE, VALUE)),
    ):
        for flag in of_mode:
            if flag.value is not None and flag.value is not False and mode != owner:
                raise UserError(
                    f"--{flag.name}: does nothing with --mode={mode}; leave it out, or use "
                    f"--mode={owner}"
                )


def _with_detector(
    mode: str, config: Config, given: list[str], stack: contextlib.ExitStack
) -> None:
    if mode == "predict":
        _start(mode, config)
    else:
        kernels.choose_cpu_kernels()
    workdir = _workdir(mode, stack) if WORKDIR.value else None
    path = copies.readable_path(DETECTOR.value, "--detector") if DETECTOR.value else None
    if mode == "serve":
        place = path or workdir
        assert place is not None  # One of the two is given.
        _serve(place, config, given)
        return
    if path is None:
        assert workdir is not None  # One of the two is given.
        path = modes.detector_in(workdir)
    if mode == "predict":
        _predict(workdir, path, config, given)
        return
    if given:
        raise UserError(
            f"--config.{given[0]}: does nothing with --mode={mode}, as the detector has its own "
            "settings; leave it out"
        )
    if mode == "export":
        _export(path)
        return
    if IMAGES.value and mode == "threshold":
        raise UserError("--images: does nothing with --mode=threshold; leave it out")
    output = _path(OUTPUT) or path
    if output.is_dir():
        raise UserError(f"--output={output}: is a folder; name the file to write")
    home = _writable(output.parent, "--output" if OUTPUT.value else "--workdir")
    with only_run(home):
        _begin(mode, home)
        if mode == "extend":
            changing.extend(_images(), path, output, UNDO.value)
        else:
            changing.set_threshold(path, output, RATE.value, VALUE.value)


def _predict(workdir: Path | None, path: Path, config: Config, given: list[str]) -> None:
    default = workdir / "predictions" if workdir else Path("predictions")
    output = _writable(_path(OUTPUT) or default, "--output")
    # Log and lock are in the run's folder, unless --output names another.
    home = output if OUTPUT.value or workdir is None else workdir
    with only_run(home) if processes.is_first() else contextlib.nullcontext():
        _begin("predict", home)
        predict(_images(), path, output, config, given, WATCH.value)


def _export(path: Path) -> None:
    output = _path(OUTPUT)
    if output is None:
        raise UserError("--output is missing; name the .onnx or .stablehlo file to write")
    home = _writable(output.parent, "--output")
    with only_run(home):
        _begin("export", home)
        export(_images(), path, output, BRIEF.value)


def _serve(place: Path, config: Config, given: list[str]) -> None:
    for flag in (IMAGES, OUTPUT):
        if flag.value:
            raise UserError(f"--{flag.name}: does nothing with --mode=serve; leave it out")
    # Serving writes nothing, and a run may write to the same folder meanwhile.
    _log_to(Path(os.devnull))
    programs.keep_programs()
    _devices()
    serve(place, config, given)


def _begin(mode: str, folder: Path) -> None:
    """Starts the log in a folder, and makes the programs that earlier runs compiled available."""
    _log_to(folder / "log.txt" if processes.is_first() else Path(os.devnull))
    # Several hosts may not share a home folder.
    programs.keep_programs(folder / "compilation_cache" if jax.process_count() > 1 else None)
    logging.info("%s on %s", mode, ", ".join(str(device) for device in _devices()))


def _devices() -> list[jax.Device]:
    """Returns the devices that JAX finds.

    Raises:
      UserError: there is none of the kind that is asked for.
    """
    try:
        return jax.devices()
    except (RuntimeError, AssertionError) as error:
        raise UserError(
            f"JAX_PLATFORMS={os.environ.get('JAX_PLATFORMS', '')}: there is no such device here; "
            "leave it out, or install JAX for it, such as pip install 'jax[cuda13]'"
        ) from error


def _divide(argv: Sequence[str]) -> tuple[list[str], str | None, list[tuple[str, str]]]:
    """Returns the program's own flags, the config's name, and the settings that are changed."""
    own: list[str] = []
    name: str | None = None
    assignments: list[tuple[str, str]] = []
    rest = list(argv[1:])
    while rest:
        argument = rest.pop(0)
        flag, equals, value = argument.partition("=")
        flag = "--" + flag.lstrip("-") if flag.startswith("-") else flag
        if flag != "--config" and not flag.startswith("--config."):
            own.append(argument)
            continue
        if not equals:
            if not rest or rest[0].startswith("--"):
                raise UserError(f"{flag}: has no value; write {flag}=<value>")
            value = rest.pop(0)
        if flag == "--config":
            name = value
        else:
            assignments.append((flag.removeprefix("--config."), value))
    return own, name, assignments


def _config(name: str, assignments: Sequence[tuple[str, str]]) -> Config:
    config = load_config(name)
    override(config, assignments)
    return read_config(config)


def _workdir(mode: str, stack: contextlib.ExitStack) -> Path:
    """Returns the working directory; for a bucket its copy, held if the mode writes to it."""
    url = WORKDIR.value
    if not is_url(url):
        return local_path(url, "--workdir")
    _devices()
    if mode in ("serve", "convert") or (mode in WITH_DETECTOR and OUTPUT.value):
        return copies.fetched(url, "--workdir", _is_of_training)
    leaves_out = _is_of_training if mode in WITH_DETECTOR else copies.needs_all
    return stack.enter_context(working_copy(url, "--workdir", leaves_out))


def _is_of_training(name: str) -> bool:
    """Whether a file of a working directory is needed for training only."""
    return "checkpoints" in name.split("/")


def _images() -> str | None:
    url = IMAGES.value
    if not url or not is_url(url):
        return str(copies.readable_path(url, "--images")) if url else url
    if WATCH.value:
        raise UserError(
            f"--images={url}: is in a bucket, but --watch sees only what appears in a folder on "
            "this machine; leave out --watch"
        )
    number, count = jax.process_index(), jax.process_count()
    own = share_of_images(copies.names_of(url, "--images"), number, count) if count > 1 else set()
    # The images of an earlier share are removed, or they would be scored too.
    return str(copies.fetched(url, "--images", lambda n: count > 1 and n not in own, clears=True))


def _path(flag: flags.FlagHolder) -> Path | None:
    return local_path(flag.value, f"--{flag.name}") if flag.value else None


def _start(mode: str, config: Config) -> None:
    """Chooses CPU kernels and joins the other processes, before JAX is first used.

    Raises:
      UserError: the processes differ, or the mode is for one process.
    """
    kernels.choose_cpu_kernels()
    processes.start(COORDINATOR.value, NUM_PROCESSES.value, PROCESS_ID.value)
    _devices()
    if jax.process_count() == 1:
        return
    if mode in ONE_PROCESS:
        raise UserError(f"--mode={mode}: is for one process; start it once")
    own = {
        "mode": mode, "train_on": TRAIN_ON.value, "vary": VARY.value, "code": source_hash()
    }  # fmt: skip
    first, *others = exchange(own | {"config": config.plain()})
    for number, other in enumerate(others, start=1):
        difference = first_difference(first, other)
        if difference:
            raise UserError(
                f"process {number}: differs from process 0: {difference}; start all with the same "
                "command and code"
            )


def _writable(folder: Path, flag: str = "--workdir") -> Path:
    probe = folder / ".writable"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(
            f"{flag}={folder}: cannot be written ({error.strerror}); choose another folder"
            + _use_of_detector(folder)
        ) from error
    return folder


def _use_of_detector(folder: Path) -> str:
    """Returns how to use the detector of a folder that cannot be written; "" without one."""
    for path in (folder / DETECTOR_FILE, folder.parent / DETECTOR_FILE):
        if path.is_file():
            return (
                f"; its detector can be used from there, with --mode=predict --detector={path} and "
                "an --output"
            )
    return ""


def _log_to(path: Path) -> None:
    """Copies the log to a file, and keeps other libraries' chatter out of both."""
    handler = standard_logging.FileHandler(path, encoding="utf-8", errors="backslashreplace")
    logging.use_absl_handler()
    logging.get_absl_logger().addHandler(handler)
    logging.set_verbosity(logging.INFO)
    # If the disk is full, a line of the log is lost and nothing else happens.
    standard_logging.raiseExceptions = False
    for each in (handler, logging.get_absl_handler()):
        each.setFormatter(_Formatter())
        each.addFilter(_is_worth_a_line)


class _Formatter(logging.PythonFormatter):
    """Names files in a bucket by their URLs and not by their copies here."""

    def format(self, record: standard_logging.LogRecord) -> str:
        return copies.as_given(super().format(record))


def _is_worth_a_line(record: standard_logging.LogRecord) -> bool:
    """Whether a message is this package's, or a warning that is not also raised."""
    if record.pathname.startswith(str(PACKAGE)):
        return True
    own = any(name in record.pathname for name in RAISING)
    return record.levelno > standard_logging.INFO and not own


def _parse_flags(argv: list[str]) -> list[str]:
    """Parses the program's own flags; turns a mistake into one line that says what to do."""
    FLAGS.unparse_flags()
    for name in FLAGS:
        FLAGS[name].unparse()
    try:
        return FLAGS(argv)
    except flags.UnrecognizedFlagError as error:
        known = [*FLAGS, "config", "help", "version"]
        close = difflib.get_close_matches(error.flagname, known, n=1)
        hint = f"; did you mean --{close[0]}?" if close else "; --help lists all"
        raise UserError(f"--{error.flagname}: there is no such flag{hint}") from error
    except flags.Error as error:
        raise UserError(" ".join(str(error).split())) from error


def run(argv: Sequence[str]) -> int:
    """Runs the whole program and returns its exit code."""
    allow_large_images()
    try:
        main(argv)
    except UserError as error:
        print(f"error: {copies.as_given(str(error))}", file=sys.stderr)
        return EXIT_BAD_INPUT
    except Interrupted as error:
        print(f"interrupted: {error}", file=sys.stderr)
        return EXIT_INTERRUPTED
    except KeyboardInterrupt:
        print(INTERRUPTED, file=sys.stderr)
        return EXIT_INTERRUPTED
    except jax.errors.JaxRuntimeError as error:
        if interrupts.was_asked():
            print(INTERRUPTED, file=sys.stderr)
            return EXIT_INTERRUPTED
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


def command() -> None:
    """Runs the console script `ddad_jax`."""
    interrupts.listen()
    sys.exit(run(sys.argv))


if __name__ == "__main__":
    command()
