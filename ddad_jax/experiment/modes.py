"""What each mode of the command line does, for one category or for all."""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from jaxtyping import Float
from ml_collections import ConfigDict

from ddad_jax import pretrained
from ddad_jax.benchmark.report import compare_benchmarks, markdown
from ddad_jax.benchmark.run import run_benchmark
from ddad_jax.benchmark.seeded import seeded_detector
from ddad_jax.data.categories import find_categories
from ddad_jax.data.folder import unlabelled
from ddad_jax.data.prepare import prepare
from ddad_jax.data.read import FULL_RANGE
from ddad_jax.data.tiled import cut_into_tiles
from ddad_jax.deploy.artifact import load_detector
from ddad_jax.detection.detector import Detector, shard_detector
from ddad_jax.diffusion.schedule import linear_alpha_bar
from ddad_jax.errors import UserError
from ddad_jax.evaluation.bootstrap import resample
from ddad_jax.evaluation.compare import compare_runs, write_resampled
from ddad_jax.evaluation.curves import compute_curves
from ddad_jax.evaluation.evaluate import predict as predict_source
from ddad_jax.evaluation.figures import write_figures, write_training_loss
from ddad_jax.evaluation.metrics import compute_metrics
from ddad_jax.evaluation.outputs import write_metrics, write_pictures, write_scores
from ddad_jax.evaluation.predictions import Predictions
from ddad_jax.evaluation.report import ReportPart, report_part, write_report
from ddad_jax.evaluation.results import write_results
from ddad_jax.experiment import ablation
from ddad_jax.experiment import config as builders
from ddad_jax.experiment.category import NETWORKS, Run
from ddad_jax.experiment.tasks import train_networks
from ddad_jax.machine import processes
from ddad_jax.training.mesh import make_mesh


def _prepare(run: Run) -> None:
    report = run.inspect()
    print(report)
    if report.is_spoiled:
        raise UserError("data: holds what would spoil a result, as listed above; mend it first")
    _ = run.images


def _evaluate(run: Run) -> ReportPart | None:
    detector = run.stored_detector
    if detector is None:
        raise UserError(
            f"--workdir={run.workdir}: holds no detector of these settings and images to evaluate; "
            "make one with --mode=fit"
        )
    return _score_test_images(run, detector)


def _fit(run: Run) -> ReportPart | None:
    detector = run.stored_detector
    if detector is None:
        detector = run.build_detector()
    else:
        logging.info("%s: its detector is of these settings, used as it is", run.workdir)
    return _score_test_images(run, detector)


def _score_test_images(run: Run, detector: Detector) -> ReportPart | None:
    if len(run.images["test"]) == 0:
        logging.info("no test images; the detector is ready for --mode=predict")
        return None
    predictions = run.predict(detector, run.build.batch_size)
    part = _write_results(run.workdir, run.name, predictions, run.resized_masks())
    write_training_loss(run.workdir / "figures", run.workdir)
    for name in ("image_auroc", "pixel_auroc", "aupro"):
        value = part.metrics[name]
        shown = part.metrics["undefined"][name] if value is None else f"{value:.4f}"
        logging.info("%s: %s", name, shown)
    return part


def _write_results(
    folder: Path,
    name: str,
    predictions: Predictions,
    resized_masks: Float[np.ndarray, "n h w"] | None = None,
) -> ReportPart:
    """Everything that is written about a set of images; what a report over several needs of it."""
    resampled = resample(predictions)
    metrics = compute_metrics(predictions, resampled, resized_masks)
    curves = compute_curves(predictions)
    write_metrics(folder, metrics)
    write_resampled(folder, resampled)
    write_scores(folder, predictions)
    write_pictures(folder, predictions)
    write_figures(folder / "figures", predictions, curves)
    part = report_part(name, predictions, metrics, curves)
    write_report(folder / "report.html", name, [part])
    logging.info("see %s", folder / "report.html")
    return part


