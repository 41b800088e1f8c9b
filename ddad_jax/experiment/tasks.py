"""The training of each network: its objective, its data, and for several runs at a time."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import flax
import jax
import numpy as np
from jaxtyping import Array, Float

from ddad_jax.data.loader import training_batches
from ddad_jax.detection import reconstruction
from ddad_jax.experiment.category import Run
from ddad_jax.machine import processes
from ddad_jax.machine.peaks import peak_flops
from ddad_jax.models import initialise
from ddad_jax.training.adaptation import adaptation_loss
from ddad_jax.training.autoencoder import autoencoder_loss
from ddad_jax.training.denoiser import denoiser_loss
from ddad_jax.training.group import Training
from ddad_jax.training.loop import train
from ddad_jax.training.samples import Sample, autoencoder_sample, denoiser_sample
from ddad_jax.training.state import Loss


def train_networks(runs: Sequence[Run], networks: Sequence[str]) -> None:
    """Trains networks of several runs of one config, into their `trained`.

    Those whose data are of a kind are trained as one program. Each continues where it was left, and
    what is done is not done again.

    Args:
      runs: at most as many as the mesh's `category` axis is wide.
      networks: some of `run.NETWORKS`, in their order: one is trained with those before it.

    Raises:
      Interrupted: a signal, with the states saved.
      UserError: weights that cannot be read, or a loss that stays non-finite.
    """
    with processes.first_then_others("weights"):
        for run in runs:
            run.load_weights()
    for network in networks:
        with processes.first_then_others(f"images for the {network}"):
            left = [run for run in runs if network not in run.trained and run.trains(network)]
        # Augmented images are encoded at each step, others once: these are two programs.
        for augmented in (False, True):
            alike = [run for run in left if bool(run.augmentations) == augmented]
            if alike:
                _train_group(alike, network)


def _train_group(runs: Sequence[Run], network: str) -> None:
    # Process 0 decodes and encodes images into files that the others read.
    with processes.first_then_others(f"data of the {network}"):
        tasks = [TASKS[network](run) for run in runs]
    trainings = [_training(run, network, task) for run, task in zip(runs, tasks, strict=True)]
    peak = peak_flops(jax.devices()[0].device_kind, runs[0].config.dtype)
    trained = train(tasks[0].loss, trainings, mesh=runs[0].mesh, peak_flops=peak)
    for run, params in zip(runs, trained, strict=True):
        run.trained[network] = params


@dataclass(frozen=True)
class _Task:
    """What a network is trained on: see `Training`, whose batches are made of `arrays`."""

    loss: Loss
    params: Any
    frozen: Any
    arrays: Mapping[str, np.ndarray]
    heldout: Mapping[str, np.ndarray] | None
    sample: Sample | None = None


def _training(run: Run, network: str, task: _Task) -> Training:
    settings = run.train_settings[network].for_images(len(run.train_images))
    augmentations = run.augmentations if "image" in task.arrays else ()
    seed = run.config.seed
    return Training(
        params=flax.core.unfreeze(task.params),
        frozen=task.frozen,
        batches=partial(training_batches, task.arrays, settings.batch_size, seed, augmentations),
        settings=settings,
        folder=run.workdir / network,
        seed=seed,
        heldout=task.heldout,
        sample=task.sample,
    )


def _autoencoder(run: Run) -> _Task:
    settings, network = run.config.autoencoder, run.networks.autoencoder
    loss = autoencoder_loss(
        network,
        run.networks.extractor,
        feature_weight=settings.feature_weight,
        latent_weight=settings.latent_weight,
        crop_size=settings.crop_size,
    )
    return _Task(
        loss,
        initialise(network, jax.random.key(run.config.seed))["params"],
        {"extractor": run.pretrained_extractor},
        {"image": run.train_images},
        {"image": run.heldout_images},
        autoencoder_sample(network, run.sampled_images),
    )


def _denoiser(run: Run) -> _Task:
    settings, network = run.config.denoiser, run.networks.denoiser
    frozen = {"alpha_bar": run.alpha_bar}
    if run.augmentations:
        # An augmented image is another one at each step, so its latent is made there.
        frozen |= {"autoencoder": run.autoencoder, "scaling": run.latent_scaling}
        arrays, heldout = {"image": run.train_images}, {"image": run.heldout_images}
    else:
        arrays, heldout = {"latent": run.latents(run.train_images)}, None
        if run.train_settings["denoiser"].validate_every:
            heldout = {"latent": run.latents(run.heldout_images)}
    loss = denoiser_loss(
        network,
        max_timestep=settings.max_timestep or run.config.diffusion.num_timesteps,
        prediction=settings.prediction,
        weighting=settings.weighting,
        encode=partial(_encode, run) if run.augmentations else None,
    )
    params = initialise(network, jax.random.key(run.config.seed))["params"]
    sampled_with = {
        "autoencoder": run.autoencoder,
        "scaling": run.latent_scaling,
        "alpha_bar": run.alpha_bar,
    }
    sample = denoiser_sample(run.networks, run.settings, sampled_with, run.sampled_images)
    return _Task(loss, params, frozen, arrays, heldout, sample)


def _encode(run: Run, frozen: Any, batch: Any) -> Float[Array, "b h w c"]:
    pixels = reconstruction.to_network_range(batch["image"], run.settings.image_size)
    return reconstruction.encode(
        run.networks.autoencoder, frozen["autoencoder"], *frozen["scaling"], pixels
    )


def _extractor(run: Run) -> _Task:
    loss = adaptation_loss(
        run.networks,
        run.settings,
        distillation_weight=run.config.extractor.distillation_weight,
    )
    shift, scale = run.latent_scaling
    frozen = {
        "autoencoder": run.autoencoder,
        "denoiser": run.denoiser,
        "extractor": run.pretrained_extractor,
        "latent_shift": shift,
        "latent_scale": scale,
        "alpha_bar": run.alpha_bar,
    }
    return _Task(
        loss,
        run.pretrained_extractor["params"],
        frozen,
        {"image": run.train_images},
        {"image": run.heldout_images},
    )


TASKS: Mapping[str, Callable[[Run], _Task]] = {
    "autoencoder": _autoencoder,
    "denoiser": _denoiser,
    "extractor": _extractor,
}
