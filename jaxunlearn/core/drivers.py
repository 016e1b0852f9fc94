"""Running a transform on data that fits the device, and reading a model."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jaxunlearn.core import checks
from jaxunlearn.core.types import Info, Model, PyTree, Transform, Variables


def unlearn(
  transform: Transform,
  variables: Variables,
  data: PyTree,
  forget_mask: jax.Array,
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
    data: pytree of arrays [N, ...], the rows it was trained on.
    forget_mask: bool [N] or float weights in [0, 1].
    key: typed PRNG key.
    model: if given, the variables are held against its own structure, and the
      labels against the number of its outputs.
    donate: gives the original model's memory to the unlearned one, which saves
      one copy of it; `variables` is deleted and cannot be evaluated afterwards.

  Returns:
    The unlearned variables and the method's info. The compiled program is kept
    with the transform: build it once, for many requests.

  Raises:
    ValueError: an empty request, one that covers all rows, a mask of a wrong
      length or dtype, nan in data or in the variables, variables or labels that
      do not fit the model.
  """
  checks.request(data, forget_mask)
  checks.request_values(forget_mask)
  checks.finite(data, "data")
  checks.finite(variables, "variables")
  if model is not None:
    _check_model(model, variables, data)
  # The same transform gives the same compiled program, wrapped anew or not.
  run = jax.jit(transform, donate_argnums=0) if donate else transform.compiled
  return run(variables, data, jnp.asarray(forget_mask), key)


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
  in the arrays no more, see `stand_ins`. Put it under `jax.jit`, with the masks
  as an argument, to serve another sequence of as many requests by one program.

  Args:
    method: a `Transform`, or any `(variables, data, forget_mask, key, *extra) ->
      (variables, info)` of the same shapes and dtypes.
    variables: the original model, trained on all rows.
    data: pytree of arrays [N, ...].
    forget_masks: bool [R, N], a request a row; of a row that several name, the
      first one counts. The last must leave rows to retain.
    keys: PRNG keys [R]. The first request gives what it gives alone.
    *extras: pytrees, leaves [R, ...], of which request k gets entry k.

  Returns:
    The variables after each request and the infos, leaves [R, ...].

  Raises:
    ValueError: masks that are not bool [R, N]; not one key a request.
  """
  forget_masks = jnp.asarray(forget_masks)
  if forget_masks.ndim != 2:
    raise ValueError(
      f"Expected forget_masks of shape [R, N], got {forget_masks.shape}."
    )
  checks.hard_request(forget_masks, "forget_masks")
  checks.request(data, forget_masks[0], "a row of forget_masks")
  if jnp.shape(keys)[:1] != forget_masks.shape[:1]:
    raise ValueError(
      f"Expected keys of shape ({len(forget_masks)},), one a request, got "
      f"{jnp.shape(keys)}."
    )
  data = jax.tree.map(jnp.asarray, data)

  def serve(state, inputs):
    variables, gone = state
    forget_mask, key, extra = inputs
    # Apart from every key that the method itself makes of this one.
    source = stand_ins(gone, jax.random.fold_in(key, 0x676F6E65))
    left = jax.tree.map(lambda leaf: leaf[source], data)
    now = (forget_mask & ~gone)[source]
    variables, info = method(variables, left, now, key, *extra)
    return (variables, gone | forget_mask), (variables, info)

  nothing = jnp.zeros(forget_masks.shape[1], bool)
  inputs = (forget_masks, keys, extras)
  _, served = jax.lax.scan(serve, (variables, nothing), inputs)
  return served


def stand_ins(gone: jax.Array, key: jax.Array) -> jax.Array:
  """For every row the number of a row that is still there to take its place.

  A row that is there stands for itself, each that is gone is replaced by a copy
  of one that is there. No shape changes, and no method, however it reads its
  data, can come upon what is gone. The copies are spread evenly: every row that
  is there appears equally often but for one, which ones being up to the key, so
  that means over rows, and the shares of forget and retain rows, are those of
  the rows that are left; the number of rows is not.

  Args:
    gone: bool [N], rows that must not be seen.
    key: decides which rows are copied once more than others.

  Returns:
    int32 [N], to index rows with. With nothing gone it is 0 .. N - 1; with
    everything gone too, and then means nothing.
  """
  n = gone.shape[0]
  rows = jnp.arange(n, dtype=jnp.int32)
  shuffled = jax.random.permutation(key, n).astype(jnp.int32)
  # The rows that are there, in random order, then the others.
  order = shuffled[jnp.argsort(gone[shuffled], stable=True)]
  left = jnp.maximum((~gone).sum(), 1)
  turn = (jnp.cumsum(gone) - 1) % left
  there = (~gone).any()
  return jnp.where(gone & there, order[turn], rows)


def _check_model(model: Model, variables: Variables, data: PyTree) -> None:
  row = jax.tree.map(lambda x: jnp.asarray(x[:1]), data["x"])
  wanted = jax.eval_shape(model.init, jax.random.key(0), row)
  lifted = (
    variables if isinstance(variables, Variables) else Variables(variables)
  )
  checks.same_structure(lifted, wanted, "variables")
  # Other labels are targets of a regression.
  if "label" in data and jnp.issubdtype(
    jnp.asarray(data["label"]).dtype, jnp.integer
  ):
    outputs = jax.eval_shape(model.predict, lifted, row)
    checks.labels(data["label"], outputs.shape[-1], "data['label']")


def predict(
  model: Model,
  variables: Variables,
  inputs: PyTree,
  *,
  batch_size: int = 1024,
) -> jax.Array:
  """Outputs in evaluation mode for any number of rows, in chunks.

  Args:
    model: the model.
    variables: its variables.
    inputs: [N, ...].
    batch_size: static; rows at a time, which bounds memory.

  Returns:
    [N, ...].
  """
  checks.positive(batch_size=batch_size)
  n = checks.num_rows(inputs, "inputs")
  if n <= batch_size:
    return model.predict(variables, inputs)
  chunks = -(-n // batch_size)
  padded = jax.tree.map(
    lambda x: jnp.pad(
      x, [(0, chunks * batch_size - n)] + [(0, 0)] * (x.ndim - 1)
    ).reshape(chunks, batch_size, *x.shape[1:]),
    inputs,
  )
  outputs = jax.lax.map(partial(model.predict, variables), padded)
  merged: Any = jax.tree.map(
    lambda y: y.reshape(chunks * batch_size, *y.shape[2:])[:n], outputs
  )
  return merged
