"""The modes of the command line, for one category or for all."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
from absl import logging

from ddad_jax import pretrained
from ddad_jax.benchmark.programs import Trainings
from ddad_jax.benchmark.report import compare_benchmarks, markdown
from ddad_jax.benchmark.run import run_benchmark
from ddad_jax.benchmark.seeded import seeded_detector
from ddad_jax.benchmark.topology import compile_for_topology
from ddad_jax.benchmark.topology_tables import topology_markdown
from ddad_jax.data.report import SHOWN
from ddad_jax.data.sources import DATASETS, recognise
from ddad_jax.deploy.fitted import load_detector
from ddad_jax.detection.detector import Detector
from ddad_jax.diffusion.schedule import linear_alpha_bar
from ddad_jax.errors import UserError
from ddad_jax.evaluation.compare import compare_runs
from ddad_jax.evaluation.report import write_report
from ddad_jax.evaluation.results import write_results
from ddad_jax.experiment import ablation
from ddad_jax.experiment.category import DETECTOR, Category, Subject
from ddad_jax.experiment.fitting import detector_to_evaluate, fitted_detector
from ddad_jax.experiment.opening import open_subjects, write_config
from ddad_jax.experiment.schema import NETWORKS, Config
from ddad_jax.experiment.scoring import SCORED, score
from ddad_jax.experiment.trained import Trained, load_networks
from ddad_jax.experiment.training import train_networks
from ddad_jax.machine import copies, processes
from ddad_jax.machine.storage import write_atomically

# The networks that modes of `run` train; its others train none.
TRAINED = {"fit": NETWORKS, "train": NETWORKS[:2], "adapt": NETWORKS}
# What each mode does, in one line for --help.
MODES = {
    "fit": "train, build a detector, score the test images, write the report (the default)",
    "prepare": "check and decode the data set; say what is in it and what would spoil a result",
    "train": "train only the autoencoder and the denoiser",
    "adapt": "train as --mode=train does, and adapt the extractor",
    "evaluate": "score the test images with the detector in --workdir",
    "validate": "plant defects in good images that were held out, and say which are found",
    "predict": "score the images of --images with the detector of --workdir or --detector",
    "serve": "judge photographs sent over HTTP with the detectors of --detector or --workdir",
    "submit": "write results for MVTec AD 2's private images to --output, for its server",
    "extend": "add a kind of good part to a detector from --images, without training; or --undo",
    "export": "write a detector as ONNX or StableHLO to --output, checked on --images; --brief",
    "threshold": "set a detector's threshold by --rate or --value; without either, restore its own",
    "ablate": "make one table of all combinations of what --vary names, on the same networks",
    "compare": "show how two runs differ: --mode=compare runs/a runs/b; or two benchmark.json",
    "benchmark": "measure how fast the config's networks train and detect here; needs no data",
    "convert": "write a network (--network) as a PyTorch state dict to --output",
}


def run(mode: str, config: Config, workdir: Path, train_on: bool = False) -> None:
    """Carries out "fit", "prepare", "train", "adapt", "evaluate" or "validate" for all categories.

    Args:
      mode: one of these.
      config: every setting.
      workdir: a writable folder; if there are several categories, each gets a folder in it.
      train_on: see `train_networks`.

    Raises:
      UserError: bad input, before any long work.
      Interrupted: a signal came; the state is saved.
    """
    if mode == "prepare":
        with processes.first_then_others("prepare"):
            config.networks()  # Raises if they cannot be built.
            subjects = open_subjects(config, workdir)
            if processes.is_first():
                _prepare([category for subject in subjects for category in subject.categories])
        write_config(subjects)
        return
    subjects, parts = _checked(config, workdir, mode in TRAINED, train_on), []
    for group in _groups(subjects, config.mesh.category):
        if mode in SCORED:
            for subject in group:
                fitted = detector_to_evaluate(subject)
                write_config([subject])
                parts += SCORED[mode](subject, fitted)
        else:
            trained = _train(group, TRAINED[mode], train_on)
            for made in trained if mode == "fit" else ():
                parts += score(made.subject, fitted_detector(made))
        copies.publish()
        processes.wait_for_all("stage")
    if len(parts) > 1:
        write_report(workdir / "report.html", workdir.resolve().name, parts)
        write_results(workdir, config.data.source, {part.name: part.metrics for part in parts})


def _checked(config: Config, workdir: Path, trains: bool, train_on: bool) -> list[Subject]:
    """Opens the subjects, and returns them once all settings and images are checked."""
    with processes.first_then_others("checks"):
        if trains:
            config.networks()  # Raises if they cannot be built.
        subjects = open_subjects(config, workdir)
        for subject in subjects if trains else ():
            subject.check_trained(train_on)
        for category in (each for subject in subjects for each in subject.categories):
            counts = [len(category.images[split]) for split in ("train", "test")]
            logging.info("%s: %d good images to train on, %d test images", category.name, *counts)
    return subjects


def _groups(subjects: list[Subject], size: int) -> Iterator[list[Subject]]:
    """Yields subjects to train together, removing them so that their images can be freed."""
    while subjects:
        group, subjects[:size] = subjects[:size], []
        yield group


def _train(group: Sequence[Subject], networks: Sequence[str], train_on: bool) -> list[Trained]:
    with processes.first_then_others("weights"):
        made = [load_networks(subject) for subject in group]
    write_config(group)
    return train_networks(made, networks, train_on)


def _prepare(categories: Sequence[Category]) -> None:
    """Prints and writes each data check; raises UserError if one would spoil a result."""
    data = categories[0].config.data
    recognised = recognise(data.source, categories[0].root)
    if recognised:
        print(f"{data.root} is laid out as {DATASETS[recognised].title}\n")
    for category in categories:
        path = category.workdir / "data.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, category.report.text() + "\n")
        print(f"{category.report.text(SHOWN)}\nall of it: {path}")
    spoiled = [category.name for category in categories if category.report.is_spoiled]
    if spoiled:
        raise UserError(
            f"data: {', '.join(spoiled)}: what is listed above would spoil a result; correct it"
        )


def ablate(config: Config, workdir: Path, varied: Sequence[str]) -> None:
    """Evaluates every combination of the varied settings on the same networks, in one table.

    Args:
      config: of the trained networks.
      workdir: as for `run`; networks that are not trained yet are trained here.
      varied: as for `ablation.variants`.

    Raises:
      UserError: bad input, before any long work.
      Interrupted: a signal came while training; the state is saved.
    """
    chosen = ablation.variants(config, varied)
    rows = []
    for group in _groups(_checked(config, workdir, True, False), config.mesh.category):
        rows += [ablation.ablate(made, chosen) for made in _train(group, NETWORKS, False)]
    if not processes.is_first():
        return
    if len(rows) > 1:
        ablation.write_table(workdir, ablation.mean_rows(rows))
    print((workdir / "ablation.md").read_text(encoding="utf-8"), end="")


def benchmark(config: Config, workdir: Path) -> None:
    """Measures detection and training with random weights and images, or compiles for a topology.

    Args:
      config: gives the networks, the detector's settings and what is measured.
      workdir: a writable folder; the table is also printed.

    Raises:
      UserError: a setting is not allowed; names it.
      Interrupted: a signal came; every finished measurement is written.
    """
    settings = config.benchmark
    if not settings.topology:
        settings.check_devices(jax.device_count(), jax.local_device_count())
    elif jax.process_count() > 1:
        raise UserError("benchmark.topology: is for one process; leave out --coordinator")
    # Compilation is timed, so no program may come from an earlier run.
    jax.config.update("jax_enable_compilation_cache", False)
    d = config.diffusion
    make = partial(
        seeded_detector,
        config.networks(),
        config.detector,
        jnp.asarray(linear_alpha_bar(d.beta_start, d.beta_end, d.num_timesteps)),
        bank_rows=settings.bank_rows,
        patch_rows=config.build.most_patches,
        seed=config.seed,
    )
    detector = jax.eval_shape(make) if settings.topology else make()
    detectors: dict[str, Detector] = {
        dtype: detector.replace(networks=replace(config, dtype=dtype).networks())
        for dtype in settings.dtypes
    }
    rest = (
        config.plain(),
        detectors,
        Trainings(
            config.denoiser.training,
            config.extractor.training,
            config.denoiser.max_timestep or d.num_timesteps,
        ),
        workdir,
    )
    if settings.topology:
        text = topology_markdown(compile_for_topology(settings, config.mesh, *rest))
    else:
        text = markdown(run_benchmark(settings, *rest))
    if processes.is_first():
        print(text, end="")


def compare(paths: Sequence[Path], workdir: Path | None) -> None:
    """Prints how two runs or two benchmarks differ, and writes it to a workdir if one is given.

    Raises:
      UserError: the paths are neither two run folders with results on the same images nor two
        benchmark.json.
    """
    if len(paths) != 2:
        raise UserError(
            f"--mode=compare: takes two run folders or two benchmark.json, found {len(paths)}; for "
            "example --mode=compare runs/a runs/b"
        )
    first, second = paths
    if first.is_file() and second.is_file():
        text = compare_benchmarks(first, second)
    else:
        text = compare_runs(first, second)
    print(text, end="")
    if workdir is not None:
        (workdir / "compare.md").write_text(text, encoding="utf-8")


def convert(config: Config, workdir: Path | None, network: str, output: Path | None) -> None:
    """Writes a network's weights as a PyTorch state dict under the published names.

    Args:
      config: its <network>.weights name the weights; if empty, the fitted detector's are taken.
      workdir: holds the fitted detector, whose extractor is always preferred.
      network: "autoencoder", "denoiser" or "extractor".
      output: the file to write.

    Raises:
      UserError: there are no such weights, they are another network's, or the format is unknown.
    """
    if not output:
        raise UserError("--output is missing; with --mode=convert name a .safetensors or .pth file")
    pretrained.check_target(output)
    weights = getattr(config, network).weights
    # The extractor's setting names its weights before adaptation; the fitted one may be adapted.
    if weights and (workdir is None or network != "extractor"):
        pretrained.convert(weights, getattr(config.networks(), network), output)
    elif workdir is not None:
        detector = load_detector(detector_in(workdir)).detector
        module = getattr(detector.networks, network)
        pretrained.save(getattr(detector, network), module, output)
    else:
        raise UserError(
            f"{network}.weights: is empty; name the weights to convert, or with --workdir a fitted "
            "detector"
        )
    logging.info("wrote %s", output)


def detector_in(workdir: Path) -> Path:
    """Returns the detector's file in a run's folder.

    Raises:
      UserError: there is none, or several categories have one each.
    """
    path = workdir / DETECTOR
    if path.is_file():
        return path
    folders = sorted(each.parent for each in workdir.glob(f"*/{DETECTOR}"))
    if folders:
        names = ", ".join(folder.name for folder in folders)
        raise UserError(
            f"--workdir={workdir}: holds a detector for each of {names}; name one, such as "
            f"--workdir={folders[0]}"
        )
    raise UserError(f"{path}: there is no detector here; make one with --mode=fit")
