"""What training changes: parameters, their average, the optimiser's state and the step."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Key, PyTree


@flax.struct.dataclass
class Means:
    """Means over samples of several kinds, kept so that those of several steps can be joined.

    Attributes:
      total: sum over the samples of each kind, float [kinds].
      count: how many samples were of each kind, [kinds].
    """

    total: PyTree
    count: PyTree


Metrics = dict[str, Array | Means]
# (parameters, frozen variables, batch, key) -> (loss, metrics)
Loss = Callable[[PyTree, PyTree, PyTree, Key[Array, ""]], tuple[Float[Array, ""], Metrics]]


@dataclass(frozen=True)
class TrainSettings:
    """How one network is trained.

    Attributes:
      steps: optimiser steps; 0 takes `epochs` instead.
      batch_size: images a step, over all devices.
      learning_rate: the peak rate of AdamW.
      schedule: "constant" after warm-up, or "cosine" down to 0 at the last step.
      warmup_steps: steps over which the rate rises from 0.
      weight_decay: AdamW's decoupled weight decay.
      clip_norm: largest global norm of the gradient.
      ema_decay: decay of the parameters' moving average, which is what training returns; 0 returns
        the last parameters.
      checkpoint_every: steps between checkpoints.
      log_every: steps between written metrics.
      max_skipped: non-finite steps in a row after which training stops.
      epochs: passes over the training images where `steps` is 0; with both 0 nothing is trained.
      validate_every: steps between measurements on held-out images, the first before any step;
        what training returns is then the parameters that did best there, be it those it started
        from. 0 never measures.
      patience: measurements in a row without a new best after which training stops.
      sample_every: steps between pictures of what the network makes of a few images; 0 never.
      trace_steps: steps that `jax.profiler` traces, such as "10-12", or "".
    """

    steps: int
    batch_size: int
    learning_rate: float = 1e-4
    schedule: Literal["constant", "cosine"] = "constant"
    warmup_steps: int = 0
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    ema_decay: float = 0.0
    checkpoint_every: int = 200
    log_every: int = 20
    max_skipped: int = 10
    epochs: int = 0
    validate_every: int = 0
    patience: int = 3
    sample_every: int = 0
    trace_steps: str = ""

    def for_images(self, count: int) -> "TrainSettings":
        """The same with `steps` set, for a training set of so many images."""
        steps = self.steps or -(-self.epochs * count // self.batch_size)
        return replace(self, steps=steps, epochs=0)


@flax.struct.dataclass
class Best:
    """The parameters that did best on held-out data, a pytree.

    Attributes:
      params: the parameters.
      loss: theirs on held-out data, a float32 scalar.
      misses: measurements since, none of them better, an int32 scalar.
    """

    params: PyTree
    loss: PyTree
    misses: PyTree


@flax.struct.dataclass
class TrainState:
    """The state of one training, a pytree.

    Attributes:
      step: optimiser steps taken, an int32 scalar.
      params: the parameters.
      ema: their moving average.
      optimiser: the state of optax.
      skipped: non-finite steps in a row up to now, an int32 scalar.
      best: see `Best`; None where nothing is measured on held-out data.
    """

    step: PyTree
    params: PyTree
    ema: PyTree
    optimiser: PyTree
    skipped: PyTree
    best: PyTree = None


def make_optimiser(settings: TrainSettings) -> optax.GradientTransformation:
    """AdamW behind a global-norm clip, with warm-up and the chosen schedule."""
    if settings.schedule == "cosine":
        rate = optax.warmup_cosine_decay_schedule(
            0.0 if settings.warmup_steps else settings.learning_rate,
            settings.learning_rate,
            settings.warmup_steps,
            settings.steps,
        )
    elif settings.warmup_steps:
        rate = optax.linear_schedule(0.0, settings.learning_rate, settings.warmup_steps)
    else:
        rate = settings.learning_rate
    return optax.chain(
        optax.clip_by_global_norm(settings.clip_norm),
        optax.adamw(rate, weight_decay=settings.weight_decay),
    )


def initial_state(params: PyTree, optimiser: optax.GradientTransformation) -> TrainState:
    """The state before the first step."""
    zero = jnp.zeros((), jnp.int32)
    average = jax.tree.map(jnp.copy, params)
    return TrainState(zero, params, average, optimiser.init(params), jnp.copy(zero))


def make_step(
    loss: Loss, optimiser: optax.GradientTransformation, ema_decay: float
) -> Callable[[TrainState, PyTree, PyTree, Key[Array, ""]], tuple[TrainState, Metrics]]:
    """One compiled optimiser step: (state, frozen, batch, run's key) -> (state, metrics).

    A step whose loss or gradient is not finite changes nothing but the counters. The old state's
    memory is given to the new one.
    """

    def step(
        state: TrainState, frozen: PyTree, batch: PyTree, key: Any
    ) -> tuple[TrainState, Metrics]:
        step_key = jax.random.fold_in(key, state.step)
        (value, metrics), gradient = jax.value_and_grad(loss, has_aux=True)(
            state.params, frozen, batch, step_key
        )
        norm = optax.tree.norm(gradient)
        updates, optimiser_state = optimiser.update(gradient, state.optimiser, state.params)
        params = optax.apply_updates(state.params, updates)
        # A short history averages over what there is, so that the start leaves no bias.
        decay = jnp.minimum(ema_decay, (1.0 + state.step) / (10.0 + state.step))
        ema = optax.incremental_update(params, state.ema, 1.0 - decay)

        finite = jnp.isfinite(value) & jnp.isfinite(norm)
        kept = jax.tree.map(
            lambda new, old: jnp.where(finite, new, old),
            (params, ema, optimiser_state),
            (state.params, state.ema, state.optimiser),
        )
        skipped = jnp.where(finite, 0, state.skipped + 1)
        metrics = metrics | {
            "loss": value,
            "gradient_norm": norm,
            "parameter_norm": optax.tree.norm(kept[0]),
            "skipped": skipped,
        }
        return TrainState(state.step + 1, *kept, skipped, state.best), metrics

    return jax.jit(step, donate_argnums=0)
