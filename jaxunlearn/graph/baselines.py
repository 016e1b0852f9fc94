"""Baselines on graphs: gradient ascent, and descent on what is left.

Class: heuristic. Both take the request's edges out of the graph first; plain
`unlink` is in `tasks`, retraining in `training`, shards in `partition`.
Sources: as run by GNNDelete (arXiv:2302.13406): gradient ascent on the forget set;
Descent-to-Delete, Neel, Roth and Sharifi-Malvajerdi (2020), arXiv:2007.02923,
whose certificate needs a convex loss and does not hold here.
"""

from __future__ import annotations

from typing import Unpack

import jax
import jax.numpy as jnp
import optax

from jaxunlearn.core import checks
from jaxunlearn.core.combinators import chain
from jaxunlearn.core.links import edit
from jaxunlearn.core.tasks import Fit, FitFields, as_fit
from jaxunlearn.core.transform import Transform
from jaxunlearn.core.types import ALL
from jaxunlearn.graph.legacy import old_rate
from jaxunlearn.graph.tasks import GraphModel
from jaxunlearn.methods import baselines

ASCENT = Fit(optax.adam(1e-3), 10, ALL)
DESCENT = Fit(optax.adam(1e-3), 1, ALL)


@old_rate
def gradient_ascent(
  task: GraphModel, fit: Fit | None = None, **fields: Unpack[FitFields]
) -> Transform:
  """The library's `gradient_ascent`, by default of ten full-batch steps of Adam.

  Args:
    task: see `link_prediction`, `node_classification`.
    fit: `ASCENT` by default; of 0 steps it is `unlink`.
    **fields: the fields of `Fit` by keyword.

  Returns:
    A `Transform`. An empty request changes nothing.

  Example:
    >>> import optax
    >>> from jaxunlearn import graph, toy
    >>> problem = toy.graph()
    >>> method = graph.gradient_ascent(
    ...   problem.model, optimizer=optax.sgd(0.01), num_steps=2
    ... )
    >>> unlearned, _ = method.compiled(*problem.arguments)
    >>> pairs = problem.data["x"][-2:]  # The last of them has to go.
    >>> logits = problem.model.model.predict(unlearned, pairs)
    >>> [round(logit, 2) for logit in logits.tolist()]
    [2.28, -0.43]
  """
  return baselines.gradient_ascent(task, as_fit(fit or ASCENT, fields))


@old_rate
def descent_to_delete(
  task: GraphModel,
  fit: Fit | None = None,
  *,
  max_norm: float = 1.0,
  noise_scale: float | jax.Array = 0.0,
  **fields: Unpack[FitFields],
) -> Transform:
  """Goes on training on what is left, and may blur the result with noise.

  Args:
    task: see `link_prediction`, `node_classification`.
    fit: `DESCENT` by default, a full-batch step of Adam.
    max_norm: the gradient's norm is clipped here, > 0.
    noise_scale: standard deviation of the Gaussian noise that is added to the
      params in the end, >= 0; 0 is plain fine-tuning. May be traced.
    **fields: the fields of `Fit` by keyword.

  Returns:
    A `Transform`. Never reads a forget row.

  Raises:
    ValueError: an option outside its range.

  Example:
    >>> import optax
    >>> from jaxunlearn import graph, toy
    >>> problem = toy.graph()
    >>> method = graph.descent_to_delete(
    ...   problem.model, optimizer=optax.sgd(0.1), num_steps=1
    ... )
    >>> unlearned, _ = method.compiled(*problem.arguments)
    >>> pairs = problem.data["x"][-2:]  # The last of them has to go.
    >>> logits = problem.model.model.predict(unlearned, pairs)
    >>> [round(logit, 2) for logit in logits.tolist()]
    [2.41, -0.64]
  """
  checks.positive(max_norm=max_norm)
  checks.non_negative(noise_scale=noise_scale)
  fit = as_fit(fit or DESCENT, fields)
  clipped = optax.chain(optax.clip_by_global_norm(max_norm), fit.optimizer)

  def blur(variables, data, request, key):
    del data, request
    noise = optax.tree.random_like(key, variables.params)
    params = jax.tree.map(
      lambda x, e: x + jnp.asarray(noise_scale, x.dtype) * e,
      variables.params,
      noise,
    )
    return variables._replace(params=params)

  return chain(
    baselines.finetune(task, fit._replace(optimizer=clipped)),
    edit(blur, reads="nothing", name="blur"),
    name="descent_to_delete",
  )