# What each mode does with a run once its networks are trained.
STAGES: dict[str, Callable[[Run], ReportPart | None]] = {
    "fit": _fit,
    "prepare": _prepare,
    "train": lambda run: None,
    "adapt": lambda run: None,
    "evaluate": _evaluate,
}
TRAINED = {"fit": NETWORKS, "train": NETWORKS[:2], "adapt": NETWORKS}
MODES = (*STAGES, "ablate", "predict", "compare", "convert", "benchmark")


def run(mode: str, config: ConfigDict, workdir: Path) -> None:
    """Carries out a mode for every category.

    Args:
      mode: one of `STAGES`.
      config: the resolved config.
      workdir: a writable folder; each of several categories gets a folder in it.

    Raises:
      UserError: bad input, before any long work.
      Interrupted: a signal, with the state saved.
    """
    parts = []
    for group in _groups(config, workdir):
        if mode in TRAINED:
            fitted = [run for run in group if mode == "fit" and run.stored_detector is not None]
            train_networks([run for run in group if run not in fitted], TRAINED[mode])
        if processes.is_first():
            parts += [part for part in map(STAGES[mode], group) if part is not None]
        processes.wait_for_all("stage")
    if len(parts) > 1:
        write_report(workdir / "report.html", workdir.resolve().name, parts)
        write_results(workdir, config.data.source, {part.name: part.metrics for part in parts})


def _groups(config: ConfigDict, workdir: Path) -> Iterator[list[Run]]:
    """A run a category, in groups of those that are trained at a time.

    All are checked before the first group is given. Each group is let go when the next is asked
    for: its images and networks leave the memory.
    """
    chosen = config.data.category
    categories = [chosen] if chosen else find_categories(config.data.source, config.data.root)
    folders = [workdir / name if len(categories) > 1 else workdir for name in categories]
    for folder in folders:
        folder.mkdir(exist_ok=True)
    with processes.first_then_others("checks"):
        runs = [
            Run(config, category, folder)
            for category, folder in zip(categories, folders, strict=True)
        ]
    while runs:
        group, runs = runs[: config.mesh.category], runs[config.mesh.category :]
        yield group


def ablate(config: ConfigDict, workdir: Path, varied: Sequence[str]) -> None:
    """Evaluates every combination of the varied settings on the trained model, in one table.

    Args:
      config: the trained model's.
      workdir: as of `run`; a model that is not trained yet is trained here.
      varied: as of `ablation.variants`.

    Raises:
      UserError: bad input, before any long work.
      Interrupted: a signal while training, with the state saved.
    """
    chosen = ablation.variants(config, varied)
    rows = []
    for group in _groups(config, workdir):
        train_networks(group, NETWORKS)
        rows += [ablation.ablate(run, chosen) for run in group]
    if len(rows) > 1:
        ablation.write_table(workdir, ablation.mean_rows(rows))
    print((workdir / "ablation.md").read_text(encoding="utf-8"), end="")


def benchmark(config: ConfigDict, workdir: Path) -> None:
    """Measures detection and training with drawn weights and images, and prints the table.

    Args:
      config: says the networks, the detector's settings and what is measured.
      workdir: a writable folder.

    Raises:
      UserError: naming the setting that cannot be.
      Interrupted: a signal, with every finished measurement written.
    """
    settings = builders.benchmark_settings(config)
    # What is compiled is timed, so nothing may come from an earlier run.
    jax.config.update("jax_enable_compilation_cache", False)
    d = config.diffusion
    detector = seeded_detector(
        builders.networks(config),
        builders.detection_settings(config),
        jnp.asarray(linear_alpha_bar(d.beta_start, d.beta_end, d.num_timesteps)),
        bank_rows=settings.bank_rows,
        patch_rows=builders.build_settings(config).patch_bank_size,
        seed=config.seed,
    )
    detectors = {}
    for dtype in settings.dtypes:
        typed = config.copy_and_resolve_references()
        typed.dtype = dtype
        detectors[dtype] = detector.replace(networks=builders.networks(typed))
    document = run_benchmark(
        settings,
        json.loads(config.to_json_best_effort()),
        detectors,
        builders.train_settings(config, "denoiser"),
        builders.train_settings(config, "extractor"),
        config.denoiser.max_timestep or d.num_timesteps,
        workdir,
    )
    print(markdown(document), end="")


