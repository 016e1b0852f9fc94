"""Distances between distributions, between predictions and between models."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxunlearn.core import checks
from jaxunlearn.core.types import Variables
from jaxunlearn.metrics import _rows


def kl_divergence(p: jax.Array, q: jax.Array, *, base: str = "e") -> jax.Array:
  """KL(p || q) of each row, sum over classes of p log(p / q), 0 log 0 = 0.

  Better, with q the retrained model's predictions: lower; in expectation that
  of two retrained models with other seeds.

  Args:
    p: float [..., C], rows that sum to 1.
    q: float [..., C], likewise.
    base: "e" for nats, "2" for bits.

  Returns:
    [...], >= 0 up to rounding, exactly 0 for p = q; inf where q is 0 and p is
    not.

  Raises:
    ValueError: shapes differ, unknown base, (concrete) values outside [0, 1],
      such as logits.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import metrics
    >>> p, q = jnp.array([1.0, 0.0]), jnp.array([0.25, 0.75])
    >>> round(float(metrics.kl_divergence(p, q, base="2")), 4)
    2.0
  """
  p, q = _probabilities(p, q)
  tiny = jnp.finfo(p.dtype).tiny
  p_is_zero = p < tiny
  log_p = jnp.log(jnp.where(p_is_zero, 1, p))
  log_ratio = jnp.where(p_is_zero, 0, log_p - jnp.log(q))
  return _rows.in_base((p * log_ratio).sum(axis=-1), base)


def js_divergence(p: jax.Array, q: jax.Array, *, base: str = "e") -> jax.Array:
  """Jensen-Shannon divergence of each row: (KL(p || m) + KL(q || m)) / 2.

  m = (p + q) / 2. Symmetric and bounded. Better, with q the retrained model's
  predictions: lower; in expectation that of two retrained models with other
  seeds.

  Args:
    p: float [..., C], rows that sum to 1; exact zeros are fine.
    q: float [..., C], likewise.
    base: "e" for nats, "2" for bits.

  Returns:
    [...], in [0, ln 2] (in bits [0, 1]): exactly 0 for p = q, the upper end for
    rows with no class in common.

  Raises:
    ValueError: as `kl_divergence`.

  Example:
    >>> p, q = jnp.array([0.9, 0.05, 0.05]), jnp.ones(3) / 3
    >>> f"{js_divergence(p, q):.5f}"
    '0.18487'
  """
  p, q = _probabilities(p, q)
  terms = _times_log_share(p, q) + _times_log_share(q, p)
  # The bounds hold in exact arithmetic; clipping removes the rounding.
  return _rows.in_base(jnp.clip(terms.sum(axis=-1) / 2, 0, math.log(2)), base)


def _probabilities(p: jax.Array, q: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Both in at least float32, with the same shape [..., C]."""
  p, q = _rows.widened(p, "p"), _rows.widened(q, "q")
  _rows.same_shape(p, q, "p", "q")
  for name, values in (("p", p), ("q", q)):
    if not checks.is_concrete(values):
      continue
    with jax.ensure_compile_time_eval():
      # A softmax in bfloat16 may round above 1; nan is passed on.
      outside = bool(((values < 0) | (values > 1.01)).any())
    if outside:
      raise ValueError(
        f"Expected {name} to be probabilities, in [0, 1], got values outside."
      )
  return p, q


def _times_log_share(a: jax.Array, b: jax.Array) -> jax.Array:
  """a log(a / m) with m = (a + b) / 2, and 0 where a is 0."""
  # Below `tiny` numbers are flushed to 0 by some backends and not by others.
  is_zero = a < jnp.finfo(a.dtype).tiny
  ratio = 2 * jnp.where(is_zero, 1, a) / jnp.where(is_zero, 2, a + b)
  return jnp.where(is_zero, 0, a * jnp.log(ratio))


def mean_js(
  logits_1: jax.Array,
  logits_2: jax.Array,
  weights: jax.Array | None = None,
  *,
  base: str = "e",
) -> jax.Array:
  """Mean Jensen-Shannon divergence of two models' predictions.

  Better, with the retrained model second: lower; in expectation that of two
  retrained models with other seeds, which is not 0.

  Args:
    logits_1: float [N, C].
    logits_2: float [N, C].
    weights: bool or float [N] >= 0; None counts every row once.
    base: "e" for nats, "2" for bits.

  Returns:
    [], in [0, ln 2] (in bits [0, 1]); nan for an empty set.

  Raises:
    ValueError: shapes or dtypes do not match, unknown base.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import metrics
    >>> logits = jnp.array([[99.0, 0.0], [0.0, 0.0]])
    >>> retrained = jnp.array([[0.0, 99.0], [0.0, 0.0]])
    >>> round(float(metrics.mean_js(logits, retrained, base="2")), 4)
    0.5
  """
  p, q = _softmaxes(logits_1, logits_2)
  return _rows.weighted_mean(js_divergence(p, q, base=base), weights)


