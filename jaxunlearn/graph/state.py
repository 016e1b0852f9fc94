"""What the values of a graph model hold beside its params.

The weights of the edges that carry messages, and the deletion operators of
`gnndelete`.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxunlearn.core.types import PyTree, Variables


def weight_of(variables: Variables) -> jax.Array:
  """The edge weights that the variables carry, float32 [E].

  Raises:
    ValueError: they carry none (bare params).

  Example:
    >>> import jax.numpy as jnp
    >>> import jaxunlearn as ju
    >>> from jaxunlearn import graph
    >>> variables = ju.Variables({}, {"edge_weight": jnp.array([1.0, 0.0])})
    >>> graph.weight_of(variables).tolist()
    [1.0, 0.0]
  """
  state = variables.model_state
  if not isinstance(state, dict) or "edge_weight" not in state:
    raise ValueError(
      "Expected Variables whose model_state has an 'edge_weight' [E], got bare "
      "params."
    )
  return state["edge_weight"]


def with_weight(variables: Variables, weight: jax.Array) -> Variables:
  """The same model on the edges of the given weights.

  Example:
    >>> import jax.numpy as jnp
    >>> import jaxunlearn as ju
    >>> from jaxunlearn import graph
    >>> variables = ju.Variables({}, {"edge_weight": jnp.ones(2)})
    >>> without = graph.with_weight(variables, jnp.array([1.0, 0.0]))
    >>> graph.weight_of(without).tolist()
    [1.0, 0.0]
  """
  return variables._replace(
    model_state={**variables.model_state, "edge_weight": weight}
  )


def apply_deletions(
  variables: Variables, index: int, z: jax.Array
) -> jax.Array:
  """A layer's output [n, d] after the deletion operators, oldest first.

  Example:
    >>> import jax.numpy as jnp
    >>> import jaxunlearn as ju
    >>> from jaxunlearn.graph import state
    >>> zones = jnp.array([[True, False]])
    >>> stack = {"operators": (0.5 * jnp.eye(2)[None],), "zones": (zones,)}
    >>> variables = ju.Variables({}, {"deletions": stack})
    >>> state.apply_deletions(variables, 0, jnp.ones((2, 2))).tolist()
    [[0.5, 0.5], [1.0, 1.0]]
  """
  stack = variables.model_state.get("deletions")
  if stack is not None:
    for operator, zone in zip(stack["operators"][index], stack["zones"][index]):
      z = delete_rows(z, operator, zone)
  return z


def no_deletions(task: Any, places: int, like: Variables) -> PyTree:
  """An empty stack of deletion operators [K, d, d] and zones [K, n] by layer.

  Args:
    task: a `GraphModel`.
    places: K.
    like: variables of the dtype that the operators have.

  Example:
    >>> from jaxunlearn import toy
    >>> from jaxunlearn.graph import state
    >>> problem = toy.graph()
    >>> stack = state.no_deletions(problem.model, 3, problem.variables)
    >>> stack["operators"][0].shape, stack["zones"][0].shape
    ((3, 2, 2), (3, 6))
  """
  dtype = jax.tree.leaves(like.params)[0].dtype
  n = task.graph.nodes.shape[0]
  return {
    "operators": tuple(jnp.zeros((places, d, d), dtype) for d in task.widths),
    "zones": tuple(jnp.zeros((places, n), bool) for _ in task.widths),
  }


def delete_rows(z: jax.Array, operator: jax.Array, zone: jax.Array):
  """Rows of `zone` bool [n] times the operator [d, d]; the others as they are.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn.graph import state
    >>> z, zone = jnp.ones((2, 2)), jnp.array([True, False])
    >>> state.delete_rows(z, 0.5 * jnp.eye(2), zone).tolist()
    [[0.5, 0.5], [1.0, 1.0]]
  """
  return jnp.where(zone[:, None], z @ operator.astype(z.dtype), z)
