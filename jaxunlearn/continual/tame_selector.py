"""Routing for TAME: which expert an input belongs to; and pruning.

Source: arXiv:2210.03869 and the authors' code (see `tame`). After the stream a
selector with one output for each expert is trained on the buffer; 50% of its
weights, and in the paper 98% of each expert's, are pruned by their size and the
rest trained on. Both prunings are off unless asked for (the released code never
prunes an expert).
Class: heuristic. After a request, train it anew from the purged buffer.
"""

from __future__ import annotations

from typing import NamedTuple, Unpack

import jax
import jax.numpy as jnp
import optax

from jaxunlearn.continual.tame_types import Tame, TameState, squashed
from jaxunlearn.core import checks
from jaxunlearn.core.combinators import masked
from jaxunlearn.core.shaped import shaped
from jaxunlearn.core.tasks import FitFields, Model, as_fit
from jaxunlearn.core.training import fitting, train
from jaxunlearn.core.transform import PhaseInfo
from jaxunlearn.core.types import PyTree, Variables


class TamePrediction(NamedTuple):
  """Where inputs were sent and what was found there.

  Attributes:
    expert: int32 [B]; -1 if there is no expert.
    label: int32 [B], among the classes of the expert's task; -1 abstains.
  """

  expert: jax.Array
  label: jax.Array


def tame_selector(
  state: TameState,
  selector: Model,
  key: jax.Array,
  *,
  optimizer: optax.GradientTransformation,
  num_steps: int,
  batch_size: int,
  squash: bool = True,
  prune_fraction: float | jax.Array = 0.5,
  prune_steps: int = 0,
  prune_optimizer: optax.GradientTransformation | None = None,
) -> tuple[Variables, PhaseInfo]:
  """Trains the selector on the buffer; one program, pruning included.

  Args:
    state: of the learner; its buffer's rows are the data.
    selector: outputs [B, E], one for each slot.
    key: decides initial params and the order of rows.
    optimizer: any optax optimiser.
    num_steps: static.
    batch_size: static.
    squash: static; the loss sees sigmoid(outputs), as in the authors' code. That
      trains slowly: on split digits some 3,000 steps, where 500 do without it.
    prune_fraction: share of the weights (entries of arrays of two axes and more)
      to prune, the smallest of all layers together; in [0, 1], may be traced.
    prune_steps: static; 0 does not prune. Training steps after pruning, in which
      pruned weights stay 0.
    prune_optimizer: for those; `optimizer` by default.

  Returns:
    Its variables and the info of the training before pruning. Of an empty buffer
    it is as it was initialised, up to weight decay.

  Raises:
    ValueError: a count that is not positive, a fraction outside [0, 1], a
      selector without one output for each slot.

  Example:
    >>> import jax.numpy as jnp
    >>> import optax
    >>> from jaxunlearn import continual, toy
    >>> model, _, data, _, key = toy.stream()
    >>> sgd = optax.sgd(0.1)
    >>> learner = continual.tame(
    ...   model, sgd, num_experts=4, num_classes=4, buffer_size=8
    ... )
    >>> state = learner.init(data, key)
    >>> state, _ = learner.step(state, data, jnp.arange(8))
    >>> variables, info = continual.tame_selector(
    ...   state, model, key, optimizer=sgd, num_steps=2, batch_size=4
    ... )
    >>> model.predict(variables, data["x"]).shape, info.loss.shape
    ((16, 4), (2,))
  """
  checks.non_negative(prune_steps=prune_steps)
  checks.fraction(prune_fraction=prune_fraction)
  model = squashed(selector) if squash else selector
  buffer = state.buffer
  owner = state.owner[jnp.maximum(buffer.row_id, 0)]
  weights = buffer.valid & (owner >= 0)
  data = {"x": buffer.rows["x"], "label": jnp.maximum(owner, 0)}
  fit_key, prune_key = jax.random.split(key)
  outputs = jax.eval_shape(
    lambda k, x: selector.predict(selector.init(k, x), x), key, data["x"]
  )
  wanted = (weights.shape[0], state.used.shape[0])
  shaped(f"selector outputs {list(wanted)}", outputs)
  variables, info = train(
    model,
    data,
    weights,
    fit_key,
    optimizer=optimizer,
    num_steps=num_steps,
    batch_size=batch_size,
  )
  if prune_steps:
    variables = _pruned(
      model,
      variables,
      data,
      weights,
      prune_key,
      fraction=prune_fraction,
      optimizer=optimizer if prune_optimizer is None else prune_optimizer,
      num_steps=prune_steps,
      batch_size=batch_size,
    )
  return variables, info


