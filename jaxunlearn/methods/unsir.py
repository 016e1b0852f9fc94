"""UNSIR: unlearn whole classes by error-maximising noise, impair and repair.

Source: Tarun, Chundawat, Mandal and Kankanhalli (2021), "Fast Yet Effective
Machine Unlearning", arXiv:2111.08947.
Class: heuristic. Zero-glance: no input of the forget set is read, only which
classes it has. Model state: moves while impairing (noise and retain rows) and is
estimated again while repairing (retain rows).
Cost: noise_steps * max_classes * noise_batch + (impair_steps + repair_steps) *
batch_size gradients of one row.
Differences: noise is drawn for each batch in the proportion that its `copies`
would have in the shuffled set of the paper; the noise is learned on the deployed
network, with frozen statistics (`noise_train_mode=True` is the released code).
The released notebook labels the noise of all classes with the first one:
`noise_label="released"`.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax

from jaxunlearn import losses
from jaxunlearn.core import checks
from jaxunlearn.core.classes import requested_classes
from jaxunlearn.core.combinators import chain, provide
from jaxunlearn.core.phase import Objective, apply_rows, phase
from jaxunlearn.core.training import fitting
from jaxunlearn.core.types import Draw, Model, Transform


def unsir(
  model: Model,
  *,
  num_classes: int,
  max_classes: int | None = None,
  noise_optimizer: optax.GradientTransformation | None = None,
  noise_steps: int = 40,
  noise_batch: int = 256,
  noise_penalty: float = 0.1,
  noise_norm: str = "squared",
  noise_train_mode: bool = False,
  noise_label: str = "own",
  copies: float = 20.0,
  retain_per_class: int | None = 1000,
  impair_optimizer: optax.GradientTransformation | None = None,
  impair_steps: int = 72,
  repair_optimizer: optax.GradientTransformation | None = None,
  repair_steps: int = 32,
  batch_size: int = 256,
  input_shape: tuple[int, ...] | None = None,
) -> Transform:
  """Learns noise that stands for a class, trains on it, and heals.

  Three parts, each of use on its own: `learn_noise`, `impair`, `repair`. The
  defaults are those of the authors' notebook (CIFAR-10, ResNet-18).

  Args:
    model: a classifier with integer labels under "label".
    num_classes: K.
    max_classes: static; the most classes that a request holds. Noise is learned
      for so many, whatever the request; K by default. A request of more
      classes impairs the first `max_classes` of them only.
    noise_optimizer: Adam of 0.1 by default.
    noise_steps: steps of the noise.
    noise_batch: noise inputs a class, B.
    noise_penalty: coefficient of the squared norm. May be traced.
    noise_norm: "squared", as released, or "plain", as the paper writes it.
    noise_train_mode: normalise the noise by its own batch statistics.
    noise_label: "own", each class's noise has its label; "released", all have
      the first forgotten class.
    copies: how often each noise input counts against a retain row; 0 makes
      impairing plain fine-tuning. May be traced.
    retain_per_class: how many retain rows of each class, the first ones, are
      used; None uses all.
    impair_optimizer: Adam of 0.02 by default.
    impair_steps: steps.
    repair_optimizer: Adam of 0.01 by default; starts fresh.
    repair_steps: steps.
    batch_size: rows a step of impairing and repairing.
    input_shape: of one input, where the data at hand has no inputs (`stream`);
      that of `data["x"]` by default.

  Returns:
    A `Transform` with infos "learn_noise" (loss summed over classes), "impair"
    and "repair". A request that covers a class in part impairs the whole class,
    and its other rows help to repair it; an empty one is fine-tuning.

  Raises:
    ValueError: an option outside its range.
  """
  max_classes = num_classes if max_classes is None else max_classes
  if not 1 <= max_classes <= num_classes:
    raise ValueError(
      f"Expected max_classes in 1 .. {num_classes}, got {max_classes}."
    )
  return chain(
    learn_noise(
      model,
      optimizer=noise_optimizer or optax.adam(0.1),
      num_steps=noise_steps,
      batch_size=noise_batch,
      penalty=noise_penalty,
      norm=noise_norm,
      train_mode=noise_train_mode,
      input_shape=input_shape,
      num_classes=num_classes,
      max_classes=max_classes,
    ),
    impair(
      model,
      optimizer=impair_optimizer or optax.adam(0.02),
      num_steps=impair_steps,
      copies=copies,
      noise_label=noise_label,
      num_classes=num_classes,
      retain_per_class=retain_per_class,
      batch_size=batch_size,
    ),
    repair(
      model,
      optimizer=repair_optimizer or optax.adam(0.01),
      num_steps=repair_steps,
      num_classes=num_classes,
      retain_per_class=retain_per_class,
      batch_size=batch_size,
    ),
    name="unsir",
  )


def learn_noise(
  model: Model,
  *,
  num_classes: int,
  max_classes: int,
  optimizer: optax.GradientTransformation,
  num_steps: int,
  batch_size: int,
  penalty: float,
  norm: str = "squared",
  train_mode: bool = False,
  input_shape: tuple[int, ...] | None = None,
) -> Transform:
  """Learns inputs on which the model is as wrong as can be about a class.

  Provides "noise" [M, B, ...] and "noise_classes", int [M] with bool [M], for
  the M = max_classes first classes of the request; those that it does not have
  are False. The noise is float32
  whatever the model's dtype, since its loss has no lower bound.
  """
  checks.positive(max_classes=max_classes, batch_size=batch_size)
  checks.non_negative(penalty=penalty)

  def find_classes(carry, data, forget_mask, key):
    present = requested_classes(data["label"], forget_mask, num_classes)
    classes = jnp.argsort(~present, stable=True)[:max_classes]
    return classes, present[classes]

  def start_noise(carry, data, forget_mask, key):
    dtype = data["x"].dtype if "x" in data else jnp.float32
    if not jnp.issubdtype(dtype, jnp.floating):
      raise ValueError(
        f"Expected data['x'] of a float dtype for noise to be learned, got "
        f"{dtype}."
      )
    shape = data["x"].shape[1:] if input_shape is None else input_shape
    return jax.random.normal(key, (max_classes, batch_size, *shape))

  return chain(
    provide("noise_classes", find_classes),
    provide("noise", start_noise),
    phase(
      noise_objective(model, penalty, norm=norm, train_mode=train_mode),
      optimizer,
      num_steps,
      target="noise",
      name="learn_noise",
    ),
    name="noise",
  )


def noise_objective(
  model: Model,
  penalty: float,
  *,
  norm: str = "squared",
  train_mode: bool = False,
) -> Objective:
  """Minus the error of each class's noise plus its norm, summed over classes.

  Summed, so that each class's noise has a gradient of its own scale however
  many classes there are.
  """

  def objective(noise, batch, key):
    classes, present = batch.context.extra["noise_classes"]
    variables = batch.context.variables

    def one_class(inputs, label):
      logits, _ = model.apply(variables, inputs, train=train_mode, key=key)
      labels = jnp.full(inputs.shape[0], label)
      return losses.error_maximising(logits, labels, inputs, penalty, norm=norm)

    each = jax.vmap(one_class)(noise, classes)
    return jnp.where(present[:, None], each, 0.0).sum(axis=0)

  return objective


def impair(
  model: Model,
  *,
  num_classes: int,
  optimizer: optax.GradientTransformation,
  num_steps: int,
  batch_size: int,
  copies: float,
  noise_label: str = "own",
  retain_per_class: int | None = None,
) -> Transform:
  """Trains on the learned noise, under its label, among rows of kept classes."""
  checks.non_negative(copies=copies)
  checks.one_of(("own", "released"), noise_label=noise_label)

  def noise_share(carry, data, forget_mask, key):
    """The chance that a row of the shuffled set is noise."""
    _, present = carry.extra["noise_classes"]
    noise_rows = copies * carry.extra["noise"].shape[1] * present.sum()
    rows = first_rows(data["label"], forget_mask, num_classes, retain_per_class)
    return noise_rows / jnp.maximum(noise_rows + rows.sum(), 1.0)

  def objective(variables, batch, key):
    mix_key, apply_key = jax.random.split(key)
    rows = _mix_noise(batch, mix_key, noise_label)
    batch = batch._replace(rows=rows)
    logits, state = apply_rows(model, variables, batch, apply_key, train=True)
    return model.loss(logits, rows), state

  return chain(
    provide("noise_share", noise_share),
    phase(
      objective,
      optimizer,
      num_steps,
      draw=_retain_draw(num_classes, batch_size, retain_per_class),
      name="impair",
    ),
    name="impairing",
  )


def repair(
  model: Model,
  *,
  num_classes: int,
  optimizer: optax.GradientTransformation,
  num_steps: int,
  batch_size: int,
  retain_per_class: int | None = None,
) -> Transform:
  """Heals the model on rows of the kept classes alone."""
  draw = _retain_draw(num_classes, batch_size, retain_per_class)
  return fitting(
    model,
    optimizer=optimizer,
    num_steps=num_steps,
    batch_size=batch_size,
    name="repair",
    select=draw.select,
  )


def first_rows(
  label: jax.Array,
  forget_mask: jax.Array,
  num_classes: int,
  per_class: int | None,
) -> jax.Array:
  """The first retain rows of each class; bool [N]."""
  checks.hard_request(forget_mask)
  kept = ~forget_mask
  if per_class is None:
    return kept
  # Sorted by class, a row's rank is its distance from the start of its class.
  group = jnp.where(kept, label, num_classes)
  order = jnp.argsort(group, stable=True)
  start = jnp.searchsorted(group[order], group[order], side="left")
  rank = jnp.zeros_like(order).at[order].set(jnp.arange(len(order)) - start)
  return kept & (rank < per_class)


def _retain_draw(num_classes, batch_size, per_class):
  def select(data, forget_mask, key):
    return first_rows(data["label"], forget_mask, num_classes, per_class)

  return Draw(retain=batch_size, select=select)


def _mix_noise(batch, key, noise_label):
  """Replaces a share of a batch's rows by learned noise with its label."""
  extra = batch.context.extra
  classes, present = extra["noise_classes"]
  # Requested classes come first.
  count = jnp.maximum(present.sum(), 1)

  def pick(slot):
    use_key, class_key, row_key = jax.random.split(
      jax.random.fold_in(key, slot), 3
    )
    use = jax.random.uniform(use_key) < extra["noise_share"]
    which = jax.random.randint(class_key, (), 0, count)
    row = jax.random.randint(row_key, (), 0, extra["noise"].shape[1])
    return use, which, row

  use, which, row = jax.vmap(pick)(batch.slot)
  x, label = batch.rows["x"], batch.rows["label"]
  noise = extra["noise"][which, row].astype(x.dtype)
  shown = classes[0] if noise_label == "released" else classes[which]
  return {
    **batch.rows,
    "x": jnp.where(use.reshape(use.shape + (1,) * (x.ndim - 1)), noise, x),
    "label": jnp.where(use, shown.astype(label.dtype), label),
  }
