"""UNSIR: unlearn whole classes by error-maximising noise, impair and repair.

Source: Tarun, Chundawat, Mandal and Kankanhalli (2021), "Fast Yet Effective
Machine Unlearning", arXiv:2111.08947, and its notebook.
Class: heuristic. Zero-glance: no input of the forget set is read, only which
classes it has. Model state: moves while impairing (noise and retain rows) and is
estimated again while repairing (retain rows).
Cost: the noise's steps * max_classes * its rows, and the steps * rows of the
other two fits, gradients of one row.
Differences: noise is drawn for each batch in the proportion that its `copies`
would have in the shuffled set of the paper; the noise is learned on the deployed
network, with frozen statistics, and its norm is squared, as in the notebook.
The notebook differs from the paper in more: see `unsir_released`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypedDict

import jax
import jax.numpy as jnp
import optax

from jaxunlearn import losses
from jaxunlearn.core import checks
from jaxunlearn.core.combinators import chain
from jaxunlearn.core.legacy import old_fits
from jaxunlearn.core.links import provide
from jaxunlearn.core.phase import Objective, phase
from jaxunlearn.core.recording import record
from jaxunlearn.core.tasks import Fit, Model, apply_rows, as_fit
from jaxunlearn.core.training import fitting
from jaxunlearn.core.transform import Transform
from jaxunlearn.core.types import (
  Draw,
  Losses,
  PyTree,
  Request,
  Slot,
  Step,
  Variables,
)
from jaxunlearn.methods._classes import class_labels, requested_classes
from jaxunlearn.methods._classes import input_shape as shape_of_input


class Fits(TypedDict):
  """The fits of the three parts, as keywords of `unsir`."""

  noise: Fit
  impair: Fit
  repair: Fit


# Two classes of CIFAR-10 on a ResNet-18: one pass over 2 * 20 * 256 rows of noise
# and 8,000 of data, and one over the data.
PAPER = Fits(
  noise=Fit(optax.adam(0.1), 40),
  impair=Fit(optax.adam(0.02), 72),
  repair=Fit(optax.adam(0.01), 32),
)
# The notebook loops over the channels of an image where it means the images of a
# batch: 3 rows of noise of each 256 reach the model, 2 * 20 * 3 beside 8,000.
NOTEBOOK = Fits(
  noise=Fit(optax.adam(0.1), 40, 3),
  impair=Fit(optax.adam(0.02), 32),
  repair=Fit(optax.adam(0.01), 32),
)


class NoiseClasses(NamedTuple):
  """The classes that noise stands for.

  Attributes:
    label: int32 [M], those requested first.
    present: bool [M], whether the request has the class.
    left_out: int32 [], how many classes of the request are not among them.
  """

  label: jax.Array
  present: jax.Array
  left_out: jax.Array


CLASSES: Slot[NoiseClasses] = Slot("noise classes")
NOISE: Slot[jax.Array] = Slot("noise")  # [M, B, ...]
_SHARE: Slot[jax.Array] = Slot("noise share")
LabelOf = Callable[[jax.Array, jax.Array], jax.Array]


@old_fits(
  noise=("noise_optimizer", "noise_steps", "noise_batch"),
  impair=("impair_optimizer", "impair_steps", "batch_size"),
  repair=("repair_optimizer", "repair_steps", "batch_size"),
)
def unsir(
  model: Model,
  num_classes: int,
  *,
  max_classes: int | None = None,
  noise: Fit = PAPER["noise"],
  impair: Fit = PAPER["impair"],
  repair: Fit = PAPER["repair"],
  copies: float | jax.Array = 20.0,
  noise_penalty: float | jax.Array = 0.1,
  retain_per_class: int | None = 1000,
  input_shape: Sequence[int] | None = None,
) -> Transform:
  """Learns noise that stands for a class, trains on it, and heals.

  Three parts, each of use on its own: `learn_noise`, `train_on_noise` and
  `train_on_rows`. The settings are those of the paper by default, `**NOTEBOOK`
  gives the notebook's.

  Args:
    model: a classifier with integer labels under "label".
    num_classes: K.
    max_classes: static; the most classes that a request holds. Noise is learned
      for so many, whatever the request; K by default.
    noise: of the noise; its rows are the inputs per class.
    impair: of the damage; its rows are of noise and of data.
    repair: of the healing; its optimiser starts fresh.
    copies: how often each noise input counts against a retain row; 0 makes
      impairing plain fine-tuning. May be traced.
    noise_penalty: coefficient of the squared norm. May be traced.
    retain_per_class: how many retain rows of each class, the first ones, are
      used; None uses all.
    input_shape: of one input, where the data at hand has no inputs (`stream`);
      that of `data["x"]` by default.

  Returns:
    A `Transform` with infos "noise" (the phase "learn_noise", its loss summed
    over classes, and "classes_left_out", int32 []), "impairing" and "repair". A
    request that covers a class in part impairs the whole class, and its other
    rows help to repair it; an empty one is fine-tuning. Under jit, where
    requests cannot be looked at, one of more than `max_classes` classes impairs
    the first of them, and "classes_left_out" counts the others.

  Raises:
    ValueError: an option outside its range; from the call, a soft request,
      labels that are not int [N], inputs that are no floats, (concrete values)
      a request of more than `max_classes` classes.

  Example:
    >>> import jax, optax
    >>> import jaxunlearn as ju
    >>> from jaxunlearn import toy
    >>> problem = toy.classifier()
    >>> unlearn = ju.methods.unsir(
    ...   problem.model, num_classes=4, max_classes=1,
    ...   noise=ju.Fit(optax.adam(0.1), 20, 8),
    ...   impair=ju.Fit(optax.adam(0.1), 30, 16),
    ...   repair=ju.Fit(optax.adam(0.01), 10, 16))
    >>> made, info = jax.jit(unlearn)(*problem.arguments)
    >>> toy.accuracies(problem, made)
    (0.0, 0.9)
  """
  return chain(
    learn_noise(
      model,
      num_classes,
      noise,
      max_classes=max_classes,
      penalty=noise_penalty,
      input_shape=input_shape,
    ),
    train_on_noise(
      model,
      num_classes,
      impair,
      copies=copies,
      retain_per_class=retain_per_class,
    ),
    train_on_rows(
      model, num_classes, repair, retain_per_class=retain_per_class
    ),
    name="unsir",
  )


def unsir_released(
  model: Model,
  num_classes: int,
  *,
  max_classes: int | None = None,
  shown: int = 3,
  input_shape: Sequence[int] | None = None,
) -> Transform:
  """UNSIR as the notebook has it, down to what it hardly means.

  256 rows of noise are learned per class, normalised by their own batch
  statistics; only the first 3 of them are shown to the model, as many as an
  image has channels; and those of every class bear the label of the first.

  Args:
    model: see `unsir`.
    num_classes: K.
    max_classes: see `unsir`.
    shown: static; rows of noise per class that reach the model.
    input_shape: see `unsir`.

  Returns:
    As `unsir`.
  """
  checks.count(1, shown=shown)
  return chain(
    learn_noise(
      model,
      num_classes,
      PAPER["noise"],
      max_classes=max_classes,
      input_shape=input_shape,
      train_mode=True,
    ),
    provide(NOISE, lambda carry, *_: carry[NOISE][:, :shown], reads="nothing"),
    train_on_noise(
      model,
      num_classes,
      NOTEBOOK["impair"],
      copies=20.0,
      retain_per_class=1000,
      label_of=lambda label, which: jnp.broadcast_to(label[0], which.shape),
    ),
    train_on_rows(
      model, num_classes, NOTEBOOK["repair"], retain_per_class=1000
    ),
    name="unsir_released",
  )


def learn_noise(
  model: Model,
  num_classes: int,
  fit: Fit,
  *,
  max_classes: int | None = None,
  penalty: float | jax.Array = 0.1,
  input_shape: Sequence[int] | None = None,
  train_mode: bool = False,
) -> Transform:
  """Learns inputs on which the model is as wrong as can be about a class.

  Leaves `CLASSES`, the M = max_classes first classes of the request, and `NOISE`
  [M, B, ...], which is float32 whatever the model's dtype, since its loss has no
  lower bound. With `train_mode` it is normalised by its own statistics.
  """
  fit = as_fit(fit, {})
  checks.count(1, num_classes=num_classes)
  most = num_classes if max_classes is None else max_classes
  if not 1 <= most <= num_classes:
    raise ValueError(f"Expected max_classes in 1 .. {num_classes}, got {most}.")
  checks.non_negative(noise_penalty=penalty)

  def find_classes(carry, data, request, key):
    checks.hard_request(request.forget)
    label = class_labels(data, num_classes)
    asked = requested_classes(label, request.forget, num_classes)
    count = asked.sum(dtype=jnp.int32)
    if checks.is_concrete(count) and count > most:
      raise ValueError(
        f"Expected a request of at most max_classes={most} classes, got "
        f"{int(count)}."
      )
    first = jnp.argsort(~asked, stable=True)[:most]
    return NoiseClasses(first, asked[first], jnp.maximum(count - most, 0))

  def start_noise(carry, data, request, key):
    shape = shape_of_input(data, input_shape)
    return jax.random.normal(key, (most, fit.batch_size, *shape))

  return chain(
    provide(CLASSES, find_classes),
    provide(NOISE, start_noise, reads="shapes"),
    phase(
      noise_objective(model, penalty, train_mode=train_mode),
      fit,
      on=NOISE,
      name="learn_noise",
    ),
    record("classes_left_out", lambda carry: carry[CLASSES].left_out),
    name="noise",
  )


def noise_objective(
  model: Model, penalty: float | jax.Array, *, train_mode: bool = False
) -> Objective:
  """Minus the error of each class's noise plus its norm, summed over classes.

  Summed, so that each class's noise has a gradient of its own scale however
  many classes there are.
  """

  def objective(noise: jax.Array, step: Step, key: jax.Array) -> jax.Array:
    classes = step[CLASSES]

    def one_class(inputs: jax.Array, label: jax.Array) -> jax.Array:
      logits, _ = model.apply(step.variables, inputs, train=train_mode, key=key)
      labels = jnp.full(inputs.shape[0], label)
      return losses.error_maximising(logits, labels, inputs, penalty)

    each = jax.vmap(one_class)(noise, classes.label)
    return jnp.where(classes.present[:, None], each, 0.0).sum(axis=0)

  return objective


def train_on_noise(
  model: Model,
  num_classes: int,
  fit: Fit,
  *,
  copies: float | jax.Array,
  retain_per_class: int | None = None,
  label_of: LabelOf = lambda label, which: label[which],
) -> Transform:
  """Trains on the learned noise, under its label, among rows of kept classes.

  Args:
    model: see `unsir`.
    num_classes: K.
    fit: how.
    copies: see `unsir`.
    retain_per_class: see `unsir`.
    label_of: `(labels [M], which [B]) -> labels [B]`, under what label noise of
      the classes `which` is shown; its own by default.
  """
  fit = as_fit(fit, {})
  checks.non_negative(copies=copies)

  def noise_share(carry, data, request, key):
    """The chance that a row of the shuffled set is noise."""
    present = carry[CLASSES].present.sum()
    noise_rows = copies * carry[NOISE].shape[1] * present
    label = class_labels(data, num_classes)
    rows = first_rows(label, request.retain, num_classes, retain_per_class)
    return noise_rows / jnp.maximum(noise_rows + rows.sum(), 1.0)

  def objective(variables: Variables, step: Step, key: jax.Array) -> Losses:
    mix_key, apply_key = jax.random.split(key)
    step = step._replace(rows=_mix_noise(step, mix_key, label_of))
    logits, state = apply_rows(model, variables, step, apply_key, train=True)
    return Losses(model.loss(logits, step.rows), None, state)

  draw = _retain_draw(num_classes, fit.batch_size, retain_per_class)
  return chain(
    provide(_SHARE, noise_share),
    phase(objective, fit, draw=draw, name="impair"),
    name="impairing",
  )


def train_on_rows(
  model: Model,
  num_classes: int,
  fit: Fit,
  *,
  retain_per_class: int | None = None,
) -> Transform:
  """Heals the model on rows of the kept classes alone."""
  draw = _retain_draw(num_classes, fit.batch_size, retain_per_class)
  return fitting(model, as_fit(fit, {}), select=draw.select, name="repair")


def first_rows(
  label: jax.Array,
  retain: jax.Array,
  num_classes: int,
  per_class: int | None,
) -> jax.Array:
  """The first retain rows of each class; bool [N]."""
  checks.hard_request(retain)
  if per_class is None:
    return retain
  # Sorted by class, a row's rank is its distance from the start of its class.
  group = jnp.where(retain, label, num_classes)
  order = jnp.argsort(group, stable=True)
  count = jnp.zeros(num_classes + 1, jnp.int32).at[group].add(1)
  start = (jnp.cumsum(count) - count)[group[order]]
  rank = jnp.zeros_like(order).at[order].set(jnp.arange(len(order)) - start)
  return retain & (rank < per_class)


def _retain_draw(
  num_classes: int, batch_size: int, per_class: int | None
) -> Draw:
  def select(data: PyTree, request: Request, key: jax.Array) -> jax.Array:
    label = class_labels(data, num_classes)
    return first_rows(label, request.retain, num_classes, per_class)

  return Draw(retain=batch_size, select=select)


def _mix_noise(step: Step, key: jax.Array, label_of: LabelOf) -> PyTree:
  """Replaces a share of a batch's rows by learned noise with its label."""
  classes, noise = step[CLASSES], step[NOISE]
  # Requested classes come first.
  count = jnp.maximum(classes.present.sum(), 1)

  # One call for all three: generators make up half of a small program, and
  # compiling them costs more than all that they ever draw.
  draws = jax.vmap(lambda key: jax.random.uniform(key, (3,)))(step.keys(key))
  use = draws[:, 0] < step[_SHARE]
  below = lambda unit, n: jnp.minimum((unit * n).astype(jnp.int32), n - 1)
  which, row = below(draws[:, 1], count), below(draws[:, 2], noise.shape[1])
  x, label = step.rows["x"], step.rows["label"]
  shown = label_of(classes.label, which).astype(label.dtype)
  wide = use.reshape(use.shape + (1,) * (x.ndim - 1))
  return {
    **step.rows,
    "x": jnp.where(wide, noise[which, row].astype(x.dtype), x),
    "label": jnp.where(use, shown, label),
  }
