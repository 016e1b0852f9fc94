"""Zero-shot unlearning by error-minimising and error-maximising noise.

Source: Chundawat, Tarun, Mandal and Kankanhalli (2022), "Zero-Shot Machine
Unlearning", arXiv:2201.05629. Its other method is `gkt`.
Class: heuristic. Data access: none. Of `data` only the labels under the mask are
read, to learn which classes are asked for, and the shape of an input; a table of
the classes, `{"label": jnp.arange(K)}`, does as well and gives the same bits.
Model state: frozen; `train_mode=True` moves it to the statistics of noise.
Cost: the noise's steps * num_classes * its rows, and the steps * rows of the other
two fits, gradients of one row.
Differences: there is no published code of this method; counts, rates and
penalties are ours, chosen on scikit-learn's digits with an MLP.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import optax

from jaxunlearn import losses
from jaxunlearn.core import checks
from jaxunlearn.core.combinators import chain
from jaxunlearn.core.legacy import old_fits
from jaxunlearn.core.links import provide
from jaxunlearn.core.phase import Objective, phase
from jaxunlearn.core.tasks import Fit, Model, as_fit
from jaxunlearn.core.transform import Transform
from jaxunlearn.core.types import Losses, Slot, Step, Variables
from jaxunlearn.methods._classes import input_shape as shape_of_input
from jaxunlearn.methods._classes import provide_classes

CLASSES: Slot[jax.Array] = Slot("classes")  # bool [K], those to forget.
NOISE: Slot[jax.Array] = Slot("noise")  # float32 [K, B, ...]
DIGITS_NOISE = Fit(optax.adam(0.1), 60, 64)
DIGITS_IMPAIR = Fit(optax.adam(1e-3), 15)
DIGITS_REPAIR = Fit(optax.adam(4e-3), 40)


@old_fits(
  noise=("noise_optimizer", "noise_steps", "noise_batch"),
  impair=("impair_optimizer", "impair_steps", "batch_size"),
  repair=("repair_optimizer", "repair_steps", "batch_size"),
)
def zero_shot_noise(
  model: Model,
  num_classes: int,
  *,
  noise: Fit = DIGITS_NOISE,
  impair: Fit = DIGITS_IMPAIR,
  repair: Fit = DIGITS_REPAIR,
  forget_penalty: float | jax.Array = 0.05,
  retain_penalty: float | jax.Array = 0.03,
  copies: float | jax.Array = 3.0,
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
    noise: of the noise; its rows are the inputs per class.
    impair: of the damage, on noise of all classes.
    repair: of the healing; starts fresh. Without steps it leaves a model that is
      hardly of use.
    forget_penalty: coefficient of the squared norm of error-maximising noise,
      whose loss has no lower bound without it. May be traced.
    retain_penalty: the same of error-minimising noise; a large one keeps it from
      looking like its class. May be traced.
    copies: how often noise of a forgotten class counts against that of a kept
      one while impairing. May be traced.
    train_mode: static; dropout active and BatchNorm's statistics moving while
      impairing and repairing.
    input_shape: of one input; that of `data["x"]` by default.

  Returns:
    A `Transform` with infos "noise" (the phase "learn_noise", its loss summed
    over classes), "impair" and "repair". A request for part of a class is one for the class. Classes
    that an earlier request took must be in the next one too: no row tells that
    they are gone, and the noise of a class to keep brings it back. Under jit,
    where requests cannot be looked at, one of no class impairs on the noise of
    all, and one of every class leaves nothing to repair.

  Raises:
    ValueError: an option outside its range; a soft request; (concrete values)
      a request of no class or of every class, labels out of range; no shape.

  Example:
    >>> import jax, optax
    >>> import jaxunlearn as ju
    >>> from jaxunlearn import toy
    >>> problem = toy.classifier()
    >>> unlearn = ju.methods.zero_shot_noise(
    ...   problem.model, num_classes=4,
    ...   noise=ju.Fit(optax.adam(0.1), 30, 8),
    ...   impair=ju.Fit(optax.adam(0.05), 20, 32),
    ...   repair=ju.Fit(optax.adam(0.01), 20, 32))
    >>> made, info = jax.jit(unlearn)(*problem.arguments)
    >>> toy.accuracies(problem, made)
    (0.0, 0.6)
  """
  return chain(
    learn_noise(
      model,
      num_classes,
      noise,
      forget_penalty=forget_penalty,
      retain_penalty=retain_penalty,
      input_shape=input_shape,
    ),
    train_on_noise(
      model, impair, copies=copies, train_mode=train_mode, name="impair"
    ),
    train_on_noise(
      model, repair, copies=0.0, train_mode=train_mode, name="repair"
    ),
    name="zero_shot_noise",
  )


def learn_noise(
  model: Model,
  num_classes: int,
  fit: Fit,
  *,
  forget_penalty: float | jax.Array,
  retain_penalty: float | jax.Array,
  input_shape: Sequence[int] | None = None,
) -> Transform:
  """Leaves `CLASSES`, bool [K], and learned `NOISE`, float32 [K, B, ...]."""
  fit = as_fit(fit, {})
  checks.non_negative(
    forget_penalty=forget_penalty, retain_penalty=retain_penalty
  )

  def start(carry, data, request, key):
    shape = shape_of_input(data, input_shape)
    return jax.random.normal(key, (num_classes, fit.batch_size, *shape))

  return chain(
    provide_classes(CLASSES, num_classes),
    provide(NOISE, start, reads="shapes"),
    phase(
      noise_objective(model, forget_penalty, retain_penalty),
      fit,
      on=NOISE,
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

  def objective(noise: jax.Array, step: Step, key: jax.Array) -> jax.Array:
    many, size = noise.shape[:2]
    rows = noise.reshape(many * size, *noise.shape[2:])
    labels = jnp.repeat(jnp.arange(many), size)
    logits = model.predict(step.variables, rows)
    away = losses.error_maximising(logits, labels, rows, forget_penalty)
    towards = losses.error_minimising(logits, labels, rows, retain_penalty)
    forget = step[CLASSES][labels]
    return jnp.where(forget, away, towards).reshape(many, size).sum(axis=0)

  return objective


def train_on_noise(
  model: Model,
  fit: Fit,
  *,
  copies: float | jax.Array,
  train_mode: bool = False,
  name: str,
) -> Transform:
  """Fits the task's loss on learned noise; `copies` 0 on kept classes only."""
  fit = as_fit(fit, {})
  checks.non_negative(copies=copies)

  def objective(variables: Variables, step: Step, key: jax.Array) -> Losses:
    class_key, row_key, apply_key = jax.random.split(key, 3)
    noise = step[NOISE]
    weight = jnp.where(step[CLASSES], copies, 1.0)
    shape = (fit.batch_size,)
    label = jax.random.categorical(class_key, jnp.log(weight), shape=shape)
    row = jax.random.randint(row_key, shape, 0, noise.shape[1])
    rows = {"x": noise[label, row], "label": label}
    logits, state = model.apply(
      variables, rows["x"], train=train_mode, key=apply_key
    )
    # Without a class to draw from, the labels mean nothing.
    value = jnp.where(weight.sum() > 0, model.loss(logits, rows), 0.0)
    return Losses(value, None, state)

  return phase(objective, fit, name=name)
