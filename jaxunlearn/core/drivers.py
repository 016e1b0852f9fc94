"""Running a transform on data that fits the device, and reading a model."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jaxunlearn.core import checks
from jaxunlearn.core.types import Info, Model, PyTree, Transform, Variables


@partial(jax.jit, static_argnums=0)
def _compiled(transform, variables, data, forget_mask, key):
  return transform(variables, data, forget_mask, key)


def unlearn(
  transform: Transform,
  variables: Variables,
  data: PyTree,
  forget_mask: jax.Array,
  key: jax.Array,
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

  Returns:
    The unlearned variables and the method's info.

  Raises:
    ValueError: an empty request, one that covers all rows, a mask of a wrong
      length or dtype, nan in data or in the variables.
  """
  checks.request(data, forget_mask)
  checks.request_values(forget_mask)
  checks.finite(data, "data")
  checks.finite(variables, "variables")
  return _compiled(transform, variables, data, jnp.asarray(forget_mask), key)


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
