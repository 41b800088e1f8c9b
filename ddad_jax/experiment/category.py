"""One run of one category: its images, networks and detector."""

import copy
import hashlib
import io
import json
from functools import cached_property, partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt8
from ml_collections import ConfigDict

from ddad_jax import pretrained
from ddad_jax.data.prepare import ImageSet, prepare
from ddad_jax.data.report import DatasetReport, inspect
from ddad_jax.data.sample import part_name
from ddad_jax.data.split import split_normals
from ddad_jax.data.tiled import cut_into_tiles
from ddad_jax.deploy.artifact import load_detector, save_detector
from ddad_jax.detection import reconstruction
from ddad_jax.detection.batching import batched
from ddad_jax.detection.build import BuildSettings, build_detector
from ddad_jax.detection.detector import Detector, Settings, Variables, shard_detector
from ddad_jax.diffusion import schedule
from ddad_jax.errors import UserError
from ddad_jax.evaluation import d3ad
from ddad_jax.evaluation.evaluate import predict
from ddad_jax.evaluation.predictions import Predictions
from ddad_jax.evaluation.tiled import calibrate_on_images
from ddad_jax.experiment import config as builders
from ddad_jax.machine import processes
from ddad_jax.models import parameter_count

NETWORKS = ("autoencoder", "denoiser", "extractor")
# Sections whose change makes a half-finished run another run.
TRAINED_BY = ("seed", "data", "diffusion", "autoencoder", "denoiser", "extractor")


