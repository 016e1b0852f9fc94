"""Running a transform on data that fits the device, and reading a model."""

from __future__ import annotations

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
  return transform.compiled(variables, data, jnp.asarray(forget_mask), key)


def _check_model(model: Model, variables: Variables, data: PyTree) -> None:
  row = jax.tree.map(lambda x: jnp.asarray(x[:1]), data["x"])
  wanted = jax.eval_shape(model.init, jax.random.key(0), row)
  lifted = (
    variables if isinstance(variables, Variables) else Variables(variables)
  )
  checks.same_structure(lifted, wanted, "variables")
  if "label" in data:
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
