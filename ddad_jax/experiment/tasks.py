"""What each network is trained on: its objective and its data."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float

from ddad_jax.detection import reconstruction
from ddad_jax.experiment.schema import NETWORKS
from ddad_jax.experiment.trained import Trained
from ddad_jax.models import initialise
from ddad_jax.training.adaptation import adaptation_loss
from ddad_jax.training.autoencoder import autoencoder_loss
from ddad_jax.training.denoiser import denoiser_loss
from ddad_jax.training.samples import Sample, autoencoder_sample, denoiser_sample
from ddad_jax.training.state import Loss


@dataclass(frozen=True)
class Task:
    """What a network is trained on; see `Training`, whose batches are made from `arrays`."""

    loss: Loss
    params: Any
    frozen: Any
    arrays: Mapping[str, np.ndarray]
    heldout: Mapping[str, np.ndarray] | None
    sample: Sample | None = None


def _autoencoder(made: Trained) -> Task:
    subject = made.subject
    settings, network = subject.config.autoencoder, subject.networks.autoencoder
    loss = autoencoder_loss(
        network,
        subject.networks.extractor,
        feature_weight=settings.feature_weight,
        latent_weight=settings.latent_weight,
        crop_size=settings.crop_size,
    )
    return Task(
        loss,
        initialise(network, jax.random.key(subject.config.seed))["params"],
        {"extractor": made.pretrained_extractor},
        {"image": subject.train_images},
        {"image": subject.heldout_images},
        autoencoder_sample(network, subject.sampled_images),
    )


def _denoiser(made: Trained) -> Task:
    subject, config = made.subject, made.subject.config
    settings, network = config.denoiser, subject.networks.denoiser
    frozen: dict[str, Any] = {"alpha_bar": made.alpha_bar}
    if subject.augmentations:
        # An augmented image differs at each step, so its latent is computed in the step.
        frozen |= {"autoencoder": made.autoencoder, "scaling": made.latent_scaling}
        arrays = {"image": subject.train_images}
        heldout = {"image": subject.heldout_images}
    else:
        arrays, heldout = {"latent": made.latents(subject.train_images)}, None
        if settings.training.validate_every:
            heldout = {"latent": made.latents(subject.heldout_images)}
    loss = denoiser_loss(
        network,
        max_timestep=settings.max_timestep or config.diffusion.num_timesteps,
        prediction=settings.prediction,
        weighting=settings.weighting,
        encode=partial(_encode, made) if subject.augmentations else None,
    )
    params = initialise(network, jax.random.key(config.seed))["params"]
    sampled_with = {
        "autoencoder": made.autoencoder,
        "scaling": made.latent_scaling,
        "alpha_bar": made.alpha_bar,
    }
    sample = denoiser_sample(
        subject.networks, config.detector, sampled_with, subject.sampled_images
    )
    return Task(loss, params, frozen, arrays, heldout, sample)


def _encode(made: Trained, frozen: Any, batch: Any) -> Float[Array, "b h w c"]:
    subject = made.subject
    pixels = reconstruction.to_network_range(batch["image"], subject.preprocessing.size)
    shift, scale = frozen["scaling"]
    return reconstruction.encode(
        subject.networks.autoencoder, frozen["autoencoder"], shift, scale, pixels
    )


def _extractor(made: Trained) -> Task:
    subject, config = made.subject, made.subject.config
    loss = adaptation_loss(
        subject.networks,
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
    return Task(
        loss,
        made.pretrained_extractor["params"],
        frozen,
        {"image": subject.train_images},
        {"image": subject.heldout_images},
    )


TASKS: Mapping[str, Callable[[Trained], Task]] = dict(
    zip(NETWORKS, (_autoencoder, _denoiser, _extractor), strict=True)
)
