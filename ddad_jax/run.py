"""One run of one category: its stages, each continued where it was left and skipped when done."""

import hashlib
import json
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from jaxtyping import Array, Float, Int, UInt8
from ml_collections import ConfigDict

from ddad_jax import builders, pretrained
from ddad_jax.data.loader import training_batches
from ddad_jax.data.prepare import ImageSet, prepare
from ddad_jax.data.report import DatasetReport, inspect
from ddad_jax.data.sample import part_name
from ddad_jax.data.split import split_normals
from ddad_jax.data.tiled import cut_into_tiles
from ddad_jax.deploy.artifact import load_detector, save_detector
from ddad_jax.detection import evidence
from ddad_jax.detection.batching import batched
from ddad_jax.detection.build import BuildSettings, build_detector
from ddad_jax.detection.detector import Detector, Settings, Variables
from ddad_jax.diffusion import schedule
from ddad_jax.errors import UserError
from ddad_jax.evaluation import d3ad
from ddad_jax.evaluation.predict import predict
from ddad_jax.evaluation.predictions import Predictions
from ddad_jax.evaluation.tiled import calibrate_on_images
from ddad_jax.hardware import peak_flops
from ddad_jax.models import initialise, parameter_count
from ddad_jax.training import mesh as meshes
from ddad_jax.training.adaptation import adaptation_loss
from ddad_jax.training.autoencoder import autoencoder_loss
from ddad_jax.training.denoiser import denoiser_loss
from ddad_jax.training.loop import train
from ddad_jax.training.samples import Sample, autoencoder_sample, denoiser_sample
from ddad_jax.training.state import TrainSettings

# Sections whose change makes a half-finished run another run.
TRAINED_BY = ("seed", "data", "diffusion", "autoencoder", "denoiser", "extractor")


