"""SCRUB and SCRUB+R: disobey a teacher on the forget set, obey it elsewhere.

Source: Kurmanji et al. (2023), arXiv:2302.09880.
Class: heuristic. Model state: the student trains in training mode, so that it
moves in the phases of either kind, as in the source. Cost: one gradient and one
teacher's forward per step.
Difference from the source: `jitter`. At the start student and teacher agree, so
the first disobeying phase has no gradient but rounding noise; a small relative
noise on the params breaks the tie on purpose.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax

from jaxunlearn import losses
from jaxunlearn.core import checks
from jaxunlearn.core.combinators import chain
from jaxunlearn.core.drivers import predict
from jaxunlearn.core.legacy import old_fits
from jaxunlearn.core.links import edit
from jaxunlearn.core.phase import phase, remember
from jaxunlearn.core.rounds import Choose, alternate
from jaxunlearn.core.tasks import Fit, Model, apply_rows, as_fit
from jaxunlearn.core.transform import Transform
from jaxunlearn.core.types import Draw, Losses, PyTree, Slot, Step, Variables
from jaxunlearn.methods._classes import class_labels

SMALL = Fit(
  optax.adamw(5e-4, weight_decay=0.1), 25, 32
)  # The small-scale study's.


@old_fits(fit=("optimizer", "min_steps", "retain_batch_size"))
def scrub(
  model: Model,
  fit: Fit = SMALL,
  *,
  num_epochs: int = 10,
  max_epochs: int = 3,
  max_steps: int = 5,
  forget_batch_size: int | None = None,
  temperature: float | jax.Array = 2.0,
  distillation_weight: float | jax.Array = 0.5,
  jitter: float | jax.Array = 0.01,
  rewind_data: PyTree | None = None,
) -> Transform:
  """Alternates between leaving the original model's outputs and keeping them.

  With d = T^2 KL(original || student): the first `max_epochs` epochs begin with
  steps that maximise d on the forget set; every epoch ends with steps that
  minimise `loss + distillation_weight * d` on the retain set. One optimiser
  serves both.

  Args:
    model: a classifier.
    fit: of the obeying steps: so many per epoch, on retain rows. Its optimiser
      serves the disobeying ones too and goes on through all epochs, for
      schedules.
    num_epochs: E; 0 returns the model with its jitter.
    max_epochs: how many of them begin with disobeying, <= E.
    max_steps: disobeying steps per epoch.
    forget_batch_size: forget rows per disobeying step; as many as retain rows
      by default.
    temperature: T > 0. May be traced.
    distillation_weight: of d on the retain set, beside the loss. May be traced.
    jitter: noise at the start, relative to each leaf's root mean square; 0 for
      none. May be traced.
    rewind_data: SCRUB+R. Rows `{"x", "label"}` never trained on: of the epochs
      that only obey, and the state before them, that one is taken whose error on
      the forget set is nearest to the last one's error on these rows, reweighted
      to the forget set's classes; of equals the last. (The source chooses among all epochs.)

  Raises:
    ValueError: max_epochs > num_epochs, or equal to it with rewind_data; an
      option outside its range.

  Example:
    >>> import jax, optax
    >>> import jaxunlearn as ju
    >>> from jaxunlearn import toy
    >>> problem = toy.classifier()
    >>> unlearn = ju.methods.scrub(
    ...   problem.model, ju.Fit(optax.adam(0.02), num_steps=3, batch_size=16),
    ...   num_epochs=5, max_epochs=3, max_steps=2)
    >>> made, info = jax.jit(unlearn)(*problem.arguments)
    >>> toy.accuracies(problem, made)
    (0.0, 1.0)
  """
  fit = as_fit(fit, {})
  checks.positive(temperature=temperature)
  checks.non_negative(jitter=jitter)
  checks.count(
    0, num_epochs=num_epochs, max_epochs=max_epochs, max_steps=max_steps
  )
  if max_epochs > num_epochs:
    raise ValueError(
      f"Expected max_epochs <= num_epochs, got {max_epochs} > {num_epochs}."
    )
  if rewind_data is not None and max_epochs == num_epochs:
    raise ValueError(
      "Expected max_epochs < num_epochs with rewind_data, got no epoch to "
      f"choose: {max_epochs} of {num_epochs}."
    )

  def distance(logits: jax.Array, step: Step) -> jax.Array:
    teacher = model.predict(step.original, step.rows["x"])
    return temperature**2 * losses.kl_to_teacher(logits, teacher, temperature)

  def disobey(variables: Variables, step: Step, key: jax.Array) -> Losses:
    logits, state = apply_rows(model, variables, step, key, train=True)
    return Losses(distance(logits, step), None, state)

  def obey(variables: Variables, step: Step, key: jax.Array) -> Losses:
    logits, state = apply_rows(model, variables, step, key, train=True)
    task = model.loss(logits, step.rows)
    value = task + distillation_weight * distance(logits, step)
    return Losses(value, None, state)

  shared: Slot[PyTree] = Slot("optimizer")
  forget_rows = (
    fit.batch_size if forget_batch_size is None else forget_batch_size
  )
  max_phase = remember(
    phase(
      disobey,
      fit._replace(num_steps=max_steps),
      draw=Draw(forget=forget_rows),
      forget_weight=-1.0,
      name="max",
    ),
    shared,
  )
  min_phase = remember(
    phase(obey, fit, draw=Draw(retain=fit.batch_size), name="min"),
    shared,
    Slot("min steps"),
  )
  choose = None
  if rewind_data is not None:
    choose = _rewind(model, rewind_data, max_epochs)
  return chain(
    edit(_add_jitter(jitter), reads="nothing", name="jitter"),
    alternate(
      max_phase,
      min_phase,
      rounds=num_epochs,
      turns=(max_epochs, num_epochs),
      choose=choose,
      name="epochs",
    ),
    name="scrub",
  )


def _add_jitter(jitter: float | jax.Array):
  is_none = checks.is_concrete(jitter) and not jitter

  def add(variables, data, request, key):
    if is_none:
      return variables
    leaves, treedef = jax.tree.flatten(variables.params)
    noisy = []
    for leaf, k in zip(leaves, jax.random.split(key, len(leaves))):
      # The tiny number keeps the slope finite at a leaf of zeros.
      scale = jitter * jnp.sqrt(jnp.mean(jnp.square(leaf)) + 1e-30)
      noise = jax.random.normal(k, leaf.shape, leaf.dtype)
      noisy.append(leaf + (scale * noise).astype(leaf.dtype))
    return variables._replace(params=jax.tree.unflatten(treedef, noisy))

  return add


def _rewind(model: Model, held_out: PyTree, first: int) -> Choose:
  """Of the epochs from `first` on, that whose forget error is as of new rows."""

  def errors(variables: Variables, rows: PyTree) -> jax.Array:
    outputs = predict(model, variables, rows["x"])
    label = class_labels(rows, outputs.shape[-1])
    return (outputs.argmax(-1) != label).astype(jnp.float32)

  def choose(stack, data, request, key):
    label, unseen = data["label"], held_out["label"]
    last = jax.tree.map(lambda leaf: leaf[-1], stack)
    forget = request.forget.astype(jnp.float32)
    # Rows of each class count as often as in the forget set.
    same = (unseen[:, None] == label[None, :]).astype(jnp.float32)
    wanted = (same * forget[None, :]).sum(axis=1)
    share = wanted / jnp.maximum(
      (unseen[:, None] == unseen[None, :]).sum(axis=1), 1
    )
    reference = (share * errors(last, held_out)).sum() / jnp.maximum(
      share.sum(), 1e-12
    )
    settled = jax.tree.map(lambda leaf: leaf[first:], stack)
    error = jax.lax.map(lambda v: (errors(v, data) * forget).sum(), settled)
    error = error / jnp.maximum(forget.sum(), 1.0)
    # Of equals the last, which has healed longest.
    back = jnp.abs(error - reference)[::-1].argmin()
    return first + len(error) - 1 - back

  return choose