def activation_distance(
  logits_1: jax.Array, logits_2: jax.Array, weights: jax.Array | None = None
) -> jax.Array:
  """Mean Euclidean distance between two models' softmax outputs.

  Better, with the retrained model second: lower; in expectation that of two
  retrained models with other seeds, which is not 0.

  Args:
    logits_1: float [N, C].
    logits_2: float [N, C].
    weights: bool or float [N] >= 0; None counts every row once.

  Returns:
    [], in [0, sqrt 2]; nan for an empty set.

  Raises:
    ValueError: shapes or dtypes do not match.

  Source: as in Chundawat et al. (2022), arXiv:2205.08096.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import metrics
    >>> logits, retrained = jnp.array([[99.0, 0.0]]), jnp.array([[0.0, 99.0]])
    >>> round(float(metrics.activation_distance(logits, retrained)), 4)
    1.4142
  """
  p, q = _softmaxes(logits_1, logits_2)
  distances = optax.safe_norm(p - q, 0.0, axis=-1)
  return _rows.weighted_mean(distances, weights)


def _softmaxes(logits_1, logits_2):
  logits_1 = _rows.rows_of(logits_1, "logits_1")
  logits_2 = _rows.rows_of(logits_2, "logits_2")
  _rows.same_shape(logits_1, logits_2, "logits_1", "logits_2")
  return jax.nn.softmax(logits_1), jax.nn.softmax(logits_2)


class LayerDistance(NamedTuple):
  """One array of parameters: its distance, and that over the other's norm."""

  total: jax.Array
  relative: jax.Array


class WeightDistance(NamedTuple):
  """How far one model's parameters are from another's.

  Attributes:
    total: float [], ||params - other|| over all parameters.
    relative: float [], total / ||other||; 0 if both are zero.
    per_layer: path -> `LayerDistance`, of every array of parameters by itself.
  """

  total: jax.Array
  relative: jax.Array
  per_layer: dict[str, LayerDistance]


def weight_distance(params: Any, other_params: Any) -> WeightDistance:
  """Euclidean distance between two models' parameters, in all and per layer.

  Better, between the unlearned and the original model: near the distance of the
  retrained model from the original, neither 0 nor far beyond it. It is large
  between retrained models with other seeds, so that a small distance to one of
  them is not to be expected.

  Args:
    params: pytree of arrays, or `Variables`, of which only `.params` counts.
    other_params: likewise, of the same structure; its norm is the unit.

  Returns:
    `WeightDistance`, in at least float32; paths look like "Dense_0/kernel".

  Raises:
    ValueError: the two do not have the same leaves and shapes.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import metrics
    >>> original = {"kernel": jnp.array([3.0, 4.0]), "bias": jnp.zeros(1)}
    >>> unlearned = {"kernel": jnp.array([3.0, 3.0]), "bias": jnp.zeros(1)}
    >>> found = metrics.weight_distance(unlearned, original)
    >>> float(found.total), round(float(found.relative), 4)
    (1.0, 0.2)
    >>> float(found.per_layer["bias"].total)
    0.0
  """
  params, other_params = (
    p.params if isinstance(p, Variables) else p for p in (params, other_params)
  )
  checks.same_structure(params, other_params, "params")
  others = dict(jax.tree_util.tree_leaves_with_path(other_params))
  squares = {}
  for path, leaf in jax.tree_util.tree_leaves_with_path(params):
    leaf, other = _rows.widened(leaf, "leaf"), _rows.widened(others[path])
    name = jax.tree_util.keystr(path, simple=True, separator="/")
    squares[name] = jnp.sum((leaf - other) ** 2), jnp.sum(other**2)
  per_layer = {name: _distance(*pair) for name, pair in squares.items()}
  total = _distance(
    sum((s for s, _ in squares.values()), jnp.zeros(())),
    sum((s for _, s in squares.values()), jnp.zeros(())),
  )
  return WeightDistance(total.total, total.relative, per_layer)


def _distance(squared, squared_norm) -> LayerDistance:
  total = jnp.sqrt(squared)
  relative = jnp.where(squared == 0, 0, total / jnp.sqrt(squared_norm))
  return LayerDistance(total, relative)
