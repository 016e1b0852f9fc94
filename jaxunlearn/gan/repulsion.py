"""What holds a generator to a place among weights, and what drives it away.

Source: arXiv:2309.14054 and its released code. All of it is of raw weights, and so
of how a network happens to be written down.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxunlearn.core.types import PyTree

Repulsion = Callable[[jax.Array], jax.Array]
# Stage 1 leaves the first layer and the last one free, and the mapping network.
_FREE = ("start", "layer_0", "style_0", "to_sample")


def inverse(gamma: float | jax.Array = 1.0, floor: float = 1e-3) -> Repulsion:
  """IL2, gamma / V of a distance V >= 0; flat below `floor`, at the anchors.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import gan
    >>> gan.inverse(gamma=2.0, floor=0.5)(jnp.array([0.0, 1.0, 4.0])).tolist()
    [4.0, 2.0, 0.5]
  """
  return lambda v: gamma / jnp.maximum(v, floor)


def negative(gamma: float | jax.Array = 1.0, cap: float = 10.0) -> Repulsion:
  """NL2, -gamma V; flat beyond `cap`, as it has no bound.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import gan
    >>> gan.negative(gamma=2.0, cap=3.0)(jnp.array([0.5, 1.0, 4.0])).tolist()
    [-1.0, -2.0, -6.0]
  """
  return lambda v: -gamma * jnp.minimum(v, cap)


def exponential(
  gamma: float | jax.Array = 1.0, alpha: float | jax.Array = 1.0
) -> Repulsion:
  """EL2, gamma exp(-alpha V); without a slope where alpha V is large.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import gan
    >>> pushed = gan.exponential(gamma=2.0)(jnp.array([0.0, 1.0, 4.0]))
    >>> [round(p, 3) for p in pushed.tolist()]
    [2.0, 0.736, 0.037]
  """
  return lambda v: gamma * jnp.exp(-alpha * v)


def squared_distance(params: PyTree, anchors: PyTree) -> jax.Array:
  """Mean of ||params - anchor||^2 over K anchors, [K, ...]: the paper's V."""
  return sum(_per_tensor(jnp.sum, params, anchors))


def tensor_distance(params: PyTree, anchors: PyTree) -> jax.Array:
  """The same with means within each tensor and over tensors: the code's V."""
  found = _per_tensor(jnp.mean, params, anchors)
  return sum(found) / len(found)


def _per_tensor(reduce: Callable, params: PyTree, anchors: PyTree) -> list:
  def one(p: jax.Array, many: jax.Array) -> jax.Array:
    gaps = jnp.square(p[None].astype(jnp.float32) - many.astype(jnp.float32))
    return reduce(gaps.reshape(len(many), -1), axis=1).mean()

  return jax.tree.leaves(jax.tree.map(one, params, anchors))


def fisher_diagonal(
  fn: Callable[[PyTree, jax.Array], jax.Array], params: PyTree, inputs: PyTree
) -> PyTree:
  """Mean over inputs [N, ...] of (d fn(params, input) / d params)^2, fn scalar."""
  slopes = jax.vmap(jax.grad(fn), (None, 0))(params, inputs)
  square = lambda g: jnp.square(g.astype(jnp.float32)).mean(axis=0)
  return jax.tree.map(square, slopes)


def elastic_penalty(params: PyTree, start: PyTree, fisher: PyTree) -> jax.Array:
  """Half of sum F (params - start)^2: elastic weight consolidation."""
  term = lambda p, s, f: (f * jnp.square((p - s).astype(jnp.float32))).sum()
  terms = jax.tree.leaves(jax.tree.map(term, params, start, fisher))
  return 0.5 * jnp.stack(terms).sum()


def consolidated(generator: PyTree) -> PyTree:
  """What stage 1 holds on to, of bool: the synthesis after its first layer."""

  def is_held(path: tuple, leaf: jax.Array) -> bool:
    del leaf
    part, name = (entry.key for entry in path[:2])
    return part == "synthesis" and name not in _FREE

  return jax.tree_util.tree_map_with_path(is_held, generator)
