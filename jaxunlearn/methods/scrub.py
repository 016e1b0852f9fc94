"""SCRUB and SCRUB+R: disobey a teacher on the forget set, obey it elsewhere.

Source: Kurmanji et al. (2023), arXiv:2302.09880.
Class: heuristic. Model state: moves in the obeying phases (retain rows), frozen
in the disobeying ones. Cost: one gradient and one teacher's forward a step.
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
from jaxunlearn.core.combinators import chain, edit, provide, repeat
from jaxunlearn.core.drivers import predict
from jaxunlearn.core.phase import apply_rows, phase
from jaxunlearn.core.types import Draw, Model, PyTree, Transform


def scrub(
  model: Model,
  *,
  optimizer: optax.GradientTransformation,
  num_epochs: int,
  max_epochs: int,
  max_steps: int,
  min_steps: int,
  forget_batch_size: int,
  retain_batch_size: int,
  temperature: float = 2.0,
  distillation_weight: float = 0.5,
  task_weight: float = 1.0,
  jitter: float = 0.01,
  rewind_data: PyTree | None = None,
) -> Transform:
  """Alternates between leaving the original model's outputs and keeping them.

  With d = T^2 KL(original || student): the first `max_epochs` epochs begin with
  steps that maximise d on the forget set; every epoch ends with steps that
  minimise `task_weight * loss + distillation_weight * d` on the retain set. One
  optimiser serves both.

  Args:
    model: a classifier.
    optimizer: its step count runs over all phases, for schedules.
    num_epochs: E; 0 returns the model with its jitter.
    max_epochs: how many of them begin with disobeying, <= E.
    max_steps: disobeying steps an epoch.
    min_steps: obeying steps an epoch.
    forget_batch_size: forget rows a disobeying step.
    retain_batch_size: retain rows an obeying step.
    temperature: T > 0. May be traced.
    distillation_weight: of d on the retain set. May be traced.
    task_weight: of the task's loss on the retain set. May be traced.
    jitter: noise at the start, relative to each leaf's root mean square; 0 for
      none. May be traced.
    rewind_data: SCRUB+R. Rows `{"x", "label"}` never trained on: of the epochs
      that only obey, and the state before them, that one is taken whose error on
      the forget set is nearest to the last one's error on these rows, reweighted
      to the forget set's classes; of equals the last. (The source chooses among all epochs.)

  Raises:
    ValueError: max_epochs > num_epochs, or equal to it with rewind_data; a
      temperature that is not positive.
  """
  checks.positive(temperature=temperature)
  checks.non_negative(num_epochs=num_epochs, max_epochs=max_epochs)
  if max_epochs > num_epochs:
    raise ValueError(
      f"Expected max_epochs <= num_epochs, got {max_epochs} > {num_epochs}."
    )
  if rewind_data is not None and max_epochs == num_epochs:
    raise ValueError(
      "Expected max_epochs < num_epochs with rewind_data, got no epoch to "
      f"choose: {max_epochs} of {num_epochs}."
    )

  def distance(logits, batch):
    teacher = model.predict(batch.context.original, batch.rows["x"])
    kl = losses.kl_to_teacher(logits, teacher, temperature)
    return temperature**2 * kl

  def disobey(variables, batch, key):
    logits, _ = apply_rows(model, variables, batch, key, train=False)
    return distance(logits, batch)

  def obey(variables, batch, key):
    logits, state = apply_rows(model, variables, batch, key, train=True)
    task = task_weight * model.loss(logits, batch.rows)
    return task + distillation_weight * distance(logits, batch), state

  max_phase = phase(
    disobey,
    optimizer,
    max_steps,
    draw=Draw(forget=forget_batch_size),
    forget_weight=-1.0,
    name="max",
    shared_state="optimizer",
  )
  min_phase = phase(
    obey,
    optimizer,
    min_steps,
    draw=Draw(retain=retain_batch_size),
    name="min",
    shared_state="optimizer",
  )
  start = provide(
    "optimizer",
    lambda carry, *_: optimizer.init(carry.variables.params),
    reads="nothing",
  )
  choose = None if rewind_data is None else _rewind(model, rewind_data)
  both = chain(max_phase, min_phase, name="scrub")
  return chain(
    edit(_add_jitter(jitter), reads="nothing", name="jitter"),
    start,
    repeat(both, max_epochs),
    repeat(min_phase, num_epochs - max_epochs, choose=choose, name="settle"),
    name="scrub",
  )


def _add_jitter(jitter):
  def add(variables, data, forget_mask, key):
    leaves, treedef = jax.tree.flatten(variables.params)
    noisy = []
    for leaf, k in zip(leaves, jax.random.split(key, len(leaves))):
      # The tiny number keeps the slope finite at a leaf of zeros.
      scale = jitter * jnp.sqrt(jnp.mean(jnp.square(leaf)) + 1e-30)
      noise = jax.random.normal(k, leaf.shape, leaf.dtype)
      noisy.append(leaf + (scale * noise).astype(leaf.dtype))
    return variables._replace(params=jax.tree.unflatten(treedef, noisy))

  return add


def _rewind(model, held_out):
  """Chooses the epoch whose forget error is that of rows never seen."""

  def errors(variables, rows):
    wrong = predict(model, variables, rows["x"]).argmax(-1) != rows["label"]
    return wrong.astype(jnp.float32)

  def choose(stack, data, forget_mask, key):
    label, unseen = data["label"], held_out["label"]
    last = jax.tree.map(lambda leaf: leaf[-1], stack)
    # Rows of each class count as often as in the forget set.
    same = (unseen[:, None] == label[None, :]).astype(jnp.float32)
    wanted = (same * forget_mask[None, :]).sum(axis=1)
    share = wanted / jnp.maximum(
      (unseen[:, None] == unseen[None, :]).sum(axis=1), 1
    )
    reference = (share * errors(last, held_out)).sum() / jnp.maximum(
      share.sum(), 1e-12
    )
    forgotten = forget_mask.astype(jnp.float32)
    error = jax.lax.map(lambda v: (errors(v, data) * forgotten).sum(), stack)
    error = error / jnp.maximum(forgotten.sum(), 1.0)
    # Of equals the last, which has healed longest.
    return len(error) - 1 - jnp.abs(error - reference)[::-1].argmin()

  return choose
