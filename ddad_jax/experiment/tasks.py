"""The training of each network: its objective, its data, and for several categories at a time."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from jaxtyping import Array, Float, PyTree, UInt8

from ddad_jax import pretrained
from ddad_jax.data.loader import training_batches
from ddad_jax.detection import reconstruction
from ddad_jax.detection.detector import Variables
from ddad_jax.diffusion import schedule
from ddad_jax.errors import UserError
from ddad_jax.experiment.category import Category
from ddad_jax.experiment.identity import (
    Record,
    can_train_on,
    digest_of,
    finish_record,
    images_that_differ,
    read_record,
    settings_of,
    write_record,
)
from ddad_jax.experiment.schema import NETWORKS
from ddad_jax.machine import processes
from ddad_jax.machine.peaks import peak_flops
from ddad_jax.models import initialise, parameter_count
from ddad_jax.training.adaptation import adaptation_loss
from ddad_jax.training.autoencoder import autoencoder_loss
from ddad_jax.training.checkpoints import read_parameters
from ddad_jax.training.denoiser import denoiser_loss
from ddad_jax.training.group import Training
from ddad_jax.training.latents import channel_scaling, encode_images
from ddad_jax.training.loop import train
from ddad_jax.training.samples import Sample, autoencoder_sample, denoiser_sample
from ddad_jax.training.state import Loss, TrainSettings


@dataclass(frozen=True, eq=False)
class Trained:
    """The networks of a category, as far as they are made.

    Attributes:
      category: theirs.
      autoencoder: its variables; None where it is still to be trained.
      denoiser: likewise.
      pretrained_extractor: before any adaptation.
      extractor: adapted, where it is adapted at all; likewise.
      records: of each network that was trained in the working directory.
    """

    category: Category
    pretrained_extractor: Variables
    autoencoder: Variables | None = None
    denoiser: Variables | None = None
    extractor: Variables | None = None
    records: Mapping[str, Record] = field(default_factory=dict)

    @cached_property
    def alpha_bar(self) -> Float[Array, " table"]:
        """The noise schedule."""
        d = self.category.config.diffusion
        return jnp.asarray(schedule.linear_alpha_bar(d.beta_start, d.beta_end, d.num_timesteps))

    @cached_property
    def latent_scaling(self) -> tuple[Float[Array, " c"], Float[Array, " c"]]:
        """Shift and scale per channel: the configured scale, or mean 0 and deviation 1."""
        scale = self.category.config.autoencoder.latent_scale
        if scale:
            channels = self.category.networks.autoencoder.latent_channels
            return jnp.zeros(channels), jnp.full(channels, scale, jnp.float32)
        return channel_scaling(self._encoded(self.category.train_images))

    @cached_property
    def digests(self) -> dict[str, str]:
        """Of each network that is made, what changes with any of its arrays."""
        names = (*NETWORKS, "pretrained_extractor")
        known = {name: getattr(self, name) for name in names}
        return {name: digest_of(of) for name, of in known.items() if of is not None}

    def latents(self, images: UInt8[np.ndarray, "n size size 3"]) -> Float[np.ndarray, "n h w c"]:
        """What the denoiser works on: the frozen autoencoder's latents, scaled."""
        shift, scale = (np.asarray(part) for part in self.latent_scaling)
        return (self._encoded(images) - shift) * scale

    def _encoded(self, images: UInt8[np.ndarray, "n size size 3"]) -> Float[np.ndarray, "n h w c"]:
        network, c = self.category.networks.autoencoder, self.category
        return encode_images(network, self.autoencoder, images, c.config.build.batch_size, c.cache)

    def trains(self, network: str) -> bool:
        """Whether a network is trained here: it has no weights yet, or is to be adapted."""
        section = getattr(self.category.config, network)
        if network == "extractor":
            return bool(section.training.steps or section.training.epochs)
        return not section.weights and parameter_count(getattr(self.category.networks, network)) > 0


def load_networks(category: Category) -> Trained:
    """A category's networks that have weights already, so that a wrong path is said early."""
    config, networks = category.config, category.networks
    loaded: dict[str, Variables] = {
        "pretrained_extractor": pretrained.load(config.extractor.weights, networks.extractor)
    }
    for name in ("autoencoder", "denoiser"):
        network, weights = getattr(networks, name), getattr(config, name).weights
        if weights:
            loaded[name] = pretrained.load(weights, network)
        elif not parameter_count(network):
            loaded[name] = {}
    made = Trained(category, **loaded)
    return made if made.trains("extractor") else replace(made, extractor=made.pretrained_extractor)


