"""Retraining on a stream, the gold standard of continual unlearning."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxunlearn.continual.replay import event_info, num_classes_of
from jaxunlearn.continual.stream import checked_event
from jaxunlearn.continual.types import Learner, Ledger, empty_ledger
from jaxunlearn.core import checks
from jaxunlearn.core.tasks import Fit, Model
from jaxunlearn.core.training import fitting
from jaxunlearn.core.types import Variables


class RetrainState(NamedTuple):
  """The state of `retraining`.

  Attributes:
    variables: trained on what should remain.
    start: where every training starts.
    ledger: what should remain.
  """

  variables: Variables
  start: Variables
  ledger: Ledger


def retraining(
  model: Model,
  *,
  optimizer: optax.GradientTransformation,
  num_steps: int,
  batch_size: int,
) -> Learner:
  """The gold standard: trains afresh on what should remain after every event.

  Data access: all rows learned and not forgotten since, at every event.

  Args:
    model: a classifier.
    optimizer: any optax optimiser.
    num_steps: static; steps of every training, so give it what the whole stream
      would take.
    batch_size: static; rows a step.

  Returns:
    A learner whose trainings all start at the variables given to `init`: what
    the model was before the stream. Where nothing should remain, these are the
    result; an event that changes nothing about what should remain changes no
    bit.

  Raises:
    ValueError: a count out of range; `event`: see `run_stream`.

  Example:
    >>> import optax
    >>> from jaxunlearn import continual, toy
    >>> model, variables, data, stream, key = toy.stream()
    >>> learner = continual.retraining(
    ...   model, optimizer=optax.sgd(0.1), num_steps=2, batch_size=8
    ... )
    >>> state = learner.init(variables, data, key)
    >>> state, _, _ = continual.run_stream(learner, state, data, stream, key)
    >>> logits = learner.predict(state, data["x"])
    >>> accuracy = continual.metrics.task_accuracy
    >>> accuracy(logits, data["label"], stream.task, num_tasks=2).tolist()
    [0.0, 0.75]
  """
  checks.non_negative(num_steps=num_steps)
  checks.counts(batch_size=batch_size)
  recipe = Fit(optimizer, num_steps, batch_size)
  fit = fitting(model, recipe, train_mode=False)

  def init(variables, data, key):
    del key
    start = jax.tree.map(jnp.array, variables)
    return RetrainState(start, start, empty_ledger(checks.num_rows(data)))

  def event(state, data, learn_mask, forget_mask, key):
    classes = num_classes_of(model, state.start, data)
    data, *masks = checked_event(data, learn_mask, forget_mask, classes)
    ledger, learn, forget = state.ledger.settle(*masks)
    nothing = jnp.zeros((), jnp.float32)

    def train():
      variables, info = fit(state.start, data, ~ledger.learned, key)
      return variables, info.loss.sum() / max(num_steps, 1)

    variables, loss = jax.lax.cond(
      (ledger.learned != state.ledger.learned).any(),
      lambda: jax.lax.cond(
        ledger.learned.any(), train, lambda: (state.start, nothing)
      ),
      lambda: (state.variables, nothing),
    )
    info = event_info(loss, learn, forget, jnp.zeros(1, bool), variables)
    return RetrainState(variables, state.start, ledger), info

  predict = lambda state, inputs: model.predict(state.variables, inputs)
  return Learner(init, event, predict)