def tame_prune_experts(
  learner: Tame,
  state: TameState,
  key: jax.Array,
  *,
  fraction: float | jax.Array = 0.98,
  optimizer: optax.GradientTransformation,
  num_steps: int,
  batch_size: int,
) -> TameState:
  """Prunes every expert, and trains it on with its own rows of the buffer.

  Args:
    learner: see `tame`.
    state: of the learner.
    key: the order of rows.
    fraction: see `tame_selector`; may be traced.
    optimizer: any optax optimiser.
    num_steps: static, >= 1.
    batch_size: static.

  Returns:
    The state; unused slots as they were. The stream is over: nothing keeps
    pruned weights at 0 if it goes on.

  Raises:
    ValueError: a count that is not positive, a fraction outside [0, 1].

  Example:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> import optax
    >>> from jaxunlearn import continual, toy
    >>> model, _, data, _, key = toy.stream()
    >>> sgd = optax.sgd(0.1)
    >>> learner = continual.tame(
    ...   model, sgd, num_experts=2, num_classes=4, buffer_size=8
    ... )
    >>> state = learner.init(data, key)
    >>> state, _ = learner.step(state, data, jnp.arange(8))
    >>> pruned = continual.tame_prune_experts(
    ...   learner,
    ...   state,
    ...   key,
    ...   fraction=0.75,
    ...   optimizer=sgd,
    ...   num_steps=1,
    ...   batch_size=4,
    ... )
    >>> kernels = [v["kernel"] for v in pruned.variables.params.values()]
    >>> sum(int((kernel[0] != 0).sum()) for kernel in kernels)  # Of 80.
    20
  """
  checks.counts(num_steps=num_steps, batch_size=batch_size)
  checks.fraction(fraction=fraction)
  buffer = state.buffer
  owner = state.owner[jnp.maximum(buffer.row_id, 0)]

  def one(lane):
    variables, number, is_used, own_key = lane
    pruned = _pruned(
      learner.model,
      variables,
      buffer.rows,
      buffer.valid & (owner == number),
      own_key,
      fraction=fraction,
      optimizer=optimizer,
      num_steps=num_steps,
      batch_size=batch_size,
    )
    pick = lambda new, old: jnp.where(is_used, new, old)
    return jax.tree.map(pick, pruned, variables)

  many = state.used.shape[0]
  keys = jax.random.split(key, many)
  pruned = jax.lax.map(
    one, (state.variables, jnp.arange(many), state.used, keys)
  )
  return state._replace(experts=(*pruned[:2], *state.experts[2:]))


def tame_predict(
  learner: Tame,
  state: TameState,
  selector: Model,
  variables: Variables,
  inputs: PyTree,
) -> TamePrediction:
  """Sends each input to an expert in use and returns what that finds.

  Args:
    learner: see `tame`.
    state: of the learner.
    selector: outputs [B, E].
    variables: the selector's.
    inputs: [B, ...].

  Returns:
    See `TamePrediction`. Classes over all tasks, where all have as many:
    `expert * learner.num_classes + label`.

  Example:
    >>> import jax.numpy as jnp
    >>> import optax
    >>> from jaxunlearn import continual, toy
    >>> model, variables, data, _, key = toy.stream()
    >>> learner = continual.tame(
    ...   model, optax.sgd(0.1), num_experts=4, num_classes=4, buffer_size=8
    ... )
    >>> state = learner.init(data, key)
    >>> found = continual.tame_predict(
    ...   learner, state, model, variables, data["x"][:3]
    ... )
    >>> found.expert.tolist(), found.label.shape  # One expert is in use.
    ([0, 0, 0], (3,))
  """
  scores = selector.predict(variables, inputs)
  scores = jnp.where(state.used[None, :], scores, -jnp.inf)
  expert = scores.argmax(axis=1).astype(jnp.int32)
  outputs = jax.vmap(lambda v: learner.model.predict(v, inputs))(
    state.variables
  )
  labels = outputs.argmax(axis=-1).astype(jnp.int32)  # [E, B]
  label = labels[expert, jnp.arange(expert.shape[0])]
  is_known = state.used.any()
  return TamePrediction(
    jnp.where(is_known, expert, -1), jnp.where(is_known, label, -1)
  )


def magnitude_mask(params: PyTree, fraction: float | jax.Array) -> PyTree:
  """A weight mask that is False on the smallest weights of all layers together.

  Args:
    params: pytree of float arrays; those of fewer than two axes (biases) are
      never pruned and do not count.
    fraction: the share to prune, in [0, 1], rounded down to a whole number; may
      be traced.

  Returns:
    Pytree of bool, like params.

  Raises:
    ValueError: a fraction outside [0, 1].

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn.continual.tame_selector import magnitude_mask
    >>> kernel = jnp.array([[1.0, -3.0], [0.5, 2.0]])
    >>> params = {"kernel": kernel, "bias": jnp.zeros(2)}
    >>> mask = magnitude_mask(params, fraction=0.5)
    >>> mask["kernel"].tolist(), mask["bias"].tolist()
    ([[False, True], [False, True]], [True, True])
  """
  checks.fraction(fraction=fraction)
  leaves, treedef = jax.tree.flatten(params)
  heavy = [leaf for leaf in leaves if leaf.ndim > 1]
  if not heavy:
    return jax.tree.map(lambda leaf: jnp.ones(leaf.shape, bool), params)
  sizes = jnp.concatenate(
    [jnp.abs(leaf).astype(jnp.float32).ravel() for leaf in heavy]
  )
  # Ranks, so that equal weights do not change the number.
  rank = jnp.argsort(jnp.argsort(sizes, stable=True), stable=True)
  keep = rank >= jnp.floor(fraction * sizes.size + 1e-4)
  masks, start = [], 0
  for leaf in leaves:
    if leaf.ndim > 1:
      masks.append(keep[start : start + leaf.size].reshape(leaf.shape))
      start += leaf.size
    else:
      masks.append(jnp.ones(leaf.shape, bool))
  return jax.tree.unflatten(treedef, masks)


def _pruned(
  model: Model,
  variables: Variables,
  data: PyTree,
  weights: jax.Array,
  key: jax.Array,
  *,
  fraction: float | jax.Array,
  **recipe: Unpack[FitFields],
) -> Variables:
  """Prunes, and trains on what is left."""
  mask = magnitude_mask(variables.params, fraction)
  params = jax.tree.map(
    lambda keep, leaf: jnp.where(keep, leaf, jnp.zeros_like(leaf)),
    mask,
    variables.params,
  )
  retrain = masked(fitting(model, as_fit(None, recipe)), mask)
  start = Variables(params, variables.model_state)
  return retrain(start, data, ~weights, key)[0]