def train_networks(
    made: Sequence[Trained], networks: Sequence[str], train_on: bool = False
) -> list[Trained]:
    """Trains networks of several categories of one config.

    Those whose data are of a kind are trained as one program. Each continues where it was left, and
    what is done is not done again.

    Args:
      made: as `load_networks` makes them; at most as many as the mesh's `category` axis is wide.
      networks: some of `NETWORKS`, in their order: one is trained with those before it.
      train_on: whether networks that were trained with other settings or images are trained on,
        from the parameters they have.

    Raises:
      Interrupted: a signal, with the states saved.
      UserError: a network was trained otherwise, or its loss stays non-finite.
    """
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
        # Process 0 decodes and encodes images into files that the others read.
        with processes.first_then_others(f"data of the {network}"):
            tasks = {i: TASKS[network](found[i]) for i in todo}
        # Augmented images are encoded at each step, others once: these are two programs.
        for augmented in (False, True):
            alike = [i for i in todo if bool(found[i].category.augmentations) == augmented]
            if alike:
                trained = _train_group([(found[i], tasks[i]) for i in alike], network)
                for i, params in zip(alike, trained, strict=True):
                    found[i] = _with(found[i], network, params)
    return found


def _with(made: Trained, network: str, params: PyTree) -> Trained:
    """The same with a network whose training has ended."""
    folder = made.category.workdir / network
    if processes.is_first():
        finish_record(folder)
    processes.wait_for_all("finished")
    statistics = made.pretrained_extractor if network == "extractor" else {}
    records = {**made.records, network: read_record(folder)}
    return replace(made, records=records, **{network: {**statistics, "params": params}})


