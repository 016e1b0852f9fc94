"""Baselines on graphs: gradient ascent, and descent on what is left.

Class: heuristic. Both take the request's edges out of the graph first; retraining
and plain `unlink` are in `training`, shards in `partition`.
Sources: as run by GNNDelete (arXiv:2302.13406): gradient ascent on the forget set;
Descent-to-Delete, Neel, Roth and Sharifi-Malvajerdi (2020), arXiv:2007.02923,
whose certificate needs a convex loss and does not hold here.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax

from jaxunlearn.core import checks
from jaxunlearn.core.combinators import chain, edit
from jaxunlearn.core.phase import phase
from jaxunlearn.core.types import ALL, Draw, Transform
from jaxunlearn.graph.tasks import GraphModel
from jaxunlearn.graph.training import fitting, real_rows, unlink


def gradient_ascent(
  task: GraphModel,
  *,
  num_steps: int = 10,
  learning_rate: float | jax.Array = 1e-3,
) -> Transform:
  """Maximises the task's loss on the forget set, after unlinking it.

  The objective has no bound: a few steps too many destroy the model.

  Args:
    task: see `link_prediction`, `node_classification`.
    num_steps: full-batch steps; static. 0 is `unlink`.
    learning_rate: of Adam; may be traced.

  Returns:
    A `Transform`. An empty request changes nothing.

  Raises:
    ValueError: learning_rate <= 0.
  """
  checks.positive(learning_rate=learning_rate)

  def objective(variables, batch, key):
    del key
    outputs = task.model.predict(variables, batch.rows["x"])
    return task.model.loss(outputs, batch.rows)

  climb = phase(
    objective,
    optax.adam(learning_rate),
    num_steps,
    draw=Draw(forget=ALL, select=real_rows(task)),
    forget_weight=-1.0,
    name="ascend",
  )
  return chain(unlink(task), climb, name="gradient_ascent")


def descent_to_delete(
  task: GraphModel,
  *,
  num_steps: int = 1,
  learning_rate: float | jax.Array = 1e-3,
  max_norm: float = 1.0,
  noise_scale: float | jax.Array = 0.0,
) -> Transform:
  """Goes on training on what is left, and may blur the result with noise.

  Args:
    task: see `link_prediction`, `node_classification`.
    num_steps: full-batch steps of Adam; static.
    learning_rate: may be traced.
    max_norm: the gradient's norm is clipped here, > 0.
    noise_scale: standard deviation of the Gaussian noise that is added to the
      params in the end, >= 0; 0 is plain fine-tuning. May be traced.

  Returns:
    A `Transform`. Never reads a forget row.

  Raises:
    ValueError: an option outside its range.
  """
  checks.positive(learning_rate=learning_rate, max_norm=max_norm)
  checks.non_negative(noise_scale=noise_scale)

  def blur(variables, data, forget_mask, key):
    del data, forget_mask
    leaves, structure = jax.tree.flatten(variables.params)
    keys = jax.random.split(key, len(leaves))
    noisy = [
      x
      + jnp.asarray(noise_scale, x.dtype)
      * jax.random.normal(k, x.shape, x.dtype)
      for x, k in zip(leaves, keys)
    ]
    return variables._replace(params=jax.tree.unflatten(structure, noisy))

  optimizer = optax.chain(
    optax.clip_by_global_norm(max_norm), optax.adam(learning_rate)
  )
  return chain(
    unlink(task),
    fitting(task, optimizer=optimizer, num_steps=num_steps),
    edit(blur, reads="nothing", name="blur"),
    name="descent_to_delete",
  )
