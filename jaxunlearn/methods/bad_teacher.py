"""Bad Teacher: imitate an untrained network on the forget set.

Source: Chundawat, Tarun, Mandal and Kankanhalli (2023), "Can Bad Teaching Induce
Forgetting?", arXiv:2205.08096.
Class: heuristic. Labels are not read. Model state: frozen; `train_mode=True` is
the released code, where statistics drift to batches of forget and retain rows.
Cost: one gradient and two teachers' forward a step.
Difference from the released code: it divides the divergence by the number of
classes too, `reduction="released"`.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax

from jaxunlearn import losses
from jaxunlearn.core import checks
from jaxunlearn.core.combinators import chain, provide
from jaxunlearn.core.phase import apply_rows, phase
from jaxunlearn.core.training import init_variables
from jaxunlearn.core.types import Draw, Model, Transform, Variables


def bad_teacher(
  model: Model,
  *,
  optimizer: optax.GradientTransformation | None = None,
  num_steps: int = 60,
  batch_size: int = 256,
  temperature: float = 1.0,
  retain_fraction: float = 0.3,
  reduction: str = "batchmean",
  incompetent: Variables | None = None,
  train_mode: bool = False,
) -> Transform:
  """Distils from two teachers: the original, and an incompetent one.

  Minimises over the rows of the forget set and of a part of the retain set the
  mean of KL(teacher || student), softened by the temperature; the teacher is an
  untrained network on forget rows and the original model on the others.

  Args:
    model: a classifier.
    optimizer: Adam of 1e-4 by default.
    num_steps: steps; the defaults are the authors' notebook (one epoch).
    batch_size: rows of both kinds a step, in their natural proportion.
    temperature: T > 0. May be traced.
    retain_fraction: the share of the retain set that is used, chosen at random
      once; in [0, 1]. May be traced.
    reduction: "batchmean", the sum over classes; "released", their mean.
    incompetent: the incompetent teacher; by default a fresh network drawn from
      the key. One unlucky teacher decides the outcome, so vary the key.
    train_mode: dropout active and BatchNorm's statistics moving.

  Returns:
    A `Transform` with info "distil". A full request reads the incompetent
    teacher only; an empty one distils the model from itself.

  Raises:
    ValueError: an option outside its range.
  """
  checks.positive(temperature=temperature)
  checks.fraction(retain_fraction=retain_fraction)
  checks.one_of(("batchmean", "released"), reduction=reduction)

  def choose_teacher(carry, data, forget_mask, key):
    if incompetent is not None:
      return incompetent
    return init_variables(model, data, key)

  def select(data, forget_mask, key):
    """All forget rows, and a share of the others."""
    order = jax.random.permutation(key, forget_mask.shape[0])
    retained = ~forget_mask
    # The rank of each retain row among the retain rows, in random order.
    rank = jnp.zeros_like(order).at[order].set(jnp.cumsum(retained[order]))
    wanted = jnp.round(retain_fraction * retained.sum())
    return ~retained | (rank <= wanted)

  def objective(variables, batch, key):
    extra, x = batch.context.extra, batch.rows["x"]
    student, state = apply_rows(model, variables, batch, key, train=train_mode)
    competent = model.predict(batch.context.original, x)
    untrained = model.predict(extra["incompetent"], x)
    teacher = jnp.where(batch.forget[:, None], untrained, competent)
    kl = losses.kl_to_teacher(
      student, teacher, temperature, per_class_mean=reduction == "released"
    )
    return kl, state

  reads = "shapes" if incompetent is None else "nothing"
  return chain(
    provide("incompetent", choose_teacher, reads=reads),
    phase(
      objective,
      optimizer or optax.adam(1e-4),
      num_steps,
      draw=Draw(mixed=batch_size, select=select),
      name="distil",
    ),
    name="bad_teacher",
  )
