"""Running a transform on data that fits the device, and reading a model."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxunlearn.core import checks, given
from jaxunlearn.core.legacy import renamed
from jaxunlearn.core.shaped import shaped
from jaxunlearn.core.tasks import Model, as_task
from jaxunlearn.core.training import check_labels, map_many
from jaxunlearn.core.transform import Transform
from jaxunlearn.core.types import Info, PyTree, Request, Variables, as_request


def unlearn(
  transform: Transform,
  variables: Variables,
  data: PyTree,
  request: Request | jax.Array,
  key: jax.Array,
  *,
  model: Model | None = None,
  donate: bool = False,
) -> tuple[Variables, Info]:
  """Checks a deletion request and serves it in one compiled program.

  `jax.jit(transform)` does the same without looking at the values; a second
  request of the same shape compiles nothing either way.

  Args:
    transform: the method.
    variables: the original model; kept, since evaluation needs it.
    data: pytree of arrays [N, ...], the rows it was trained on; None for a
      method that reads none.
    request: a `Request`, or a bare mask: bool [N] or float weights in [0, 1].
    key: typed PRNG key.
    model: if given, the variables are held against its own structure, and the
      labels against the number of its outputs.
    donate: gives the original model's memory to the unlearned one, which saves
      one copy of it; `variables` is deleted and cannot be evaluated afterwards.

  Returns:
    The unlearned variables and the method's info. The compiled program is kept
    with the transform: build it once, for many requests.

  Raises:
    ValueError: an empty request, one that covers all rows, masks of a wrong
      length or dtype or that share a row, nan in the rows of the request or in
      the variables, variables or labels that do not fit the model.

  Example:
    >>> import optax
    >>> import jaxunlearn as ju
    >>> from jaxunlearn import toy
    >>> problem = toy.classifier()
    >>> ascent = ju.methods.gradient_ascent(
    ...   problem.model, ju.Fit(optax.sgd(0.1), 5, 16))
    >>> made, info = ju.unlearn(
    ...   ascent, *problem.arguments, model=problem.model)
    >>> toy.accuracies(problem, problem.variables)
    (1.0, 1.0)
    >>> toy.accuracies(problem, made)
    (0.0, 0.6)
  """
  checks.transforms((transform,))
  checks.typed_key(key)
  given.variables(variables)
  request = as_request(request, data)
  given.rows(data)  # Before `jit`, which narrows without a word.
  checks.finite(variables, "variables")
  if request.forget is not None and request.retain is not None:
    checks.request_values(request.forget, request.retain)
    seen = (request.forget > 0) | (request.retain > 0)
    checks.finite_rows(data, seen)
    if model is not None:
      as_task(model)
      _check_model(model, variables, data, seen)
  # The same transform gives the same compiled program, wrapped anew or not.
  run = jax.jit(transform, donate_argnums=0) if donate else transform.compiled
  return run(variables, data, request, key)


def unlearn_sequence(
  method: Callable[..., tuple[Variables, Info]],
  variables: Variables,
  data: PyTree,
  forget_masks: jax.Array,
  keys: jax.Array,
  *extras: PyTree,
) -> tuple[Variables, Info]:
  """Serves deletion requests one after the other, as one `lax.scan`.

  What request k leaves is the original model of request k + 1. Rows that an
  earlier request forgot are out of every method's reach from then on: they are
  in neither mask of its `Request`. Put it under `jax.jit`, with the masks as an
  argument, to serve another sequence of as many requests by one program.

  Args:
    method: a `Transform`, or any `(variables, data, request, key, *extra) ->
      (variables, info)` of the same shapes and dtypes.
    variables: the original model, trained on all rows.
    data: pytree of arrays [N, ...].
    forget_masks: bool [R, N], a request per row; of a row that several name, the
      first one counts. The last must leave rows to retain.
    keys: PRNG keys [R]. The first request gives what it gives alone.
    *extras: pytrees, leaves [R, ...], of which request k gets entry k.

  Returns:
    The variables after each request and the infos, leaves [R, ...].

  Raises:
    ValueError: masks that are not bool [R, N]; not one key per request.

  Example:
    >>> import jax, optax
    >>> import jaxunlearn as ju
    >>> from jaxunlearn import toy
    >>> model, variables, data, _, key = toy.classifier()
    >>> finetune = ju.methods.finetune(model, ju.Fit(optax.sgd(0.1), 3, 16))
    >>> masks = ju.requests.each_class(data["label"], 4)[:2]  # 0, then 1.
    >>> made, info = ju.unlearn_sequence(
    ...   finetune, variables, data, masks, jax.random.split(key))
    >>> made.params["output"]["bias"].shape, info.loss.shape
    ((2, 4), (2, 3))
  """
  checks.functions(method=method)
  shaped("forget_masks [R, N] and keys [R, ...]", forget_masks, keys)
  forget_masks = jnp.asarray(forget_masks)
  checks.hard_request(forget_masks, "forget_masks")
  checks.request(data, forget_masks[0], "a row of forget_masks")
  given.rows(data)
  if checks.is_concrete(forget_masks):
    every = np.asarray(forget_masks)
    checks.request_values(every.any(axis=0), name="forget_masks together")
    if not every.any(axis=1).all():
      empty = int(every.any(axis=1).argmin())
      raise ValueError(f"Expected forget_masks with rows, got none in {empty}.")
  data = jax.tree.map(jnp.asarray, data)

  def serve(state, inputs):
    variables, gone = state
    asked, key, extra = inputs
    request = Request(asked & ~gone, ~asked & ~gone)
    variables, info = method(variables, data, request, key, *extra)
    return (variables, gone | asked), (variables, info)

  nothing = jnp.zeros(forget_masks.shape[1], bool)
  inputs = (forget_masks, keys, extras)
  _, served = jax.lax.scan(serve, (variables, nothing), inputs)
  return served


def _check_model(
  model: Model, variables: Variables, data: PyTree, seen: jax.Array
) -> None:
  lifted = (
    variables if isinstance(variables, Variables) else Variables(variables)
  )
  wanted = jax.eval_shape(model.task.init, jax.random.key(0), data)
  checks.same_structure(tuple(lifted[:2]), tuple(wanted[:2]), "variables")
  check_labels(model.task, lifted, data, seen)


@renamed(chunk_size="batch_size")
def predict(
  model: Model,
  variables: Variables,
  inputs: PyTree,
  *,
  chunk_size: int = 1024,
) -> jax.Array:
  """Outputs in evaluation mode for any number of rows, in chunks.

  Args:
    model: the model.
    variables: its variables.
    inputs: [N, ...].
    chunk_size: static; rows at a time, which bounds memory.

  Returns:
    [N, ...].

  Example:
    >>> import jaxunlearn as ju
    >>> from jaxunlearn import toy
    >>> model, variables, data, *_ = toy.classifier()
    >>> logits = ju.predict(model, variables, data["x"], chunk_size=16)
    >>> logits.shape, logits[:5].argmax(-1).tolist()
    ((60, 4), [0, 1, 2, 3, 0])
  """
  checks.functions(**{"model.predict": getattr(model, "predict", None)})
  checks.count(1, chunk_size=chunk_size)
  given.variables(variables)
  n = checks.num_rows(inputs, "inputs")
  given.rows(inputs, "inputs")
  if n <= chunk_size:
    return model.predict(variables, inputs)
  chunks = -(-n // chunk_size)
  padded = jax.tree.map(
    lambda x: jnp.pad(
      x, [(0, chunks * chunk_size - n)] + [(0, 0)] * (x.ndim - 1)
    ).reshape(chunks, chunk_size, *x.shape[1:]),
    inputs,
  )
  outputs = jax.lax.map(partial(model.predict, variables), padded)
  merged: Any = jax.tree.map(
    lambda y: y.reshape(chunks * chunk_size, *y.shape[2:])[:n], outputs
  )
  return merged


@renamed(chunk_size="batch_size")
def predict_many(
  model: Model,
  variables: Variables,
  inputs: PyTree,
  *,
  chunk_size: int = 1024,
  strategy: str | int = "map",
) -> jax.Array:
  """Outputs of many models on the same rows, as one compiled program.

  Args:
    model: what they are variables of.
    variables: leaves [M, ...], as `unlearn_many` returns them and `stack` makes
      them.
    inputs: [N, ...].
    chunk_size: static; rows at a time.
    strategy: static; see `map_many`.

  Returns:
    [M, N, ...].

  Example:
    >>> import jaxunlearn as ju
    >>> from jaxunlearn import toy
    >>> model, variables, data, *_ = toy.classifier()
    >>> models = ju.stack([variables, variables])
    >>> ju.predict_many(model, models, data["x"]).shape
    (2, 60, 4)
  """
  # Before `jit`, which narrows without a word.
  given.rows(inputs, "inputs")
  return _predict_many(model, variables, inputs, chunk_size, strategy)


@partial(jax.jit, static_argnums=(0, 3, 4))
def _predict_many(
  model: Model,
  variables: Variables,
  inputs: PyTree,
  chunk_size: int,
  strategy: str | int,
) -> jax.Array:
  one = lambda v: predict(model, v, inputs, chunk_size=chunk_size)
  return map_many(one, variables, strategy=strategy)