class Run:
    """From images to a fitted detector; every property is computed once, on demand.

    Networks are trained by `train_networks`, which fills `trained`.

    Attributes:
      config: the resolved config.
      workdir: everything that the run writes is in it.
      name: the category's, or the folder's.
      networks: the modules.
      settings: of detection.
      build: how banks and calibration are made.
      train_settings: of each network.
      augmentations: of training images.
      mesh: the devices.
      trained: by name of the network, parameters that were trained here, on the host.
    """

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
        self.mesh = builders.mesh(config)
        self.train_settings = {
            network: builders.train_settings(config, network) for network in NETWORKS
        }
        self.trained: dict[str, Variables] = {}
        self._protocol = builders.evaluation_protocol(config)
        self._at_original = builders.measured_at_original(config)
        self._whole = builders.source(config, category)
        self._source = cut_into_tiles(self._whole, self.settings.tile, self.settings.overlap)
        self.name = self._source.category or workdir.resolve().name
        self.augmentations = builders.augmentations(config, self._source.category)
        self._check_same_run()

    def _check_same_run(self) -> None:
        path = self.workdir / "config.json"
        resolved = json.loads(self.config.to_json_best_effort())
        if path.exists():
            begun = json.loads(path.read_text())
            changed = [name for name in TRAINED_BY if begun.get(name) != resolved[name]]
            if changed and any(self.workdir.glob("*/checkpoints/*")):
                setting, before, now = builders.first_difference(begun, resolved, changed)
                raise UserError(
                    f"--workdir={self.workdir}: holds a run with {setting} = {before}, but now it "
                    f"is {now}; choose another --workdir, or the setting it was begun with"
                )
        if processes.is_first():
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
    def sampled_images(self) -> UInt8[np.ndarray, "n h w 3"]:
        """Those that training draws pictures of."""
        return (self.heldout_images if len(self.heldout_images) else self.train_images)[:4]

    @cached_property
    def alpha_bar(self) -> Float[Array, " table"]:
        """The noise schedule."""
        d = self.config.diffusion
        return jnp.asarray(schedule.linear_alpha_bar(d.beta_start, d.beta_end, d.num_timesteps))

    @cached_property
    def autoencoder(self) -> Variables:
        """The autoencoder, pretrained or trained here."""
        settings, network = self.config.autoencoder, self.networks.autoencoder
        if not parameter_count(network):
            return {}
        if settings.weights:
            return pretrained.load(settings.weights, network)
        return {"params": self.trained["autoencoder"]}

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
            pixels = reconstruction.to_network_range(images, self.settings.image_size)
            return network.apply(variables, pixels, method="encode").astype(jnp.float32)

        function = partial(encode, jax.device_put(self.autoencoder))
        parts = batched(function, images, self.build.batch_size, "encode")
        latents = np.concatenate(list(parts))
        unfinished = path.with_suffix(".unfinished.npy")
        # Through a buffer: what NumPy raises on a full disk does not say that it is full.
        buffer = io.BytesIO()
        np.save(buffer, latents)
        unfinished.write_bytes(buffer.getbuffer())
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
        weights = self.config.denoiser.weights
        if weights:
            return pretrained.load(weights, self.networks.denoiser)
        return {"params": self.trained["denoiser"]}

    def latents(self, images: UInt8[np.ndarray, "n h w 3"]) -> Float[np.ndarray, "n h w c"]:
        """What the denoiser works on: the frozen autoencoder's latents, scaled."""
        shift, scale = (np.asarray(part) for part in self.latent_scaling)
        return (self._encoded(images) - shift) * scale

    @cached_property
    def pretrained_extractor(self) -> Variables:
        """The extractor before any adaptation."""
        return pretrained.load(self.config.extractor.weights, self.networks.extractor)

    @property
    def extractor(self) -> Variables:
        """The extractor, adapted to the domain where it is trained at all."""
        if not self.trains("extractor"):
            return self.pretrained_extractor
        return self.pretrained_extractor | {"params": self.trained["extractor"]}

    def trains(self, network: str) -> bool:
        """Whether a network is trained here: it has no weights yet, or is to be adapted."""
        if network == "extractor":
            return self.train_settings[network].for_images(len(self.train_images)).steps > 0
        module = getattr(self.networks, network)
        return parameter_count(module) > 0 and not self.config[network].weights

    def load_weights(self) -> None:
        """Reads all foreign weights now, so that a wrong path is said before the long work."""
        for section in ("autoencoder", "denoiser"):
            if self.config[section].weights:
                getattr(self, section)
        _ = self.pretrained_extractor

    @cached_property
    def stored_detector(self) -> Detector | None:
        """The fitted detector of these settings and images, if there is one."""
        path = self._detector_path
        if not path.exists():
            return None
        stored = load_detector(path)
        return stored.detector if stored.fingerprint == self.fingerprint(self.config) else None

    def with_extractor(self, config: ConfigDict) -> "Run":
        """The same run, where the config adapts the extractor otherwise with that still to be done.

        What is written goes to a folder of its own.
        """
        if config.extractor == self.config.extractor:
            return self
        # Computed here once for all that are made of this run.
        _ = self.latent_scaling
        text = config.extractor.to_json_best_effort(sort_keys=True)
        other = copy.copy(self)
        other.config = config
        other.workdir = (
            self.workdir / "ablation" / hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
        )
        other.train_settings = self.train_settings | {
            "extractor": builders.train_settings(config, "extractor")
        }
        other.trained = {name: of for name, of in self.trained.items() if name != "extractor"}
        return other

    def build_detector(self) -> Detector:
        """The fitted detector of the trained networks, built and stored."""
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
            autoencoder=jax.device_put(self.autoencoder),
            denoiser=jax.device_put(self.denoiser),
            extractor=jax.device_put(self.extractor),
            latent_shift=shift,
            latent_scale=scale,
            alpha_bar=self.alpha_bar,
            train_images=self.train_images,
            train_parts=self._train_parts,
            heldout_images=heldout,
            seed=self.config.seed,
            mesh=self.mesh.local_mesh,
        )
        if settings.tile:
            laid = shard_detector(detector, self.mesh.local_mesh)
            calibration = calibrate_on_images(laid, self._source, self._heldout, build)
            return detector.replace(calibration=calibration)
        return detector

    def predict(self, detector: Detector, batch_size: int) -> Predictions:
        """What the detector says of the test images."""
        return predict(
            shard_detector(detector, self.mesh.local_mesh),
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
