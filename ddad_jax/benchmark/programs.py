"""The programs that are measured: detection, whole and by stage, and the steps of training."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float

from ddad_jax.benchmark.seeded import seeded_images
from ddad_jax.benchmark.timing import Program
from ddad_jax.detection import anomaly_map, evidence, reconstruction
from ddad_jax.detection.calibration import RECONSTRUCTED
from ddad_jax.detection.detect import detect
from ddad_jax.detection.detector import Detector, shard_detector
from ddad_jax.detection.restoration import restore
from ddad_jax.machine.division import lay_out
from ddad_jax.training import mesh as meshes
from ddad_jax.training.adaptation import adaptation_loss
from ddad_jax.training.denoiser import denoiser_loss
from ddad_jax.training.group import group_step
from ddad_jax.training.state import Loss, TrainSettings, initial_state

WHOLE = "detect"
# The fields of a detector that adaptation reads.
FROZEN = ("autoencoder", "denoiser", "extractor", "latent_shift", "latent_scale", "alpha_bar")


@dataclass(frozen=True)
class Entry:
    """A program that can be made.

    Attributes:
      name: its name.
      batch_size: images in one call.
      times: how often `detect` runs it, if it is a stage; otherwise 0.
      make: makes it, with its arguments on the device.
    """

    name: str
    batch_size: int
    times: int
    make: Callable[[], Program]


def detection_entries(detector: Detector, batch_size: int) -> list[Entry]:
    """Returns `detect`, and each of its stages by itself.

    Args:
      detector: on one device.
      batch_size: images at a time.
    """
    settings, weights = detector.settings, evidence.evidence_weights(detector.settings)
    restored = settings.reconstruct and settings.restores
    # How often it decodes: the denoised latent, and the restored one.
    decoded = "feature" in weights or (settings.reconstruct and not restored)
    decodes = int(decoded) + int(restored)
    compares = not weights.keys().isdisjoint(RECONSTRUCTED)
    all_stages: dict[str, tuple[Callable[..., Any], int]] = {
        "encode": (_encode, int(compares or decodes > 0)),
        "extract": (_extract, 1 + decodes),
        "k-NN": (_knn, 1 + settings.reconstruct),
        "UNet step": (_step, settings.num_steps if compares or decoded else 0),
        "restore": (_restore, int(restored)),
        "decode": (_decode, decodes),
        "maps": (_maps, int(compares)),
        "patch map": (_patch_map, int("patch" in weights)),
    }
    stages = {name: stage for name, stage in all_stages.items() if stage[1]}

    def whole() -> Program:
        images = seeded_images(batch_size, settings.image_size, seed=1)
        return Program(WHOLE, detect, (detector, images), batch_size)

    def stage(name: str) -> Program:
        state = _seeded_state(detector, batch_size)
        return Program(name, jax.jit(stages[name][0]), (detector, state), batch_size)

    entries = [
        Entry(name, batch_size, times, partial(stage, name)) for name, (_, times) in stages.items()
    ]
    return [Entry(WHOLE, batch_size, 0, whole), *entries]


def divided_detection(detector: Detector, batch_size: int, mesh: Mesh) -> Entry:
    """Returns `detect` over the devices of a mesh.

    Args:
      detector: on one device.
      batch_size: images at a time, of all devices.
      mesh: from `make_mesh`.
    """

    def make() -> Program:
        images = seeded_images(batch_size, detector.settings.image_size, seed=1)
        divided = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
        arguments = (shard_detector(detector, mesh), lay_out(images, divided))
        return Program(WHOLE, detect, arguments, batch_size)

    return Entry(WHOLE, batch_size, 0, make)


@dataclass(frozen=True)
class Trainings:
    """How the networks of a detector are trained.

    Attributes:
      denoiser: the denoiser's training.
      extractor: the extractor's adaptation.
      max_timestep: see `denoiser_loss`.
    """

    denoiser: TrainSettings
    extractor: TrainSettings
    max_timestep: int

    @property
    def settings(self) -> tuple[TrainSettings, TrainSettings]:
        """The settings, in the order of `step_objectives`."""
        return self.denoiser, self.extractor


def training_entries(
    detector: Detector, batch_size: int, trainings: Trainings, mesh: Mesh | None = None
) -> list[Entry]:
    """Returns an optimiser step of the denoiser, and one of adaptation, as in training.

    Args:
      detector: the steps start from its weights.
      batch_size: images per step, of all devices.
      trainings: see `Trainings`.
      mesh: from `make_mesh`; None for one device.
    """
    on = meshes.mesh_of_first(1) if mesh is None else mesh

    def make(objective: Objective, settings: TrainSettings) -> Program:
        arrays = objective.arrays(detector, batch_size)
        state, *rest = step_arguments(
            *arrays, settings, lambda tree, layout: meshes.place(on, [tree], layout)
        )
        # The step reuses its state's memory; the weights, which are needed again, stay.
        step = group_step(objective.loss, settings, on, state, rest[0])
        return Program(objective.name, step, (state, *rest), batch_size, carries=True)

    objectives = step_objectives(detector, trainings.max_timestep)
    return [
        Entry(objective.name, batch_size, 0, partial(make, objective, settings))
        for objective, settings in zip(objectives, trainings.settings, strict=True)
    ]


@dataclass(frozen=True)
class Objective:
    """An optimiser step to measure.

    Attributes:
      name: of the step.
      loss: the objective.
      arrays: (detector, batch size) -> parameters, frozen variables and batch of one training.
    """

    name: str
    loss: Loss
    arrays: Callable[[Detector, int], tuple[Any, Any, Any]]


def step_objectives(detector: Detector, max_timestep: int) -> tuple[Objective, Objective]:
    """Returns the denoiser's training and the extractor's adaptation.

    Args:
      detector: gives networks and settings; its arrays are not used.
      max_timestep: see `denoiser_loss`.
    """
    networks, settings = detector.networks, detector.settings

    def training_arrays(d: Detector, batch_size: int) -> tuple[Any, Any, Any]:
        batch = {"latent": _seeded_state(d, batch_size)["latent"]}
        return d.denoiser["params"], {"alpha_bar": d.alpha_bar}, batch

    def adaptation_arrays(d: Detector, batch_size: int) -> tuple[Any, Any, Any]:
        batch = {"image": seeded_images(batch_size, settings.image_size, seed=1)}
        return d.extractor["params"], {name: getattr(d, name) for name in FROZEN}, batch

    loss = denoiser_loss(
        networks.denoiser, max_timestep=max_timestep, prediction=settings.prediction
    )
    return (
        Objective("training step", loss, training_arrays),
        Objective("adaptation step", adaptation_loss(networks, settings), adaptation_arrays),
    )


def step_arguments(
    params: Any,
    frozen: Any,
    batch: Any,
    settings: TrainSettings,
    placed: Callable[[Any, meshes.Layout], Any],
) -> tuple[Any, ...]:
    """Returns a step's arguments: state, frozen variables, batch, seed and number of steps.

    Args:
      params: parameters of one training.
      frozen: its frozen variables.
      batch: its batch.
      settings: how it is trained.
      placed: puts one training's arrays on the devices.
    """
    return (
        placed(initial_state(params, settings), meshes.parameter_spec),
        placed(frozen, meshes.parameter_spec),
        placed(batch, meshes.batch_spec),
        *placed((np.int32(0), np.int32(1 << 30)), meshes.whole_spec),
    )


def _seeded_state(detector: Detector, batch_size: int) -> dict[str, Any]:
    """Draws what the stages pass to each other."""
    settings = detector.settings
    size = settings.image_size
    pixels = reconstruction.to_network_range(seeded_images(batch_size, size, seed=1), size)
    shapes = jax.eval_shape(
        lambda d, x: {"latent": _encode(d, {"pixels": x}), "features": _extract(d, {"pixels": x})},
        detector,
        pixels,
    )
    drawn = jax.tree.map(lambda x: jax.random.normal(jax.random.key(2), x.shape), shapes)
    level = jnp.full(batch_size, settings.max_noise_level)
    return {"pixels": pixels, "level": level, **drawn}


def _encode(d: Detector, state: dict[str, Any]) -> Float[Array, "b h w c"]:
    scaling = (d.latent_shift, d.latent_scale)
    return reconstruction.encode(d.networks.autoencoder, d.autoencoder, *scaling, state["pixels"])


def _extract(d: Detector, state: dict[str, Any]) -> tuple[Float[Array, "b _h _w _c"], ...]:
    return reconstruction.extract(d.networks.extractor, d.extractor, state["pixels"])


def _knn(d: Detector, state: dict[str, Any]) -> Float[Array, " b"]:
    return evidence.knn_distance(d, state["features"])


def _step(d: Detector, state: dict[str, Any]) -> Float[Array, "b h w c"]:
    settings = replace(d.settings, num_steps=1)
    arguments = (state["latent"], state["level"], jax.random.key(0))
    return reconstruction.reconstruct_latent(
        d.networks.denoiser, d.denoiser, d.alpha_bar, settings, *arguments
    )


def _decode(d: Detector, state: dict[str, Any]) -> Float[Array, "b size size 3"]:
    scaling = (d.latent_shift, d.latent_scale)
    return reconstruction.decode(d.networks.autoencoder, d.autoencoder, *scaling, state["latent"])


def _maps(d: Detector, state: dict[str, Any]) -> dict[str, Float[Array, "b size size"]]:
    latent, features = state["latent"], state["features"]
    other = tuple(each + 1.0 for each in features)
    maps = evidence.reconstruction_maps(d.settings, latent, latent + 1.0, features, other)
    return {kind: anomaly_map.gaussian_blur(each, d.settings.blur) for kind, each in maps.items()}


def _patch_map(d: Detector, state: dict[str, Any]) -> dict[str, Float[Array, "b size size"]]:
    found = {}
    for name, distances in evidence.patch_distances(d, state["features"]).items():
        whole = anomaly_map.resize(distances, d.settings.image_size)
        found[name] = anomaly_map.gaussian_blur(whole, d.settings.blur)
    return found


def _restore(d: Detector, state: dict[str, Any]) -> Float[Array, "b h w c"]:
    latent = state["latent"]
    return restore(latent, latent[..., 0] > 1.0, d.latent_bank)
