"""Architectures as tables: cut out, compared, drawn, weighed."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxunlearn.core.keys import derive
from jaxunlearn.nas.operations import OPERATIONS, ZERO
from jaxunlearn.nas.supernet import Space, init_architecture

Tables = dict[str, jax.Array]


def mixture(architecture: Tables) -> Tables:
  """Gates of the supernet: the softmax over operations of each edge.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import nas
    >>> table = {"normal": jnp.log(jnp.array([[1.0, 1.0, 2.0, 4.0, 1.0, 1.0]]))}
    >>> print(nas.mixture(table)["normal"].round(1))
    [[0.1 0.1 0.2 0.4 0.1 0.1]]
  """
  return {kind: jax.nn.softmax(t) for kind, t in architecture.items()}


def discretise(space: Space, architecture: Tables) -> Tables:
  """Gates of the architecture found: 1 for an operation that is kept, else 0.

  Of the edges into a node the two are kept whose best operation weighs most; of
  an edge its best. "zero" is never the best. Of equal ones the first is taken.

  Example:
    >>> import jax
    >>> from jaxunlearn import nas
    >>> space = nas.Space(num_classes=3)
    >>> table = nas.random_architecture(space, jax.random.key(0))
    >>> gates = nas.discretise(space, table)["normal"]
    >>> gates.shape, int(gates.sum())  # Two edges into each of two nodes.
    ((5, 6), 4)
  """

  def cut(table: jax.Array) -> jax.Array:
    share = jax.nn.softmax(table).at[:, ZERO].set(-1.0)
    best, strength = share.argmax(axis=1), share.max(axis=1)
    kept = jnp.zeros(len(table), bool)
    for node in range(2, space.nodes + 2):
      into = jnp.array(
        [e for e, (_, to) in enumerate(space.edges) if to == node]
      )
      two = jnp.argsort(-strength[into], stable=True)[:2]
      kept = kept.at[into[two]].set(True)
    return jax.nn.one_hot(best, len(OPERATIONS)) * kept[:, None]

  return {kind: cut(table) for kind, table in architecture.items()}


def random_architecture(space: Space, key: jax.Array) -> Tables:
  """One whose `discretise` is uniform over edges and operations.

  Example:
    >>> import jax
    >>> from jaxunlearn import nas
    >>> space = nas.Space(num_classes=3)
    >>> table = nas.random_architecture(space, jax.random.key(0))
    >>> jax.tree.map(lambda leaf: leaf.shape, table)  # [edges, operations]
    {'normal': (5, 6), 'reduce': (5, 6)}
  """
  shapes = jax.eval_shape(lambda: init_architecture(space, key))
  return {
    kind: jax.random.normal(derive(key, kind), t.shape)
    for kind, t in shapes.items()
  }


def architecture_distance(a: Tables, b: Tables) -> jax.Array:
  """The sum over edges of the total variation of their mixtures, [].

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import nas
    >>> level = {"normal": jnp.zeros((1, 6))}
    >>> sure = {"normal": jnp.array([[0.0, 0.0, 0.0, 50.0, 0.0, 0.0]])}
    >>> float(nas.architecture_distance(level, level))
    0.0
    >>> round(float(nas.architecture_distance(level, sure)), 3)  # 5 / 6.
    0.833
  """
  parts = jax.tree.map(
    lambda x, y: jnp.abs(x - y).sum() / 2, mixture(a), mixture(b)
  )
  return jnp.stack(jax.tree.leaves(parts)).sum()


def agreement(space: Space, a: Tables, b: Tables) -> jax.Array:
  """The share of the kept operations of `a` that `b` keeps on the same edge.

  Example:
    >>> import jax
    >>> from jaxunlearn import nas
    >>> space = nas.Space(num_classes=3)
    >>> draw = lambda seed: nas.random_architecture(space, jax.random.key(seed))
    >>> float(nas.agreement(space, draw(0), draw(0)))
    1.0
    >>> float(nas.agreement(space, draw(0), draw(1)))
    0.0
  """
  kept = jax.tree.map(jnp.multiply, discretise(space, a), discretise(space, b))
  count = sum(2 * space.nodes for _ in a)
  return sum(g.sum() for g in jax.tree.leaves(kept)) / count


def expected_cost(architecture: Tables, costs: jax.Array) -> jax.Array:
  """The efficiency term, sum over edges of the expected cost_o / max cost, [].

  Args:
    architecture: see `mixture`.
    costs: [operations] >= 0, some > 0.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import nas
    >>> costs = jnp.array([0.0, 0.0, 0.0, 1.0, 2.0, 1.0])
    >>> level = {"normal": jnp.zeros((5, 6))}  # Five edges, all alike.
    >>> round(float(nas.expected_cost(level, costs)), 3)  # 5 * 4 / 6 / 2.
    1.667
  """
  share = jnp.asarray(costs) / jnp.max(costs)
  parts = [(t @ share).sum() for t in mixture(architecture).values()]
  return jnp.stack(parts).sum()


def describe(space: Space, architecture: Tables) -> dict[str, list[str]]:
  """By kind of cell "0 -> 2: sep_conv_3" for each edge kept; on the host.

  Example:
    >>> import jax
    >>> from jaxunlearn import nas
    >>> space = nas.Space(num_classes=3, cells=("normal",))
    >>> table = nas.random_architecture(space, jax.random.key(0))
    >>> for edge in nas.describe(space, table)["normal"]:
    ...   print(edge)
    0 -> 2: sep_conv_5
    1 -> 2: sep_conv_3
    0 -> 3: sep_conv_5
    2 -> 3: sep_conv_3
  """
  found = discretise(space, architecture)
  return {
    kind: [
      f"{j} -> {i}: {OPERATIONS[int(gate.argmax())]}"
      for (j, i), gate in zip(space.edges, table)
      if gate.any()
    ]
    for kind, table in found.items()
  }
