"""Continual learners without an unlearning rule.

Naive fine-tuning; experience replay (Chaudhry et al. 2019, arXiv:1902.10486);
DER++ (Buzzega et al. 2020, arXiv:2004.07211); LwF (Li and Hoiem 2016,
arXiv:1606.09282); EWC (Kirkpatrick et al. 2017, arXiv:1612.00796, in the online
form of Schwarz et al. 2018, arXiv:1805.06370).

A forget event: those with a buffer erase the rows from it and go on replaying
what it keeps, for as many steps as any event; those without one change nothing.
None of them reads the forget rows, and none promises to forget. What LwF, EWC
and DER++ keep (a copy of the model, a Fisher diagonal, logits of other rows)
goes on remembering them.

Differences from the papers: DER++ stores logits when a row enters the buffer,
at the end of its event, not along the way, and uses one draw for both of its
terms where the paper draws twice; LwF has one head over all classes and distils
those learned before; rows enter the buffer at the end of their event.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxunlearn import losses
from jaxunlearn.continual.replay import (
  Rule,
  StepRows,
  mean_over,
  num_classes_of,
  replay_learner,
)
from jaxunlearn.continual.types import (
  Learner,
)
from jaxunlearn.core import checks, sampling
from jaxunlearn.core.per_example import sum_rows
from jaxunlearn.core.tasks import Model
from jaxunlearn.core.types import PyTree, Variables


def _new_loss(model: Model, variables: Variables, step: StepRows) -> jax.Array:
  outputs = model.predict(variables, step.new.rows["x"])
  weight = jnp.where(step.new.forget, 0, step.new.weight)
  return mean_over(model.loss(outputs, step.new.rows), weight)


def naive(model: Model, **recipe: Any) -> Learner:
  """Fine-tunes on the rows of each event, and on nothing else.

  Args:
    model: a classifier.
    **recipe: `optimizer`, `num_steps`, `batch_size`; see `replay_learner`.

  Example:
    >>> import optax
    >>> from jaxunlearn import continual, toy
    >>> model, variables, data, stream, key = toy.stream()
    >>> learner = continual.naive(
    ...   model, optimizer=optax.sgd(0.1), num_steps=2, batch_size=8
    ... )
    >>> state = learner.init(variables, data, key)
    >>> _, infos, _ = continual.run_stream(learner, state, data, stream, key)
    >>> [round(nats, 2) for nats in infos.loss.tolist()]
    [1.15, 1.22, 0.0]
  """
  rule = Rule(lambda variables, step, _: _new_loss(model, variables, step))
  return replay_learner(model, rule, **recipe)


def experience_replay(
  model: Model, *, replay_weight: float | jax.Array = 1.0, **recipe: Any
) -> Learner:
  """Rehearses: loss of the new rows + replay_weight * loss of buffer rows.

  Args:
    model: a classifier.
    replay_weight: >= 0; may be traced.
    **recipe: see `replay_learner`; `buffer_size` is needed.

  Raises:
    ValueError: replay_weight < 0, no buffer; see `replay_learner`.

  Example:
    >>> import optax
    >>> from jaxunlearn import continual, toy
    >>> model, variables, data, stream, key = toy.stream()
    >>> learner = continual.experience_replay(
    ...   model,
    ...   optimizer=optax.sgd(0.1),
    ...   num_steps=2,
    ...   batch_size=8,
    ...   buffer_size=16,
    ... )
    >>> state = learner.init(variables, data, key)
    >>> _, infos, _ = continual.run_stream(learner, state, data, stream, key)
    >>> infos.buffer_count.tolist()  # The request has gone from the buffer.
    [8, 16, 8]
  """
  checks.non_negative(replay_weight=replay_weight)
  needs_buffer(recipe)

  def loss(variables, step, memory):
    del memory
    outputs = model.predict(variables, step.replay.rows["x"])
    old = model.loss(outputs, step.replay.rows)
    kept = mean_over(old, step.replay.weight)
    return _new_loss(model, variables, step) + replay_weight * kept

  return replay_learner(model, Rule(loss), **recipe)


def derpp(
  model: Model,
  *,
  logit_weight: float | jax.Array = 0.2,
  label_weight: float | jax.Array = 0.5,
  **recipe: Any,
) -> Learner:
  """DER++: replays labels, and the logits of when a row came in.

  Args:
    model: a classifier.
    logit_weight: of the mean squared error to the stored logits (alpha).
    label_weight: of the loss against the label (beta). Both >= 0, may be
      traced.
    **recipe: see `replay_learner`; `buffer_size` is needed. The data must have
      no leaf "logits".

  Raises:
    ValueError: a negative weight, no buffer; see `replay_learner`; `init`: data
      with a leaf "logits".

  Example:
    >>> import optax
    >>> from jaxunlearn import continual, toy
    >>> model, variables, data, stream, key = toy.stream()
    >>> learner = continual.derpp(
    ...   model,
    ...   optimizer=optax.sgd(0.1),
    ...   num_steps=2,
    ...   batch_size=8,
    ...   buffer_size=16,
    ... )
    >>> state = learner.init(variables, data, key)
    >>> _, infos, _ = continual.run_stream(learner, state, data, stream, key)
    >>> infos.buffer_count.tolist()
    [8, 16, 8]
  """
  checks.non_negative(logit_weight=logit_weight, label_weight=label_weight)
  needs_buffer(recipe)

  def init(variables, data, key):
    del variables, key
    if "logits" in data:
      raise ValueError('Expected data without "logits", got such a leaf.')
    return ()

  def remember(variables, rows):
    return {"logits": model.predict(variables, rows["x"])}

  def loss(variables, step, memory):
    del memory
    rows, weight = step.replay.rows, step.replay.weight
    outputs = model.predict(variables, rows["x"])
    wide = jnp.promote_types(jnp.float32, outputs.dtype)
    gap = outputs.astype(wide) - rows["logits"].astype(wide)
    return (
      _new_loss(model, variables, step)
      + logit_weight * mean_over(jnp.square(gap).mean(axis=1), weight)
      + label_weight * mean_over(model.loss(outputs, rows), weight)
    )

  return replay_learner(
    model, Rule(loss, init=init, remember=remember), **recipe
  )


class LwFMemory(NamedTuple):
  """The model as it was before the event, and the classes learned by then."""

  old: Variables
  known: jax.Array


def lwf(
  model: Model,
  *,
  distil_weight: float | jax.Array = 1.0,
  temperature: float | jax.Array = 2.0,
  **recipe: Any,
) -> Learner:
  """Learning without forgetting: distils from the model before the event.

  Loss of the new rows + distil_weight * KL(old || current) on the same rows,
  over the classes learned before.

  Args:
    model: a classifier.
    distil_weight: >= 0; may be traced.
    temperature: T > 0; may be traced.
    **recipe: `optimizer`, `num_steps`, `batch_size`; see `replay_learner`.

  Raises:
    ValueError: an option outside its range; see `replay_learner`.

  Example:
    >>> import optax
    >>> from jaxunlearn import continual, toy
    >>> model, variables, data, stream, key = toy.stream()
    >>> learner = continual.lwf(
    ...   model, optimizer=optax.sgd(0.1), num_steps=2, batch_size=8
    ... )
    >>> state = learner.init(variables, data, key)
    >>> _, infos, _ = continual.run_stream(learner, state, data, stream, key)
    >>> [round(nats, 2) for nats in infos.loss.tolist()]
    [1.15, 1.22, 0.0]
  """
  checks.non_negative(distil_weight=distil_weight)
  checks.positive(temperature=temperature)

  def init(variables, data, key):
    del key
    classes = num_classes_of(model, variables, data)
    return LwFMemory(variables, jnp.zeros(classes, bool))

  def loss(variables, step, memory):
    x = step.new.rows["x"]
    # Large and finite: -inf in both would make nan of their difference.
    known = memory.known[None]
    masked = lambda v: jnp.where(known, model.predict(v, x), -1e9)
    gap = losses.kl_to_teacher(
      masked(variables), masked(memory.old), temperature
    )
    return _new_loss(model, variables, step) + distil_weight * mean_over(
      jnp.where(memory.known.any(), gap, 0), step.new.weight
    )

  def end(memory, variables, data, learn, key):
    del variables, key
    size = memory.known.shape[0]
    label = jnp.where(learn, data["label"], size)
    known = memory.known.at[label].set(True, mode="drop")
    return memory._replace(known=known)

  begin = lambda memory, variables: memory._replace(old=variables)
  rule = Rule(loss, init=init, begin=begin, end=end)
  return replay_learner(model, rule, **recipe)


class EWCMemory(NamedTuple):
  """Where the params were after the last task, and how much each matters."""

  anchor: PyTree
  fisher: PyTree


def ewc(
  model: Model,
  *,
  penalty: float | jax.Array = 100.0,
  decay: float | jax.Array = 1.0,
  fisher_rows: int = 128,
  chunk_size: int = 32,
  **recipe: Any,
) -> Learner:
  """Elastic weight consolidation, online: one anchor, a decaying Fisher sum.

  Loss of the new rows + penalty / 2 * sum of F (params - anchor)^2, where F
  adds up decay times what it was and the mean squared gradient of a row's loss
  (the empirical Fisher) over rows of the event.

  Args:
    model: a classifier.
    penalty: lambda >= 0; may be traced.
    decay: gamma in [0, 1]; may be traced.
    fisher_rows: static; rows drawn from the event for F, without replacement
      while they last.
    chunk_size: static; rows whose gradients are in memory at once.
    **recipe: `optimizer`, `num_steps`, `batch_size`; see `replay_learner`.

  Raises:
    ValueError: an option outside its range; see `replay_learner`.

  Example:
    >>> import optax
    >>> from jaxunlearn import continual, toy
    >>> model, variables, data, stream, key = toy.stream()
    >>> learner = continual.ewc(
    ...   model,
    ...   fisher_rows=8,
    ...   optimizer=optax.sgd(0.1),
    ...   num_steps=2,
    ...   batch_size=8,
    ... )
    >>> state = learner.init(variables, data, key)
    >>> _, infos, _ = continual.run_stream(learner, state, data, stream, key)
    >>> [round(nats, 2) for nats in infos.loss.tolist()]
    [1.15, 1.38, 0.0]
  """
  checks.non_negative(penalty=penalty)
  checks.fraction(decay=decay)
  checks.counts(fisher_rows=fisher_rows, chunk_size=chunk_size)
  wide = lambda p: jnp.promote_types(jnp.float32, p.dtype)

  def init(variables, data, key):
    del data, key
    zeros = jax.tree.map(
      lambda p: jnp.zeros(p.shape, wide(p)), variables.params
    )
    return EWCMemory(variables.params, zeros)

  def loss(variables, step, memory):
    def term(p, anchor, fisher):
      gap = p.astype(fisher.dtype) - anchor.astype(fisher.dtype)
      return (fisher * jnp.square(gap)).sum()

    terms = jax.tree.map(term, variables.params, memory.anchor, memory.fisher)
    distance = sum(jax.tree.leaves(terms))
    return _new_loss(model, variables, step) + penalty / 2 * distance

  def end(memory, variables, data, learn, key):
    pool = sampling.make_pool(learn, key)
    position = jnp.arange(fisher_rows, dtype=jnp.uint32)
    row_id, _ = sampling.draw_rows(pool, position)
    weight = pool.weight[row_id]

    def squared(row):
      rows = jax.tree.map(lambda leaf: leaf[None], row)
      of = lambda params: model.loss(
        model.predict(variables._replace(params=params), rows["x"]), rows
      )[0].astype(jnp.float32)
      grads = jax.grad(of)(variables.params)
      return jax.tree.map(lambda g: jnp.square(g.astype(wide(g))), grads)

    rows = sampling.take_rows(data, row_id, weight)
    total = sum_rows(squared, rows, weight, chunk_size=chunk_size)
    count = jnp.maximum(weight.sum(), 1)
    fisher = jax.tree.map(
      lambda old, new: decay * old + new / count, memory.fisher, total
    )
    return EWCMemory(variables.params, fisher)

  return replay_learner(model, Rule(loss, init=init, end=end), **recipe)


def needs_buffer(recipe: dict[str, Any]) -> None:
  """A method that replays is given a buffer.

  Raises:
    ValueError: it is not.

  Example:
    >>> from jaxunlearn.continual import baselines
    >>> baselines.needs_buffer({"buffer_size": 10})
    >>> baselines.needs_buffer({})
    Traceback (most recent call last):
      ...
    ValueError: Expected buffer_size >= 1, got None.
  """
  if recipe.get("buffer_size") is None:
    raise ValueError("Expected buffer_size >= 1, got None.")