def _taken_up(made: Trained, network: str, train_on: bool) -> Record | None:
    """The record of a network that needs no training any more; else None, and one is begun.

    Raises:
      UserError: it was trained otherwise; says with what, and what goes on.
    """
    category, folder = made.category, made.category.workdir / network
    _complete_step(folder)
    record = read_record(folder)
    wanted = Record(
        settings=settings_of(category.config, network),
        weights=_read_by(made, network),
        images=category.division[0].contents,
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
    hint = "the same command with --train_on goes on from what it has learnt"
    if dict(record.weights) != wanted.weights:
        named = [n for n, digest in wanted.weights.items() if record.weights.get(n) != digest]
        raise UserError(
            f"--workdir={category.workdir}: its {network} was trained with other weights of the "
            f"{' and the '.join(named)}; {hint}, or choose another --workdir"
        )
    if not record.done:
        raise UserError(
            f"--workdir={category.workdir}: the training of its {network} was interrupted, and "
            f"since then training images changed ({others or 'their order'}); {hint}, or put the "
            "images back"
        )
    logging.warning(
        "%s: the %s was trained on other images than there are now (%s); it is used as it is, %s",
        category.name, network, others or "in another order", hint,
    )  # fmt: skip
    return record


def _finished(made: Trained, network: str, record: Record) -> Trained:
    folder = made.category.workdir / network
    params = read_parameters(folder / "checkpoints", _train_settings(record, network))
    if params is None:
        # Nothing had to be learnt: no step was asked for.
        return replace(made, records={**made.records, network: record})
    statistics = made.pretrained_extractor if network == "extractor" else {}
    records = {**made.records, network: record}
    return replace(made, records=records, **{network: {**statistics, "params": params}})


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
    """Digests of what the training of a network reads and does not change."""
    read = {
        "autoencoder": ("pretrained_extractor",),
        "denoiser": ("autoencoder",),
        "extractor": ("autoencoder", "denoiser", "pretrained_extractor"),
    }[network]
    return {name.removeprefix("pretrained_"): made.digests[name] for name in read}


def _step_on(folder: Path, record: Record, wanted: Record) -> None:
    """Puts a training aside and begins one that starts from its parameters.

    What is cut off in between, `_complete_step` completes.
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


def _train_group(tasks: Sequence[tuple[Trained, "_Task"]], network: str) -> list[PyTree]:
    trainings = [_training(made, network, task) for made, task in tasks]
    first = tasks[0][0].category
    peak = peak_flops(jax.devices()[0].device_kind, first.config.dtype)
    return train(tasks[0][1].loss, trainings, mesh=first.mesh, peak_flops=peak)


@dataclass(frozen=True)
class _Task:
    """What a network is trained on: see `Training`, whose batches are made of `arrays`."""

    loss: Loss
    params: Any
    frozen: Any
    arrays: Mapping[str, np.ndarray]
    heldout: Mapping[str, np.ndarray] | None
    sample: Sample | None = None


def _training(made: Trained, network: str, task: _Task) -> Training:
    category = made.category
    settings = getattr(category.config, network).training
    settings = settings.for_images(len(category.train_images))
    augmentations = category.augmentations if "image" in task.arrays else ()
    seed, folder = category.config.seed, category.workdir / network
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


def _start(folder: Path, network: str, params: PyTree) -> PyTree:
    """The parameters that a training starts from: those given, or those of the one before it."""
    record = read_record(folder)
    if not record.start:
        return params
    before = folder.with_name(record.start)
    settings = _train_settings(read_record(before), network)
    found = read_parameters(before / "checkpoints", settings)
    return params if found is None else found


def _autoencoder(made: Trained) -> _Task:
    category = made.category
    settings, network = category.config.autoencoder, category.networks.autoencoder
    loss = autoencoder_loss(
        network,
        category.networks.extractor,
        feature_weight=settings.feature_weight,
        latent_weight=settings.latent_weight,
        crop_size=settings.crop_size,
    )
    return _Task(
        loss,
        initialise(network, jax.random.key(category.config.seed))["params"],
        {"extractor": made.pretrained_extractor},
        {"image": category.train_images},
        {"image": category.heldout_images},
        autoencoder_sample(network, category.sampled_images),
    )


def _denoiser(made: Trained) -> _Task:
    category, config = made.category, made.category.config
    settings, network = config.denoiser, category.networks.denoiser
    frozen: dict[str, Any] = {"alpha_bar": made.alpha_bar}
    if category.augmentations:
        # An augmented image is another one at each step, so its latent is made there.
        frozen |= {"autoencoder": made.autoencoder, "scaling": made.latent_scaling}
        arrays = {"image": category.train_images}
        heldout = {"image": category.heldout_images}
    else:
        arrays, heldout = {"latent": made.latents(category.train_images)}, None
        if settings.training.validate_every:
            heldout = {"latent": made.latents(category.heldout_images)}
    loss = denoiser_loss(
        network,
        max_timestep=settings.max_timestep or config.diffusion.num_timesteps,
        prediction=settings.prediction,
        weighting=settings.weighting,
        encode=partial(_encode, made) if category.augmentations else None,
    )
    params = initialise(network, jax.random.key(config.seed))["params"]
    sampled_with = {
        "autoencoder": made.autoencoder,
        "scaling": made.latent_scaling,
        "alpha_bar": made.alpha_bar,
    }
    sample = denoiser_sample(
        category.networks, config.detector, sampled_with, category.sampled_images
    )
    return _Task(loss, params, frozen, arrays, heldout, sample)


def _encode(made: Trained, frozen: Any, batch: Any) -> Float[Array, "b h w c"]:
    category = made.category
    pixels = reconstruction.to_network_range(batch["image"], category.preprocessing.size)
    return reconstruction.encode(
        category.networks.autoencoder, frozen["autoencoder"], *frozen["scaling"], pixels
    )


def _extractor(made: Trained) -> _Task:
    category, config = made.category, made.category.config
    loss = adaptation_loss(
        category.networks,
        config.detector,
        distillation_weight=config.extractor.distillation_weight,
    )
    shift, scale = made.latent_scaling
    frozen = {
        "autoencoder": made.autoencoder,
        "denoiser": made.denoiser,
        "extractor": made.pretrained_extractor,
        "latent_shift": shift,
        "latent_scale": scale,
        "alpha_bar": made.alpha_bar,
    }
    return _Task(
        loss,
        made.pretrained_extractor["params"],
        frozen,
        {"image": category.train_images},
        {"image": category.heldout_images},
    )


TASKS: Mapping[str, Callable[[Trained], _Task]] = dict(
    zip(NETWORKS, (_autoencoder, _denoiser, _extractor), strict=True)
)
