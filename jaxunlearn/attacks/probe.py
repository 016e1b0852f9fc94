"""What can a linear read-out still tell from a model's activations?

A ridge regression to one-hot labels, fitted in closed form on frozen activations
of labelled forget and retain rows, and judged on held-out forget rows. An output
layer that was changed alone leaves the activations, and so the probe, as they
were.

Source: linear probing as an audit of unlearning, as in Lynch et al. (2024),
arXiv:2402.16835; the ridge is this library's choice, for a solution that has no
steps, no rate and no seed.
Class: heuristic, deterministic. Data access: labelled rows of all classes.
Model state: frozen; activations in evaluation mode.
Cost: two forward passes over the rows and a Cholesky factor of D + 1 columns.

Read it beside the same probe of the original, of the retrained and of a randomly
initialised model: even the retrained model's activations separate a class that it
has never seen, so that chance is not the aim.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxunlearn.core import checks
from jaxunlearn.core.sampling import take_rows
from jaxunlearn.core.shaped import arrays, shaped
from jaxunlearn.core.tasks import Model
from jaxunlearn.core.types import PyTree, Variables
from jaxunlearn.metrics import _rows, utility


class Probe(NamedTuple):
  """A fitted linear read-out.

  Attributes:
    accuracy: float32 [], on the rows of the evaluation mask.
    fit_accuracy: float32 [], on the rows that it was fitted to.
    kernel: float32 [D, C].
    bias: float32 [C].
  """

  accuracy: jax.Array
  fit_accuracy: jax.Array
  kernel: jax.Array
  bias: jax.Array


class _Moments(NamedTuple):
  """H^T W H and H^T W Y, with a last column of ones in H."""

  gram: jax.Array
  target: jax.Array


def linear_probe(
  features: jax.Array,
  labels: jax.Array,
  fit_mask: jax.Array,
  eval_mask: jax.Array,
  *,
  num_classes: int,
  ridge: float | jax.Array = 1e-3,
) -> Probe:
  """Fits a ridge regression to one-hot labels and takes its accuracy.

  With H the features and a column of ones, Y the one-hot labels, and the fit
  mask as the weights W of rows,

      weights = (H^T W H + l I)^-1 H^T W Y,  l = ridge * trace(H^T W H) / (D + 1)

  so that the bias is shrunk too and scaling W changes nothing.

  Better, on held-out forget rows: that of the retrained model, in expectation
  above chance. Near the original model's, the knowledge is still in there.

  Args:
    features: float [N, D].
    labels: int [N], in 0 .. C - 1.
    fit_mask: bool or float [N] >= 0, labelled rows to fit to; forget rows among
      them, or the probe cannot know their class.
    eval_mask: bool or float [N] >= 0, rows to judge on; disjoint from the fit
      mask for a held-out accuracy.
    num_classes: static, C.
    ridge: > 0; may be traced.

  Returns:
    `Probe`, in at least float32. Accuracies are nan for an empty evaluation or
    fit set, and where a row that counts is not finite.

  Raises:
    ValueError: shapes or dtypes do not match, labels out of range, num_classes
      or ridge <= 0.

  Example:
    >>> features = jnp.array([[-2.0], [-1.0], [1.0], [3.0]])
    >>> fit = jnp.array([False, True, True, False])
    >>> labels = jnp.array([0, 0, 1, 1])
    >>> linear_probe(features, labels, fit, ~fit, num_classes=2).accuracy
    Array(1., dtype=float32)
  """
  features = _rows.rows_of(features, "features")
  labels = arrays("labels [...]", labels)
  _check(
    {"features": features}, labels, fit_mask, eval_mask, num_classes, ridge
  )
  fit, judged = jnp.asarray(fit_mask), jnp.asarray(eval_mask)
  kernel, bias = _solve(_moments(features, labels, fit, num_classes), ridge)
  logits = _read_out(features, kernel, bias)
  return _probe(logits, labels, fit, judged, kernel, bias)


def probe_model(
  model: Model,
  variables: Variables,
  data: PyTree,
  fit_mask: jax.Array,
  eval_mask: jax.Array,
  *,
  layers: str | Sequence[str],
  num_classes: int,
  ridge: float | jax.Array = 1e-3,
  chunk_size: int = 256,
) -> dict[str, Probe]:
  """`linear_probe` of a model's named activations, in flat memory.

  Activations [B, ...] are flattened to [B, D]; D^2 numbers are held for each
  layer, and the activations of one chunk. Of maps too large for that, probe a
  model whose `features` pool them first (`model._replace(features=...)`).

  Args:
    model: its `features` are read.
    variables: `Variables`; `vmap` over a stack for several models.
    data: {"x": [N, ...], "label": int [N]}.
    fit_mask: see `linear_probe`.
    eval_mask: see `linear_probe`.
    layers: static; a name, or several, of `model.features`.
    num_classes: static, C.
    ridge: see `linear_probe`.
    chunk_size: static; rows at a time.

  Returns:
    A `Probe` for each name.

  Raises:
    ValueError: a model without features, a name that it does not have (with
      those that it has), no names; as `linear_probe`.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import attacks, toy
    >>> problem = toy.classifier()
    >>> fit = jnp.arange(60) < 40
    >>> found = attacks.probe_model(
    ...   problem.model, problem.variables, problem.data, fit, ~fit,
    ...   layers="hidden", num_classes=4)
    >>> found["hidden"].kernel.shape, round(float(found["hidden"].accuracy), 1)
    ((8, 4), 0.9)
  """
  checks.counts(chunk_size=chunk_size)
  labels = jnp.asarray(data["label"])
  _check(data, labels, fit_mask, eval_mask, num_classes, ridge)
  fit, judged = jnp.asarray(fit_mask), jnp.asarray(eval_mask)
  inputs = jax.tree.map(jnp.asarray, data["x"])
  n = labels.shape[0]
  index = jnp.arange(-(-n // chunk_size) * chunk_size).reshape(-1, chunk_size)
  names = (layers,) if isinstance(layers, str) else tuple(layers)
  first = take_rows(inputs, index[0] % n, jnp.ones(chunk_size))
  sizes = _sizes(model, variables, first, names)

  def chunk(row_id: jax.Array) -> tuple[dict[str, jax.Array], jax.Array]:
    """Activations of some rows, and which of these rows there are."""
    inside = row_id < n
    row_id = jnp.minimum(row_id, n - 1)
    # Rows that do not count, and the padding, reach the model as zeros.
    counts = inside & ((fit[row_id] > 0) | (judged[row_id] > 0))
    rows = take_rows(inputs, row_id, counts)
    found = model.features(variables, rows)  # type: ignore[misc]
    flat = {k: found[k].reshape(chunk_size, -1) for k in names}
    return {k: _rows.widened(h, "h") for k, h in flat.items()}, inside

  def accumulate(total, row_id):
    found, inside = chunk(row_id)
    row_id = jnp.minimum(row_id, n - 1)
    share = jnp.where(inside, fit[row_id], 0)
    added = {
      k: _moments(h, labels[row_id], share, num_classes)
      for k, h in found.items()
    }
    return jax.tree.map(jnp.add, total, added), None

  zero = {
    k: _Moments(
      jnp.zeros((size + 1, size + 1), dtype),
      jnp.zeros((size + 1, num_classes), dtype),
    )
    for k, (size, dtype) in sizes.items()
  }
  moments, _ = jax.lax.scan(accumulate, zero, index)
  solved = {k: _solve(m, ridge) for k, m in moments.items()}
  logits = jax.lax.map(
    lambda row_id: {
      k: _read_out(h, *solved[k]) for k, h in chunk(row_id)[0].items()
    },
    index,
  )
  merged = {k: v.reshape(-1, num_classes)[:n] for k, v in logits.items()}
  return {k: _probe(merged[k], labels, fit, judged, *solved[k]) for k in names}


def _check(data, labels, fit_mask, eval_mask, num_classes, ridge) -> None:
  checks.counts(num_classes=num_classes)
  checks.positive(ridge=ridge)
  checks.request(data, fit_mask, "fit_mask")
  checks.request(data, eval_mask, "eval_mask")
  n = checks.num_rows(data)
  shaped(f"labels [{n}]", labels)
  checks.labels(labels, num_classes, "labels")


def _sizes(
  model: Model, variables: Variables, rows: PyTree, names: tuple[str, ...]
) -> dict[str, tuple[int, Any]]:
  """The number of activations of each layer, and the dtype of their sums."""
  if model.features is None:
    raise ValueError(
      "Expected a model with features to probe, got model.features=None; an "
      "adapter or `model._replace(features=...)` gives it some."
    )
  known = jax.eval_shape(model.features, variables, rows)
  if not names:
    raise ValueError(f"Expected layers among {sorted(known)}, got none.")
  sizes = {}
  for name in names:
    if name not in known:
      raise ValueError(f"Expected layers among {sorted(known)}, got {name!r}.")
    leaf = known[name]
    dtype = jnp.promote_types(jnp.float32, leaf.dtype)
    sizes[name] = math.prod(leaf.shape[1:]), dtype
  return sizes


def _moments(
  features: jax.Array, labels: jax.Array, weights: jax.Array, num_classes: int
) -> _Moments:
  """Of rows [B, D] under weights [B]; rows of weight 0 are not read."""
  weights = weights.astype(features.dtype)[:, None]
  ones = jnp.ones((features.shape[0], 1), features.dtype)
  h = jnp.concatenate([features, ones], axis=1)
  h = jnp.where(weights > 0, h, 0)
  wanted = jax.nn.one_hot(labels, num_classes, dtype=features.dtype)
  weighted = (h * weights).T
  # Accelerators would round the factors to fewer bits than the inverse needs.
  product = functools.partial(jnp.matmul, precision="highest")
  return _Moments(product(weighted, h), product(weighted, wanted))


def _solve(
  moments: _Moments, ridge: float | jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Kernel [D, C] and bias [C]; nan without rows."""
  size = moments.gram.shape[0]
  penalty = ridge * jnp.trace(moments.gram) / size
  system = moments.gram + penalty * jnp.eye(size, dtype=moments.gram.dtype)
  factor = jax.scipy.linalg.cho_factor(system, lower=True)
  weights = jax.scipy.linalg.cho_solve(factor, moments.target)
  # Of a singular system some backends return what looks like a solution.
  weights = jnp.where(penalty > 0, weights, jnp.nan)
  return weights[:-1], weights[-1]


def _read_out(
  features: jax.Array, kernel: jax.Array, bias: jax.Array
) -> jax.Array:
  return jnp.matmul(features, kernel, precision="highest") + bias[None]


def _probe(logits, labels, fit, judged, kernel, bias) -> Probe:
  return Probe(
    utility.accuracy(logits, labels, judged),
    utility.accuracy(logits, labels, fit),
    kernel,
    bias,
  )
