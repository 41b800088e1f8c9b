"""The networks of a subject, as far as they exist."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import jax.numpy as jnp
import numpy as np
from absl import logging
from jaxtyping import Array, Float, UInt8

from ddad_jax import pretrained
from ddad_jax.detection.detector import Variables
from ddad_jax.diffusion import schedule
from ddad_jax.experiment.category import Subject
from ddad_jax.experiment.choosing import is_asked
from ddad_jax.experiment.identity import Record, digest_of
from ddad_jax.experiment.schema import NETWORKS
from ddad_jax.models import parameter_count
from ddad_jax.training.latents import channel_scaling, encode_images


@dataclass(frozen=True, eq=False)
class Trained:
    """The networks of a subject, as far as they exist.

    Attributes:
      subject: what they are made for.
      pretrained_extractor: the extractor's variables before any adaptation.
      autoencoder: its variables; None if it is still to be trained.
      denoiser: likewise.
      extractor: its variables, adapted if asked for; None if it is still to be adapted.
      records: the record of each network that was trained in the working directory.
    """

    subject: Subject
    pretrained_extractor: Variables
    autoencoder: Variables | None = None
    denoiser: Variables | None = None
    extractor: Variables | None = None
    records: Mapping[str, Record] = field(default_factory=dict)

    @cached_property
    def alpha_bar(self) -> Float[Array, " table"]:
        """The noise schedule."""
        d = self.subject.config.diffusion
        return jnp.asarray(schedule.linear_alpha_bar(d.beta_start, d.beta_end, d.num_timesteps))

    @cached_property
    def latent_scaling(self) -> tuple[Float[Array, " c"], Float[Array, " c"]]:
        """Shift and scale per channel: the configured scale, or mean 0 and deviation 1."""
        scale = self.subject.config.autoencoder.latent_scale
        if scale:
            channels = self.subject.networks.autoencoder.latent_channels
            return jnp.zeros(channels), jnp.full(channels, scale, jnp.float32)
        return channel_scaling(self._encoded(self.subject.train_images))

    @cached_property
    def digests(self) -> dict[str, str]:
        """For each network that exists, a hash that changes with any of its arrays."""
        names = (*NETWORKS, "pretrained_extractor")
        known = {name: getattr(self, name) for name in names}
        return {name: digest_of(of) for name, of in known.items() if of is not None}

    def latents(self, images: UInt8[np.ndarray, "n size size 3"]) -> Float[np.ndarray, "n h w c"]:
        """Returns what the denoiser works on: the frozen autoencoder's latents, scaled."""
        shift, scale = (np.asarray(part) for part in self.latent_scaling)
        return (self._encoded(images) - shift) * scale

    def _encoded(self, images: UInt8[np.ndarray, "n size size 3"]) -> Float[np.ndarray, "n h w c"]:
        network, c = self.subject.networks.autoencoder, self.subject
        assert self.autoencoder is not None  # It is the first that is trained.
        return encode_images(network, self.autoencoder, images, c.config.build.batch_size, c.cache)

    @property
    def is_adapted(self) -> bool:
        """Whether the extractor differs from the pretrained one."""
        return self.digests["extractor"] != self.digests["pretrained_extractor"]

    @property
    def undecided(self) -> str:
        """Why nothing could tell whether adaptation helps; "" if that is known, or not asked."""
        config = self.subject.config
        return self.subject.undecided if is_asked(config.detector, config.build) else ""

    def trains(self, network: str) -> bool:
        """Whether a network is trained here: it has no weights yet, or is to be adapted."""
        section = getattr(self.subject.config, network)
        if network == "extractor":
            asked = section.training.steps or section.training.epochs
            return bool(asked) and not self.undecided
        return not section.weights and parameter_count(getattr(self.subject.networks, network)) > 0


def load_networks(subject: Subject) -> Trained:
    """Loads a subject's networks that have weights, so that a wrong path is reported early."""
    config, networks = subject.config, subject.networks
    loaded: dict[str, Variables] = {
        "pretrained_extractor": pretrained.load(config.extractor.weights, networks.extractor)
    }
    for name in ("autoencoder", "denoiser"):
        network, weights = getattr(networks, name), getattr(config, name).weights
        if weights:
            loaded[name] = pretrained.load(weights, network)
        elif not parameter_count(network):
            loaded[name] = {}
    made = Trained(subject, **loaded)
    if made.trains("extractor"):
        return made
    training = config.extractor.training
    if training.steps or training.epochs:
        logging.warning(
            "%s: the extractor is not adapted, since nothing could tell whether that helps: %s; "
            "--config.build.planted=0 adapts it anyway", subject.name, made.undecided,
        )  # fmt: skip
    return replace(made, extractor=made.pretrained_extractor)
