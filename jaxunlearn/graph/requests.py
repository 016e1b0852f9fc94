"""Requests on graphs, as masks over edges [E] or nodes [n].

Single edges or nodes: `core.requests.indices`. A class of nodes:
`core.requests.classes` on the labels. Nodes out of a link predictor:
`structure.incident_edges`; as in GNNDelete, that takes their edges, while the
nodes stay in the graph and their features still serve as ends of sampled
non-edges, in retraining too. A stack of sampled requests is one `jax.vmap` over
keys.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxunlearn.core import checks, requests
from jaxunlearn.core.shaped import arrays
from jaxunlearn.graph import structure


def edges_within(graph: Any, node_mask: jax.Array) -> jax.Array:
  """The edges with both ends in `node_mask` [n]: bool [E].

  Of the 2-hop neighbourhood of the test edges' ends (`hops`), these are
  GNNDelete's IN edges, and the rest of the graph's its OUT edges.

  Raises:
    ValueError: a mask of another length, or that is not bool.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import graph
    >>> g = graph.from_edges(jnp.eye(4), [[0, 1], [1, 2], [2, 3]])
    >>> graph.edges_within(g, jnp.arange(4) < 3).tolist()
    [True, True, False]
  """
  inside = structure.checked_node_mask(graph, node_mask)
  outside = structure.incident_edges(graph, ~inside)
  return ~outside & (structure.edge_weight(graph) > 0)


def sample_edges(
  key: jax.Array,
  graph: Any,
  fraction: float | jax.Array,
  eligible: jax.Array | None = None,
) -> jax.Array:
  """Requests a fraction of all edges, chosen uniformly among the eligible ones.

  Args:
    key: PRNG key.
    graph: the graph.
    fraction: of ALL real edges, in [0, 1]; rounded to a count. May be traced.
    eligible: bool [E]; all real edges by default.

  Returns:
    bool [E]; never padding. Traced, all eligible edges where there are too few.

  Raises:
    ValueError: a fraction outside [0, 1], a mask of another length or dtype;
      (concrete) fewer eligible edges than asked for.

  Example:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import graph
    >>> g = graph.from_edges(jnp.eye(4), [[0, 1], [1, 2], [2, 3], [3, 0]])
    >>> int(graph.sample_edges(jax.random.key(0), g, 0.5).sum())
    2
  """
  checks.typed_key(key)
  checks.fraction(fraction=fraction)
  real = structure.edge_weight(graph) > 0
  eligible = real if eligible is None else eligible
  eligible = arrays(f"eligible bool {list(real.shape)}", eligible)
  eligible = eligible & real
  count = jnp.round(fraction * real.sum()).astype(jnp.int32)
  found = eligible.sum()
  if (
    checks.is_concrete(found)
    and checks.is_concrete(count)
    and int(found) < int(count)
  ):
    raise ValueError(
      f"Expected at least {int(count)} eligible edges, got {int(found)}."
    )
  order = jax.random.permutation(key, real.shape[0])
  rank = jnp.cumsum(eligible[order])
  chosen = eligible[order] & (rank <= count)
  return jnp.zeros(real.shape, bool).at[order].set(chosen)


def edge_classes(
  graph: Any,
  labels: jax.Array,
  forget: Sequence[int] | jax.Array,
  *,
  ends: str = "both",
) -> jax.Array:
  """Requests the edges within, or at, the nodes of some classes: bool [E].

  Args:
    graph: the graph.
    labels: int [n], a class a real node.
    forget: the classes.
    ends: "both" ends are of the classes, or "any".

  Raises:
    ValueError: labels of another length; a class without nodes; an unknown
      `ends`.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import graph
    >>> g = graph.from_edges(jnp.eye(4), [[0, 1], [1, 2], [2, 3]])
    >>> labels = jnp.array([0, 0, 1, 1])
    >>> graph.edge_classes(g, labels, [0]).tolist()
    [True, False, False]
    >>> graph.edge_classes(g, labels, [0], ends="any").tolist()
    [True, True, False]
  """
  checks.one_of(("both", "any"), ends=ends)
  n = structure.num_nodes(graph)
  checks.labels(labels, name="labels", length=n)
  mask = requests.classes(labels, forget)
  mask = jnp.pad(mask, (0, graph.nodes.shape[0] - n))
  if ends == "both":
    return edges_within(graph, mask)
  return structure.incident_edges(graph, mask)
