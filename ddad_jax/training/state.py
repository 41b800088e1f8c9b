"""The state of a training (parameters, average, optimiser, step), and the step that changes it."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from clu.metrics import Average
from jaxtyping import Array, Bool, Float, Int, Key, PyTree

from ddad_jax.settings import Checked, SettingError, setting
from ddad_jax.training.trace import parse_steps

# An `Average` has an entry for each kind of sample, in its total and its count.
Metrics = dict[str, Array | Average]
# (parameters, frozen variables, batch, key) -> (loss, metrics)
Loss = Callable[[PyTree, PyTree, PyTree, Key[Array, ""]], tuple[Float[Array, ""], Metrics]]


@dataclass(frozen=True)
class TrainSettings(Checked):
    """How one network is trained.

    Attributes:
      steps: optimiser steps; 0 takes `epochs` instead.
      batch_size: images per step, over all devices.
      learning_rate: the peak rate of AdamW.
      schedule: after the warm-up, "constant", or "cosine": down to almost 0 at the last step.
      warmup_steps: steps over which the rate rises from 0.
      weight_decay: AdamW's decoupled weight decay.
      clip_norm: largest global norm of the gradient.
      ema_decay: decay of the parameters' moving average, which is what training returns; 0 returns
        the last parameters.
      checkpoint_every: steps between checkpoints.
      log_every: steps between written metrics.
      max_skipped: non-finite steps in a row after which training stops.
      epochs: passes over the training images if `steps` is 0; if both are 0, nothing is trained.
      validate_every: steps between measurements on held-out images, the first before any step;
        training then returns the parameters that did best there, which may be those it started
        from. 0: no measurements.
      patience: measurements in a row without a new best after which training stops.
      sample_every: steps between pictures of the network's results for a few images; 0: none.
      trace_steps: steps that `jax.profiler` traces, such as "10-12", or "".
      accumulate: parts that a batch is divided into, computed one after the other, so that memory
        need only hold one; each part has its own random numbers.
    """

    steps: int = setting(0, changes="own", low=0)
    batch_size: int = setting(16, changes="own", low=1)
    learning_rate: float = setting(1e-4, changes="own", above=0)
    schedule: Literal["constant", "cosine"] = setting("constant", changes="own")
    warmup_steps: int = setting(0, changes="own", low=0)
    weight_decay: float = setting(0.01, changes="own", low=0)
    clip_norm: float = setting(1.0, changes="own", above=0)
    ema_decay: float = setting(0.0, changes="own", low=0, below=1)
    checkpoint_every: int = setting(200, changes="nothing", low=1)
    log_every: int = setting(20, changes="nothing", low=1)
    max_skipped: int = setting(10, changes="nothing", low=1)
    epochs: int = setting(0, changes="own", low=0)
    validate_every: int = setting(0, changes="own", low=0)
    patience: int = setting(3, changes="own", low=1)
    sample_every: int = setting(1000, changes="nothing", low=0)
    trace_steps: str = setting("", changes="nothing")
    accumulate: int = setting(1, changes="own", low=1)

    def check_together(self) -> None:
        """Raises SettingError if `trace_steps` is no range, or no step follows the warm-up."""
        try:
            parse_steps(self.trace_steps)
        except ValueError as error:
            raise SettingError("trace_steps", str(error)) from error
        if 0 < self.steps <= self.warmup_steps:
            raise SettingError(
                "warmup_steps",
                f"{self.warmup_steps} leaves none of the {self.steps} steps for training; choose "
                "fewer, or more steps or epochs",
            )

    def for_images(self, count: int) -> "TrainSettings":
        """Returns the same settings with `steps` set, for a training set of `count` images."""
        steps = self.steps or -(-self.epochs * count // self.batch_size)
        return replace(self, steps=steps, epochs=0)


class Best(flax.struct.PyTreeNode):
    """The parameters that did best on held-out data, a pytree.

    Attributes:
      params: the parameters.
      loss: their loss on held-out data, a float32 scalar.
      misses: number of measurements since then, an int32 scalar.
    """

    params: PyTree
    loss: PyTree
    misses: PyTree


class TrainState(flax.struct.PyTreeNode):
    """The state of one training, a pytree.

    Attributes:
      step: optimiser steps taken, an int32 scalar.
      params: the parameters.
      ema: their moving average.
      optimiser: the state of optax.
      skipped: non-finite steps in a row up to now, an int32 scalar.
      best: see `Best`; None if nothing is measured on held-out data.
    """

    step: PyTree
    params: PyTree
    ema: PyTree
    optimiser: PyTree
    skipped: PyTree
    best: PyTree = None


def make_optimiser(settings: TrainSettings) -> optax.GradientTransformation:
    """Makes AdamW with a rate of 1, after clipping by the global norm."""
    return optax.chain(
        optax.clip_by_global_norm(settings.clip_norm),
        optax.adamw(1.0, weight_decay=settings.weight_decay),
    )


def learning_rate(
    settings: TrainSettings, step: Int[Array, ""], steps: Int[Array, ""]
) -> Float[Array, ""]:
    """Returns the rate at a step, counted from 0, of `steps` in all.

    `settings.steps` is not used: trainings of a group share settings, but not their steps.
    """
    rate = jnp.float32(settings.learning_rate)
    if settings.warmup_steps:
        rate *= jnp.minimum(step / settings.warmup_steps, 1.0)
    if settings.schedule == "cosine":
        decay = optax.cosine_decay_schedule(1.0, decay_steps=1)
        rate *= decay((step - settings.warmup_steps).clip(0) / (steps - settings.warmup_steps))
    return rate


def initial_state(params: PyTree, settings: TrainSettings) -> TrainState:
    """Returns the state before the first step; none of its arrays share memory."""

    def copy() -> PyTree:
        return jax.tree.map(jnp.copy, params)

    def zero() -> Int[Array, ""]:
        return jnp.zeros((), jnp.int32)

    best = Best(copy(), jnp.float32(jnp.inf), zero()) if settings.validate_every else None
    optimiser = make_optimiser(settings).init(params)
    return TrainState(zero(), copy(), copy(), optimiser, zero(), best)


def is_running(
    settings: TrainSettings,
    taken: Int[Array | np.ndarray, "*group"],
    steps: Int[Array | np.ndarray, "*group"],
    misses: Int[Array | np.ndarray, "*group"] | int,
) -> Bool[Array | np.ndarray, "*group"]:
    """Whether there is a step left to take.

    Args:
      settings: see `TrainSettings`; its own `steps` is not used.
      taken: optimiser steps taken.
      steps: optimiser steps to take.
      misses: measurements since the best one.
    """
    return (taken < steps) & (misses < settings.patience)


def returned(state: TrainState, settings: TrainSettings) -> PyTree:
    """Returns the resulting parameters: their average if one is kept, or else the last ones."""
    return state.ema if settings.ema_decay else state.params


def make_step(loss: Loss, settings: TrainSettings) -> Callable[..., tuple[TrainState, Metrics]]:
    """Makes an optimiser step: (state, frozen, batch, seed, steps) -> (state, metrics).

    A step whose loss, gradient or parameters are not finite changes only the counters. A step after
    the last of `steps`, or after patience has run out, changes nothing.
    """
    optimiser = make_optimiser(settings)
    gradient_of = _accumulated(jax.value_and_grad(loss, has_aux=True), settings.accumulate)

    def step(
        state: TrainState,
        frozen: PyTree,
        batch: PyTree,
        seed: Int[Array, ""],
        steps: Int[Array, ""],
    ) -> tuple[TrainState, Metrics]:
        step_key = jax.random.fold_in(jax.random.key(seed), state.step)
        (value, metrics), gradient = gradient_of(state.params, frozen, batch, step_key)
        norm = optax.tree.norm(gradient)
        updates, optimiser_state = optimiser.update(gradient, state.optimiser, state.params)
        rate = learning_rate(settings, state.step, steps)
        params = optax.apply_updates(state.params, optax.tree.scale(rate, updates))
        # Early on the average spans fewer steps, so that the start leaves little bias.
        decay = jnp.minimum(settings.ema_decay, (1.0 + state.step) / (10.0 + state.step))
        ema = optax.incremental_update(params, state.ema, 1.0 - decay)

        misses = 0 if state.best is None else state.best.misses
        running = is_running(settings, state.step, steps, misses)
        # The new parameters are checked too: a rate that is not finite would spoil only them.
        finite = jnp.isfinite(value) & jnp.isfinite(norm) & jnp.isfinite(optax.tree.norm(params))
        kept: tuple[PyTree, PyTree, PyTree] = jax.tree.map(
            lambda new, old: jnp.where(running & finite, new, old),
            (params, ema, optimiser_state),
            (state.params, state.ema, state.optimiser),
        )
        skipped = jnp.where(running, jnp.where(finite, 0, state.skipped + 1), state.skipped)
        metrics = metrics | {
            "loss": value,
            "gradient_norm": norm,
            "parameter_norm": optax.tree.norm(kept[0]),
            "skipped": skipped,
        }
        return TrainState(state.step + running, *kept, skipped, state.best), metrics

    return step


def _accumulated(gradient_of: Callable[..., PyTree], parts: int) -> Callable[..., PyTree]:
    """Turns a function of a batch into the mean of its results over `parts` parts of the batch."""
    if parts == 1:
        return gradient_of

    def mean(
        params: PyTree, frozen: PyTree, batch: PyTree, key: Key[Array, ""]
    ) -> tuple[tuple[Float[Array, ""], Metrics], PyTree]:
        # Every device that shares the batch has rows in every part.
        divided = jax.tree.map(
            lambda rows: jnp.moveaxis(rows.reshape(-1, parts, *rows.shape[1:]), 1, 0), batch
        )
        each = (divided, jax.random.split(key, parts))

        def add(total: PyTree, part: PyTree) -> tuple[PyTree, None]:
            return jax.tree.map(jnp.add, total, gradient_of(params, frozen, *part)), None

        shapes = jax.eval_shape(
            gradient_of, params, frozen, *jax.tree.map(lambda array: array[0], each)
        )
        zeros = jax.tree.map(lambda shape: jnp.zeros(shape.shape, shape.dtype), shapes)
        total, _ = jax.lax.scan(add, zeros, each)
        return jax.tree.map(lambda array: array / parts, total)

    return mean


def measured(
    state: TrainState,
    settings: TrainSettings,
    value: Float[Array, ""],
    due: Bool[Array, ""],
) -> TrainState:
    """Returns the state with `best` updated by a new loss on held-out data.

    Args:
      state: with a `best`.
      settings: see `TrainSettings`.
      value: the loss of the state's parameters.
      due: whether the loss counts; if not, nothing changes.
    """
    better = due & (value < state.best.loss)
    misses = jnp.where(better, 0, state.best.misses + due)
    params, loss = jax.tree.map(
        lambda new, old: jnp.where(better, new, old),
        (returned(state, settings), value),
        (state.best.params, state.best.loss),
    )
    return state.replace(best=Best(params, loss, misses))