def compare(paths: Sequence[str], workdir: Path | None) -> None:
    """Prints how two runs or two benchmarks differ, and writes it where a workdir is named.

    Raises:
      UserError: the paths are not two run folders with results of the same images, and not two
        benchmark.json.
    """
    if len(paths) != 2:
        raise UserError(
            f"--mode=compare: takes two run folders or two benchmark.json, found {len(paths)}; for "
            "example --mode=compare runs/a runs/b"
        )
    first, second = map(Path, paths)
    if first.is_file() and second.is_file():
        text = compare_benchmarks(first, second)
    else:
        text = compare_runs(first, second)
    print(text, end="")
    if workdir is not None:
        (workdir / "compare.md").write_text(text, encoding="utf-8")


def convert(config: ConfigDict, workdir: Path | None, network: str, output: str | None) -> None:
    """Writes a network's weights as a PyTorch state dict under the published names.

    Args:
      config: its <network>.weights name the weights; where empty, they are the fitted detector's.
      workdir: holds the fitted detector.
      network: "autoencoder", "denoiser" or "extractor".
      output: the file to write.

    Raises:
      UserError: nothing to convert, weights of another network, or an output of unknown format.
    """
    if not output:
        raise UserError("--output is missing; with --mode=convert name a .safetensors or .pth file")
    pretrained.check_target(Path(output))
    weights = config[network].weights
    # An extractor's setting names where it started from; the fitted one may have been adapted.
    if weights and (workdir is None or network != "extractor"):
        module = getattr(builders.networks(config), network)
        pretrained.convert(weights, module, Path(output))
    elif workdir is not None:
        detector = load_detector(workdir / "detector.safetensors").detector
        module = getattr(detector.networks, network)
        pretrained.save(getattr(detector, network), module, Path(output))
    else:
        raise UserError(
            f"{network}.weights: is empty; name the weights to convert, or with --workdir a fitted "
            "detector"
        )
    logging.info("wrote %s", output)


def predict(config: ConfigDict, workdir: Path, images: str | None) -> None:
    """Scores images with the fitted detector.

    Args:
      config: says how images are read.
      workdir: holds the detector; results go to its folder "predictions".
      images: a folder of images, or one image.

    Raises:
      UserError: no detector, or no images.
    """
    if not images:
        raise UserError("--images is missing; with --mode=predict name a folder of images, or one")
    at_original = builders.measured_at_original(config)
    detector = load_detector(workdir / "detector.safetensors").detector
    settings = detector.settings
    white_level = config.data.settings.get("white_level", FULL_RANGE)
    source = cut_into_tiles(
        unlabelled(images, white_level=white_level), settings.tile, settings.overlap
    )
    output = workdir / "predictions"
    cache = builders.cache_folder(config, workdir)
    prepared = prepare(
        source,
        settings.image_size,
        cache,
        config.data.resize,
        config.data.on_unreadable,
    )
    mesh = make_mesh(**config.mesh).local_mesh
    predictions = predict_source(
        shard_detector(detector, mesh),
        source,
        prepared["test"],
        config.build.batch_size,
        at_original=at_original,
        resize=config.data.resize,
    )
    output.mkdir(exist_ok=True)
    _write_results(output, Path(images).resolve().name, predictions)
    anomalous = int(predictions.decisions.sum())
    logging.info("%d of %d images are anomalous; see %s", anomalous, len(predictions), output)