class Run:
    """The stages from images to a fitted detector; every property is computed once, on demand."""

    def __init__(self, config: ConfigDict, category: str, workdir: Path):
        """Checks every setting that can be checked without computing.

        Raises:
          UserError: naming the setting.
        """
        self.config = config
        self.workdir = workdir
        self.networks = builders.networks(config)
        self.settings = builders.detection_settings(config)
        self.build = builders.build_settings(config)
        self.train_settings = {
            network: builders.train_settings(config, network)
            for network in ("autoencoder", "denoiser", "extractor")
        }
        self._protocol = builders.evaluation_protocol(config)
        self._at_original = builders.measured_at_original(config)
        self._whole = builders.source(config, category)
        self._source = cut_into_tiles(self._whole, self.settings.tile, self.settings.overlap)
        self.name = self._source.category or workdir.resolve().name
        self._augmentations = builders.augmentations(config, self._source.category)
        self._mesh = meshes.make_mesh(config.mesh.data)
        self._check_same_run()

    def _check_same_run(self) -> None:
        path = self.workdir / "config.json"
        resolved = json.loads(self.config.to_json_best_effort())
        if path.exists():
            begun = json.loads(path.read_text())
            changed = [name for name in TRAINED_BY if begun.get(name) != resolved[name]]
            if changed and any(self.workdir.glob("*/checkpoints/*")):
                setting, before, now = _first_difference(begun, resolved, changed)
                raise UserError(
                    f"--workdir={self.workdir}: holds a run with {setting} = {before}, but now it "
                    f"is {now}; choose another --workdir, or the setting it was begun with"
                )
        path.write_text(json.dumps(resolved, indent=2) + "\n")

    def inspect(self) -> DatasetReport:
        """Reads every image and mask and says what there is, and what would spoil a result."""
        data = self.config.data
        size = None if self._at_original else data.size
        return inspect(self._whole, size, data.resize, data.on_unreadable)

    @cached_property
    def images(self) -> dict[str, ImageSet]:
        """The decoded images, or their tiles, "train" and "test"."""
        data = self.config.data
        cache = builders.cache_folder(self.config, self.workdir)
        return prepare(self._source, data.size, cache, data.resize, data.on_unreadable)

    def resized_masks(self) -> Float[np.ndarray, "n size size"] | None:
        """The test images' masks as the official code resizes them, if its figures are asked for.

        `evaluation.d3ad` says how they differ.
        """
        if self._protocol == "exact":
            return None
        data = self.config.data
        return d3ad.resized_masks(self._source, self.images["test"].samples, data.size, data.resize)

    @cached_property
    def _split(self) -> tuple[np.ndarray, np.ndarray]:
        samples = self.images["train"].samples
        return split_normals(samples, self.config.data.heldout_fraction, self.config.seed)

    @cached_property
    def train_images(self) -> UInt8[np.ndarray, "n h w 3"]:
        """Normal images that networks are trained on and banks are made of."""
        return self.images["train"].images[self._split[0]]

    @property
    def _train_parts(self) -> Int[np.ndarray, " n"]:
        """A number for each training image, the same for images of one part."""
        samples = [self.images["train"].samples[index] for index in self._split[0]]
        return np.unique([part_name(sample) for sample in samples], return_inverse=True)[1]

    @cached_property
    def heldout_images(self) -> UInt8[np.ndarray, "m h w 3"]:
        """Normal images that no network or bank is fitted to: for calibration and validation."""
        return self._heldout.images

    @cached_property
    def _heldout(self) -> ImageSet:
        return self.images["train"].take(self._split[1])

    @property
    def _sampled_images(self) -> UInt8[np.ndarray, "n h w 3"]:
        """Those that training draws pictures of."""
        return (self.heldout_images if len(self.heldout_images) else self.train_images)[:4]

    @cached_property
    def alpha_bar(self) -> Float[Array, " table"]:
        """The noise schedule."""
        d = self.config.diffusion
        return jnp.asarray(schedule.linear_alpha_bar(d.beta_start, d.beta_end, d.num_timesteps))

    @cached_property
    def _pretrained_extractor(self) -> Variables:
        return pretrained.load(self.config.extractor.weights, self.networks.extractor)

    @cached_property
    def autoencoder(self) -> Variables:
        """The autoencoder, pretrained or trained here."""
        settings, network = self.config.autoencoder, self.networks.autoencoder
        if not parameter_count(network):
            return {}
        if settings.weights:
            return pretrained.load(settings.weights, network)
        loss = autoencoder_loss(
            network,
            self.networks.extractor,
            feature_weight=settings.feature_weight,
            latent_weight=settings.latent_weight,
            crop_size=settings.crop_size,
        )
        start = initialise(network, jax.random.key(self.config.seed))
        params = self._train(
            "autoencoder",
            loss,
            start["params"],
            {"extractor": self._pretrained_extractor},
            {"image": self.train_images},
            {"image": self.heldout_images},
            autoencoder_sample(network, self._sampled_images),
        )
        return {"params": params}

    @cached_property
    def _raw_latents(self) -> Float[np.ndarray, "n h w c"]:
        """The frozen autoencoder's latents of the training images."""
        return self._encoded(self.train_images)

    def _encoded(self, images: UInt8[np.ndarray, "n h w 3"]) -> Float[np.ndarray, "n h w c"]:
        """The frozen autoencoder's latents, kept on disk."""
        key = hashlib.blake2b(digest_size=8)
        for array in (*jax.tree.leaves(self.autoencoder), images):
            key.update(np.ascontiguousarray(array))
        path = self.workdir / f"latents-{key.hexdigest()}.npy"
        if path.exists():
            return np.load(path)
        network = self.networks.autoencoder

        @jax.jit
        def encode(variables, images):
            pixels = evidence.to_network_range(images, self.settings.image_size)
            return network.apply(variables, pixels, method="encode").astype(jnp.float32)

        function = partial(encode, self.autoencoder)
        parts = batched(function, images, self.build.batch_size, "encode")
        latents = np.concatenate(list(parts))
        unfinished = path.with_suffix(".unfinished.npy")
        np.save(unfinished, latents)
        unfinished.replace(path)
        return latents

    @cached_property
    def latent_scaling(self) -> tuple[Float[Array, " c"], Float[Array, " c"]]:
        """Shift and scale per channel: the configured scale, or mean 0 and deviation 1."""
        channels = self.networks.autoencoder.latent_channels
        scale = self.config.autoencoder.latent_scale
        if scale:
            return jnp.zeros(channels), jnp.full(channels, scale, jnp.float32)
        mean = self._raw_latents.mean((0, 1, 2))
        deviation = self._raw_latents.std((0, 1, 2))
        return jnp.asarray(mean), jnp.asarray(1.0 / np.maximum(deviation, 1e-6))

    @cached_property
    def denoiser(self) -> Variables:
        """The denoiser, pretrained or trained here."""
        settings, network = self.config.denoiser, self.networks.denoiser
        if settings.weights:
            return pretrained.load(settings.weights, network)
        frozen = {"alpha_bar": self.alpha_bar}
        if self._augmentations:
            # An augmented image is another one at each step, so its latent is made there.
            frozen |= {"autoencoder": self.autoencoder, "scaling": self.latent_scaling}
            arrays, heldout = {"image": self.train_images}, {"image": self.heldout_images}
        else:
            arrays, heldout = {"latent": self._latents(self.train_images)}, None
            if self._train_settings("denoiser").validate_every:
                heldout = {"latent": self._latents(self.heldout_images)}
        start = initialise(network, jax.random.key(self.config.seed))
        loss = denoiser_loss(
            network,
            max_timestep=settings.max_timestep or self.config.diffusion.num_timesteps,
            prediction=settings.prediction,
            weighting=settings.weighting,
            encode=self._encode_batch if self._augmentations else None,
        )
        sampled_with = {
            "autoencoder": self.autoencoder,
            "scaling": self.latent_scaling,
            "alpha_bar": self.alpha_bar,
        }
        sample = denoiser_sample(self.networks, self.settings, sampled_with, self._sampled_images)
        params = self._train("denoiser", loss, start["params"], frozen, arrays, heldout, sample)
        return {"params": params}

    def _latents(self, images: UInt8[np.ndarray, "n h w 3"]) -> Float[np.ndarray, "n h w c"]:
        shift, scale = (np.asarray(part) for part in self.latent_scaling)
        return (self._encoded(images) - shift) * scale

    def _encode_batch(self, frozen: Any, batch: Any) -> Float[Array, "b h w c"]:
        pixels = evidence.to_network_range(batch["image"], self.settings.image_size)
        return evidence.encode(
            self.networks.autoencoder, frozen["autoencoder"], *frozen["scaling"], pixels
        )

    @cached_property
    def extractor(self) -> Variables:
        """The extractor, adapted to the domain where it is trained at all."""
        if self._train_settings("extractor").steps == 0:
            return self._pretrained_extractor
        loss = adaptation_loss(
            self.networks,
            self.settings,
            distillation_weight=self.config.extractor.distillation_weight,
        )
        shift, scale = self.latent_scaling
        frozen = {
            "autoencoder": self.autoencoder,
            "denoiser": self.denoiser,
            "extractor": self._pretrained_extractor,
            "latent_shift": shift,
            "latent_scale": scale,
            "alpha_bar": self.alpha_bar,
        }
        params = self._train(
            "extractor",
            loss,
            self._pretrained_extractor["params"],
            frozen,
            {"image": self.train_images},
            {"image": self.heldout_images},
        )
        return self._pretrained_extractor | {"params": params}

    def _train(
        self,
        network: str,
        loss: Any,
        params: Any,
        frozen: Any,
        arrays: dict[str, np.ndarray],
        heldout: dict[str, np.ndarray] | None,
        sample: Sample | None = None,
    ) -> Any:
        settings = self._train_settings(network)
        augmentations = self._augmentations if "image" in arrays else ()
        batches = training_batches(arrays, settings.batch_size, self.config.seed, augmentations)
        return train(
            loss,
            flax.core.unfreeze(params),
            frozen,
            batches,
            settings,
            folder=self.workdir / network,
            seed=self.config.seed,
            mesh=self._mesh,
            heldout=heldout,
            sample=sample,
            peak_flops=peak_flops(jax.devices()[0].device_kind, self.config.dtype),
        )

    def _train_settings(self, network: str) -> TrainSettings:
        return self.train_settings[network].for_images(len(self.train_images))

    def load_weights(self) -> None:
        """Reads all foreign weights now, so that a wrong path is said before the long work."""
        for section in ("autoencoder", "denoiser"):
            if self.config[section].weights:
                getattr(self, section)
        _ = self._pretrained_extractor

    def stored_detector(self) -> Detector | None:
        """The fitted detector of these settings and images, if there is one."""
        path = self._detector_path
        if not path.exists():
            return None
        stored = load_detector(path)
        return stored.detector if stored.fingerprint == self.fingerprint(self.config) else None

    @cached_property
    def detector(self) -> Detector:
        """The fitted detector: the stored one where it is of these settings, or built anew."""
        stored = self.stored_detector()
        if stored is not None:
            logging.info("%s: is of these settings, used as it is", self._detector_path)
            return stored
        self.load_weights()
        built = self.fit(self.settings, self.build)
        description = builders.describe_networks(self.config)
        save_detector(self._detector_path, built, description, self.fingerprint(self.config))
        return built

    def fit(self, settings: Settings, build: BuildSettings) -> Detector:
        """A detector of the trained networks, its banks and calibration made for the settings."""
        shift, scale = self.latent_scaling
        heldout = self.heldout_images
        if settings.tile:
            # Of tiles there are many; the threshold, that of images, is found below.
            wanted = min(len(heldout), max(build.calibration_size, 1))
            heldout = heldout[np.linspace(0, len(heldout) - 1, wanted).astype(int)]
        detector = build_detector(
            self.networks,
            settings,
            build,
            autoencoder=self.autoencoder,
            denoiser=self.denoiser,
            extractor=self.extractor,
            latent_shift=shift,
            latent_scale=scale,
            alpha_bar=self.alpha_bar,
            train_images=self.train_images,
            train_parts=self._train_parts,
            heldout_images=heldout,
            seed=self.config.seed,
        )
        if settings.tile:
            return calibrate_on_images(detector, self._source, self._heldout, build)
        return detector

    def predict(self, detector: Detector, batch_size: int) -> Predictions:
        """What the detector says of the test images."""
        return predict(
            detector,
            self._source,
            self.images["test"],
            batch_size,
            protocol=self._protocol,
            at_original=self._at_original,
            resize=self.config.data.resize,
        )

    @property
    def _detector_path(self) -> Path:
        return self.workdir / "detector.safetensors"

    def fingerprint(self, config: ConfigDict) -> str:
        """Changes whenever a setting or an image that a detector of the config depends on does."""
        settings = json.loads(config.to_json_best_effort())
        for section in ("mesh", "evaluation", "benchmark"):
            settings.pop(section)
        samples = [sample.name for sample in self.images["train"].samples]
        text = json.dumps([settings, samples], sort_keys=True)
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _first_difference(before: Any, now: Any, names: list[str]) -> tuple[str, Any, Any]:
    """The dotted name of a setting that differs, and its two values."""
    for name in names:
        old, new = before.get(name), now.get(name)
        if isinstance(old, dict) and isinstance(new, dict):
            inner = [key for key in sorted(old | new) if old.get(key) != new.get(key)]
            if inner:
                setting, *values = _first_difference(old, new, inner)
                return f"{name}.{setting}", *values
        elif old != new:
            return name, old, new
    raise ValueError("the settings are equal")
