"""Zero-shot unlearning by error-minimising and error-maximising noise.

Source: Chundawat, Tarun, Mandal and Kankanhalli (2022), "Zero-Shot Machine
Unlearning", arXiv:2201.05629. Its other method is `gkt`.
Class: heuristic. Data access: none. Of `data` only the labels under the mask are
read, to learn which classes are asked for, and the shape of an input; a table of
the classes, `{"label": jnp.arange(K)}`, does as well and gives the same bits.
Model state: frozen; `train_mode=True` moves it to the statistics of noise.
Cost: noise_steps * num_classes * noise_batch + (impair_steps + repair_steps) *
batch_size gradients of one row.
Differences: there is no published code of this method; counts, rates and
penalties are ours, chosen on scikit-learn's digits with an MLP.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxunlearn import losses
from jaxunlearn.core import checks
from jaxunlearn.core.classes import input_shape as shape_of_input
from jaxunlearn.core.classes import provide_classes
from jaxunlearn.core.combinators import chain, provide
from jaxunlearn.core.phase import Objective, phase
from jaxunlearn.core.types import Model, Transform


def zero_shot_noise(
  model: Model,
  *,
  num_classes: int,
  noise_optimizer: optax.GradientTransformation | None = None,
  noise_steps: int = 60,
  noise_batch: int = 64,
  forget_penalty: float = 0.05,
  retain_penalty: float = 0.03,
  impair_optimizer: optax.GradientTransformation | None = None,
  impair_steps: int = 15,
  repair_optimizer: optax.GradientTransformation | None = None,
  repair_steps: int = 40,
  batch_size: int = 256,
  copies: float = 3.0,
  train_mode: bool = False,
  input_shape: Sequence[int] | None = None,
) -> Transform:
  """Learns noise in the place of data, then impairs and repairs on it.

  Noise of a class to forget maximises the model's error, noise of a class to
  keep minimises it. Impairing trains on both under their labels, repairing on
  the noise of kept classes alone. Noise is a poor likeness of data, and the
  accuracy on kept classes pays for it.

  Args:
    model: a classifier with integer labels under "label".
    num_classes: K.
    noise_optimizer: Adam of 0.1 by default.
    noise_steps: steps of the noise.
    noise_batch: noise inputs a class.
    forget_penalty: coefficient of the squared norm of error-maximising noise,
      whose loss has no lower bound without it. May be traced.
    retain_penalty: the same of error-minimising noise; a large one keeps it from
      looking like its class. May be traced.
    impair_optimizer: Adam of 1e-3 by default.
    impair_steps: steps.
    repair_optimizer: Adam of 4e-3 by default; starts fresh.
    repair_steps: steps; 0 leaves a model that is hardly of use.
    batch_size: noise inputs a step of impairing and repairing.
    copies: how often noise of a forgotten class counts against that of a kept
      one while impairing. May be traced.
    train_mode: static; dropout active and BatchNorm's statistics moving while
      impairing and repairing.
    input_shape: of one input; that of `data["x"]` by default.

  Returns:
    A `Transform` with infos "learn_noise" (loss summed over classes), "impair"
    and "repair". A request for part of a class is one for the class. Classes
    that an earlier request took must be in the next one too: no row tells that
    they are gone, and the noise of a class to keep brings it back. Under jit,
    where requests cannot be looked at, one of no class impairs on the noise of
    all, and one of every class leaves nothing to repair.

  Raises:
    ValueError: an option outside its range; a soft request; (concrete values)
      a request of no class or of every class, labels out of range; no shape.
  """
  fit = functools.partial(
    train_on_noise, model, batch_size=batch_size, train_mode=train_mode
  )
  return chain(
    learn_noise(
      model,
      optimizer=noise_optimizer or optax.adam(0.1),
      num_steps=noise_steps,
      batch_size=noise_batch,
      forget_penalty=forget_penalty,
      retain_penalty=retain_penalty,
      num_classes=num_classes,
      input_shape=input_shape,
    ),
    fit(
      optimizer=impair_optimizer or optax.adam(1e-3),
      num_steps=impair_steps,
      copies=copies,
      name="impair",
    ),
    fit(
      optimizer=repair_optimizer or optax.adam(4e-3),
      num_steps=repair_steps,
      copies=0.0,
      name="repair",
    ),
    name="zero_shot_noise",
  )


def learn_noise(
  model: Model,
  *,
  num_classes: int,
  optimizer: optax.GradientTransformation,
  num_steps: int,
  batch_size: int,
  forget_penalty: float | jax.Array,
  retain_penalty: float | jax.Array,
  input_shape: Sequence[int] | None = None,
) -> Transform:
  """Provides "classes", bool [K], and learned "noise", float32 [K, B, ...]."""
  checks.positive(batch_size=batch_size)
  checks.non_negative(
    forget_penalty=forget_penalty, retain_penalty=retain_penalty
  )

  def start(carry, data, forget_mask, key):
    shape = shape_of_input(data, input_shape)
    return jax.random.normal(key, (num_classes, batch_size, *shape))

  return chain(
    provide_classes(num_classes),
    provide("noise", start, reads="shapes"),
    phase(
      noise_objective(model, forget_penalty, retain_penalty),
      optimizer,
      num_steps,
      target="noise",
      name="learn_noise",
    ),
    name="noise",
  )


def noise_objective(
  model: Model,
  forget_penalty: float | jax.Array,
  retain_penalty: float | jax.Array,
) -> Objective:
  """The model's error on kept classes minus that on forgotten ones, and norms.

  Summed over classes, so that each class's noise has a gradient of its own
  scale however many classes there are.
  """

  def objective(noise, batch, key):
    many, size = noise.shape[:2]
    rows = noise.reshape(many * size, *noise.shape[2:])
    labels = np.repeat(np.arange(many), size)
    logits = model.predict(batch.context.variables, rows)
    away = losses.error_maximising(logits, labels, rows, forget_penalty)
    towards = losses.error_minimising(logits, labels, rows, retain_penalty)
    forget = batch.context.extra["classes"][labels]
    return jnp.where(forget, away, towards).reshape(many, size).sum(axis=0)

  return objective


def train_on_noise(
  model: Model,
  *,
  optimizer: optax.GradientTransformation,
  num_steps: int,
  batch_size: int,
  copies: float | jax.Array,
  train_mode: bool = False,
  name: str,
) -> Transform:
  """Fits the task's loss on learned noise; `copies` 0 on kept classes only."""
  checks.positive(batch_size=batch_size)
  checks.non_negative(copies=copies)

  def objective(variables, batch, key):
    class_key, row_key, apply_key = jax.random.split(key, 3)
    noise = batch.context.extra["noise"]
    weight = jnp.where(batch.context.extra["classes"], copies, 1.0)
    shape = (batch_size,)
    label = jax.random.categorical(class_key, jnp.log(weight), shape=shape)
    row = jax.random.randint(row_key, shape, 0, noise.shape[1])
    rows = {"x": noise[label, row], "label": label}
    logits, state = model.apply(
      variables, rows["x"], train=train_mode, key=apply_key
    )
    # Without a class to draw from, the labels mean nothing.
    return jnp.where(weight.sum() > 0, model.loss(logits, rows), 0.0), state

  return phase(objective, optimizer, num_steps, name=name)
