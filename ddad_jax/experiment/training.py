"""Trains networks, or loads those that are trained, for several categories at a time."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import flax
import jax
from absl import logging
from jaxtyping import PyTree

from ddad_jax.data.loader import training_batches
from ddad_jax.errors import UserError
from ddad_jax.experiment.category import Subject
from ddad_jax.experiment.identity import (
    Record,
    begun_record,
    can_train_on,
    finish_record,
    images_that_differ,
    read_record,
    settings_of,
    write_record,
)
from ddad_jax.experiment.tasks import TASKS, Task
from ddad_jax.experiment.trained import Trained
from ddad_jax.machine import processes, together
from ddad_jax.machine.peaks import peak_flops
from ddad_jax.settings import SettingError
from ddad_jax.training.checkpoints import read_parameters
from ddad_jax.training.group import Training
from ddad_jax.training.loop import train
from ddad_jax.training.state import TrainSettings


def train_networks(
    made: Sequence[Trained], networks: Sequence[str], train_on: bool = False
) -> list[Trained]:
    """Trains networks of several categories of one config.

    Categories whose data have the same form are trained as one program. Each training continues
    where it stopped, and finished ones are not repeated.

    Args:
      made: from `load_networks`; at most as many as the size of the mesh's `category` axis.
      networks: some of `NETWORKS`, in that order: each is trained with those before it.
      train_on: whether networks that were trained with other settings or images are trained
        further, from the parameters they have.

    Raises:
      Interrupted: a signal came; the states are saved.
      UserError: a network was trained otherwise, or its loss stays non-finite.
    """
    for network in networks:
        for each in made:
            if getattr(each, network) is None:
                _settings_of_training(each.subject, network)
    found = list(made)
    for network in networks:
        todo = [i for i, each in enumerate(found) if getattr(each, network) is None]
        with processes.first_then_others(f"record of the {network}"):
            done = {i: _taken_up(found[i], network, train_on) for i in todo}
        # Orbax opens checkpoints in all processes at once.
        for i, record in done.items():
            if record:
                found[i] = _finished(found[i], network, record)
        todo = [i for i in todo if not done[i]]
        # All processes encode images.
        with together.dividing():
            tasks = {i: TASKS[network](found[i]) for i in todo}
        # Augmented images are encoded at each step, others once, which makes two programs.
        for augmented in (False, True):
            alike = [i for i in todo if bool(found[i].subject.augmentations) == augmented]
            if alike:
                trained = _train_group([(found[i], tasks[i]) for i in alike], network)
                for i, params in zip(alike, trained, strict=True):
                    found[i] = _with(found[i], network, params)
    return found


def _with(made: Trained, network: str, params: PyTree) -> Trained:
    """Adds a network whose training has ended, and its record."""
    folder = made.subject.workdir / network
    with processes.first_then_others("finished"):
        if processes.is_first():
            finish_record(folder)
    statistics = made.pretrained_extractor if network == "extractor" else {}
    record = begun_record(folder)
    trained: dict[str, Any] = {network: {**statistics, "params": params}}
    return replace(made, records={**made.records, network: record}, **trained)


def _taken_up(made: Trained, network: str, train_on: bool) -> Record | None:
    """Returns the record of a network that is trained; else None, with a record begun.

    Raises:
      UserError: it was trained otherwise; says with what, and how to continue.
    """
    subject, folder = made.subject, made.subject.workdir / network
    _complete_step(folder)
    record = read_record(folder)
    wanted = Record(
        settings=settings_of(subject.config, network),
        weights=_read_by(made, network),
        images=subject.division[0].contents,
    )
    if record is None:
        if processes.is_first():
            write_record(folder, wanted)
        return None
    differing = record.settings_that_differ(wanted)
    others = images_that_differ(record.images, wanted.images)
    if record.is_of(wanted):
        return record if record.done else None
    if train_on and can_train_on(network, differing):
        if processes.is_first():
            _step_on(folder, record, wanted)
        return None
    hint = "the same command with --train_on continues from what it has learnt"
    if dict(record.weights) != wanted.weights:
        named = [n for n, digest in wanted.weights.items() if record.weights.get(n) != digest]
        raise UserError(
            f"--workdir={subject.workdir}: its {network} was trained with other weights of the "
            f"{' and the '.join(named)}; {hint}, or choose another --workdir"
        )
    if not record.done:
        raise UserError(
            f"--workdir={subject.workdir}: the training of its {network} was interrupted, and "
            f"since then training images changed ({others or 'their order'}); {hint}, or put the "
            "images back"
        )
    logging.warning(
        "%s: the %s was trained on other images than there are now (%s); it is used as it is, %s",
        subject.name, network, others or "in another order", hint,
    )  # fmt: skip
    return record


def _finished(made: Trained, network: str, record: Record) -> Trained:
    folder = made.subject.workdir / network
    params = read_parameters(folder / "checkpoints", _train_settings(record, network))
    if params is None:
        raise UserError(
            f"{folder / 'checkpoints'}: no checkpoint is there, but the training of the {network} "
            f"is finished; put it back, or remove {folder} to train it again"
        )
    statistics = made.pretrained_extractor if network == "extractor" else {}
    trained: dict[str, Any] = {network: {**statistics, "params": params}}
    return replace(made, records={**made.records, network: record}, **trained)


def _train_settings(record: Record, network: str) -> TrainSettings:
    start = f"{network}.training."
    return TrainSettings(
        **{
            name.removeprefix(start): value
            for name, value in record.settings.items()
            if name.startswith(start)
        }
    )


def _read_by(made: Trained, network: str) -> dict[str, str]:
    """Returns digests of what the training of a network reads and does not change."""
    read = {
        "autoencoder": ("pretrained_extractor",),
        "denoiser": ("autoencoder",),
        "extractor": ("autoencoder", "denoiser", "pretrained_extractor"),
    }[network]
    return {name.removeprefix("pretrained_"): made.digests[name] for name in read}


def _step_on(folder: Path, record: Record, wanted: Record) -> None:
    """Moves a training aside and begins one that starts from its parameters.

    If this is cut off halfway, `_complete_step` completes it.
    """
    number = 1
    while folder.with_name(f"{folder.name}-{number}").exists():
        number += 1
    aside = folder.with_name(f"{folder.name}-{number}")
    begun = replace(wanted, before=sorted(record.ever), start=aside.name)
    write_record(_next(folder), begun)
    folder.rename(aside)
    _complete_step(folder)


def _complete_step(folder: Path) -> None:
    if processes.is_first() and _next(folder).exists() and not folder.exists():
        _next(folder).rename(folder)


def _next(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}-next")


def _train_group(tasks: Sequence[tuple[Trained, Task]], network: str) -> list[PyTree]:
    trainings = [_training(made, network, task) for made, task in tasks]
    first = tasks[0][0].subject
    peak = peak_flops(jax.devices()[0].device_kind, first.config.dtype)
    return train(tasks[0][1].loss, trainings, mesh=first.mesh, peak_flops=peak)


def _training(made: Trained, network: str, task: Task) -> Training:
    subject = made.subject
    settings = _settings_of_training(subject, network)
    augmentations = subject.augmentations if "image" in task.arrays else ()
    seed, folder = subject.config.seed, subject.workdir / network
    return Training(
        params=flax.core.unfreeze(_start(folder, network, task.params)),
        frozen=task.frozen,
        batches=partial(training_batches, task.arrays, settings.batch_size, seed, augmentations),
        settings=settings,
        folder=folder,
        seed=seed,
        heldout=task.heldout,
        sample=task.sample,
    )


def _settings_of_training(subject: Subject, network: str) -> TrainSettings:
    """Returns a network's training settings, with epochs as steps for the subject's images.

    Raises:
      SettingError: the settings do not fit that number of steps, or there are none.
    """
    settings = getattr(subject.config, network).training
    try:
        found = settings.for_images(len(subject.division[0].squares))
    except SettingError as error:
        raise error.within(f"{network}.training") from error
    if not found.steps:
        raise SettingError(
            f"{network}.training.steps",
            f"is 0, and so is {network}.training.epochs, while {network}.weights names no weights "
            "to use instead; set one of the three",
        )
    return found


def _start(folder: Path, network: str, params: PyTree) -> PyTree:
    """Returns the parameters to start from: those given, or those of the training before it."""
    record = begun_record(folder)
    if not record.start:
        return params
    before = folder.with_name(record.start)
    settings = _train_settings(begun_record(before), network)
    found = read_parameters(before / "checkpoints", settings)
    return params if found is None else found
