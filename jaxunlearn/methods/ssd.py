"""Selective Synaptic Dampening: shrinks the weights that the forget set leans on.

Source: Foster, Schoepf and Brintrup (2024), arXiv:2308.07707. Relatives: the
label-free LF-SSD, arXiv:2402.19308, and the adaptive ASSD, arXiv:2402.10098.
Class: heuristic; a one-shot edit without a gradient step. Model state: not
touched, gradients are taken in evaluation mode.
Data access: forget rows with labels, and either all rows or their importance,
computed once after training. Cost: a gradient a forget row (estimator
"example") or a batch of them ("batch"), and as much for the other rows where
no importance is stored.

Estimators. The paper defines the importance as the diagonal Fisher information,
a mean of squared gradients of single rows; the released code, whose numbers are
the published ones, squares the gradient of each batch's mean loss. There batch
size and order are settings, and a fixed alpha has a meaning only with them.
With "example" and q = |forget| / |all| no weight has importance_forget /
importance_full > 1/q, so that alpha >= 1/q selects nothing: the published alpha
of 10 is a no-op for one of ten equal classes. The default alpha adapts instead.
Made for classes and other groups that lean on weights of their own: of rows
scattered over all classes the importances are alike, and the edit damages what
it should keep.
Difference from the released code: the batches of the full set are those of the
forget set and then those of the rest, where the released loader lets one batch
straddle the two.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxunlearn.core import checks
from jaxunlearn.core.combinators import edit
from jaxunlearn.core.sampling import take_rows
from jaxunlearn.core.types import ALL, Draw, Model, PyTree, Transform, Variables

_ESTIMATORS = ("example", "batch")


class SsdInfo(NamedTuple):
  """What a dampening did.

  Attributes:
    alpha: float32 [], the threshold in use.
    selected_count: int32 [], how many weights were selected.
  """

  alpha: jax.Array
  selected_count: jax.Array


def ssd(
  model: Model,
  *,
  alpha: float | jax.Array | None = None,
  dampening: float | jax.Array = 0.3,
  exponent: float | jax.Array = 1.0,
  selection: float | jax.Array = 1.5,
  estimator: str = "batch",
  batch_size: int = 64,
  importance_full: PyTree | None = None,
  label_free: bool = False,
) -> Transform:
  """Dampens the weights that matter to the forget set far more than to all data.

  A weight whose importances f (forget set) and d (all rows) have f > alpha * d
  is multiplied by min((dampening * d / f)^exponent, 1).

  Args:
    model: any; its `loss` is taken.
    alpha: >= 0, the threshold. None takes `adaptive_alpha` (ASSD), which fits
      requests of any size; published fixed values are 5 to 50. With the
      estimator "example", alpha >= |all| / |forget| selects nothing, silently:
      see the module and `SsdInfo.selected_count`. May be traced.
    dampening: lambda >= 0; 0 sets selected weights to zero, large values change
      nothing. Published: 1, or 0.1. May be traced.
    exponent: of the shrinking factor. May be traced.
    selection: with alpha=None, how many weights are selected; see
      `adaptive_alpha`. Published: 1. The defaults of this and of dampening were
      chosen on the classes of digits. May be traced.
    estimator: "example", the paper's, or "batch", the released code's.
    batch_size: static; rows at a time. "example": memory holds so many
      gradients, the result does not depend on it. "batch": it does.
    importance_full: from `importance` on all training rows with the same
      estimator, batch size and model; then only forget rows are read. None
      computes it from the data of the request.
    label_free: LF-SSD; see `importance`.

  Returns:
    A `Transform` of no steps, info `SsdInfo`. An empty request changes nothing.

  Raises:
    ValueError: alpha, dampening, exponent or selection < 0, an unknown estimator,
      batch_size < 1; when called, an importance that does not fit the params.
  """
  numbers = {"dampening": dampening, "exponent": exponent}
  numbers["selection" if alpha is None else "alpha"] = (
    selection if alpha is None else alpha
  )
  checks.non_negative(**numbers)
  checks.one_of(_ESTIMATORS, estimator=estimator)
  checks.positive(batch_size=batch_size)
  kind = (estimator, batch_size, label_free)

  def apply(variables, data, forget_mask, key):
    del key
    params, weights = variables.params, forget_mask.astype(jnp.float32)
    total, count = _sums(model, variables, data, weights, *kind)
    forget = full = _ratio(total, count)
    if importance_full is not None:
      checks.same_structure(importance_full, params, "importance_full")
      full = importance_full
    else:
      rest = _sums(model, variables, data, 1.0 - weights, *kind)
      full = _ratio(*jax.tree.map(jnp.add, (total, count), rest))
    threshold = alpha
    if threshold is None:
      threshold = adaptive_alpha(
        forget, full, weights.mean(), selection=selection
      )
    smaller = dampen(
      params,
      forget,
      full,
      alpha=threshold,
      dampening=dampening,
      exponent=exponent,
    )
    chosen = jax.tree.map(
      lambda f, d: _is_selected(f, d, threshold).sum(dtype=jnp.int32),
      forget,
      full,
    )
    info = SsdInfo(
      jnp.asarray(threshold, jnp.float32), sum(jax.tree.leaves(chosen))
    )
    return variables._replace(params=smaller), info

  needs = Draw(forget=ALL, retain=ALL if importance_full is None else 0)
  return edit(apply, needs=needs, name="ssd")


def importance(
  model: Model,
  variables: Variables,
  data: PyTree,
  weights: jax.Array,
  *,
  estimator: str = "batch",
  batch_size: int = 64,
  label_free: bool = False,
) -> PyTree:
  """How much the loss on some rows depends on each weight.

  "example": mean over rows of (d loss_i / d weight)^2. "batch": mean over
  batches of (d mean loss of the batch / d weight)^2; the rows that count, in the
  order of the data, are cut into batches, the last one short, and all batches
  count alike.

  Args:
    model: the model, used in evaluation mode.
    variables: its variables.
    data: pytree of arrays [N, ...].
    weights: bool [N], or float weights >= 0; the rows that count.
    estimator: "example" or "batch".
    batch_size: static; see `ssd`.
    label_free: LF-SSD: the squared norm of the outputs in place of the loss, the
      absolute gradient in place of its square. Needs no labels.

  Returns:
    Pytree like the params, float32 or wider, >= 0; zeros for no rows.

  Raises:
    ValueError: an unknown estimator, batch_size < 1, weights of a wrong shape.
  """
  checks.request(data, weights, name="weights")
  kind = (estimator, batch_size, label_free)
  total, count = _sums(model, variables, data, weights, *kind)
  return _ratio(total, count)


def dampen(
  params: PyTree,
  importance_forget: PyTree,
  importance_full: PyTree,
  *,
  alpha: float | jax.Array,
  dampening: float | jax.Array = 1.0,
  exponent: float | jax.Array = 1.0,
) -> PyTree:
  """The edit of `ssd`, from the two importances.

  A weight of no importance to either set is never selected; one that matters to
  the forget set only becomes 0.

  Args:
    params: pytree of float arrays.
    importance_forget: like the params, >= 0.
    importance_full: like the params, >= 0.
    alpha: see `ssd`; `jax.vmap` over this and the next one searches a grid on
      one pair of importances.
    dampening: see `ssd`.
    exponent: see `ssd`.

  Returns:
    The params, dtypes kept; no entry grows or changes its sign.

  Raises:
    ValueError: an importance that does not fit the params.
  """
  checks.same_structure(importance_forget, params, "importance_forget")
  checks.same_structure(importance_full, params, "importance_full")

  def shrink(param, forget, full):
    selected = _is_selected(forget, full, alpha)
    ratio = dampening * full / jnp.where(selected, forget, 1.0)
    factor = jnp.minimum(jnp.where(selected, ratio, 1.0) ** exponent, 1.0)
    smaller = (param.astype(factor.dtype) * factor).astype(param.dtype)
    return jnp.where(selected, smaller, param)

  return jax.tree.map(shrink, params, importance_forget, importance_full)


def adaptive_alpha(
  importance_forget: PyTree,
  importance_full: PyTree,
  forget_share: float | jax.Array,
  *,
  selection: float | jax.Array = 1.0,
) -> jax.Array:
  """The threshold that dampens the more weights, the more rows must go (ASSD).

  The (100 - s ln(1 + 100 q))-th percentile of the ratios of the two importances
  over all weights, q the forget share and s the selection: s ln(1 + 100 q)
  percent of the weights lie above it, for s = 1 and q = 10 % about 2.4.

  Args:
    importance_forget: pytree of arrays, P entries altogether.
    importance_full: the same. Entries of 0 have no ratio and do not count.
    forget_share: q in [0, 1], forget rows over all rows. May be traced.
    selection: s >= 0; 1 as published. May be traced.

  Returns:
    float32 []; inf, which selects nothing, where s = 0 or no ratio is finite.

  Source: arXiv:2402.10098. The formula was read in the authors' code (that of
  arXiv:2406.09173, where ASSD is a baseline), not in the paper. That code
  interpolates between two neighbouring ratios; the middle between them, taken
  here, selects the same weights.
  """

  def ordered_bits(forget, full):
    value = forget / jnp.where(full > 0, full, 1.0)
    usable = (full > 0) & jnp.isfinite(value)
    # Non-negative floats are ordered as their bits are.
    bits = jax.lax.bitcast_convert_type(value.astype(jnp.float32), jnp.int32)
    return jnp.where(usable, bits, -1).reshape(-1)

  every = jax.tree.map(ordered_bits, importance_forget, importance_full)
  bits = jnp.concatenate(jax.tree.leaves(every))
  count = (bits >= 0).sum(dtype=jnp.int32)
  percent = selection * jnp.log1p(100.0 * jnp.asarray(forget_share))
  above = jnp.ceil(jnp.clip(percent / 100.0, 0.0, 1.0) * (count - 1))
  wanted = jnp.minimum(above.astype(jnp.int32) + 1, count)

  # The largest number that `wanted` ratios reach, bit by bit: no sort of P.
  def set_bit(index, low):
    higher = low | (1 << (30 - index))
    return jnp.where((bits >= higher).sum() >= wanted, higher, low)

  low = jax.lax.fori_loop(0, 31, set_bit, jnp.zeros((), jnp.int32))
  # Half way to the next ratio above: were it a ratio itself, rounding would
  # select that weight in one program and not in another.
  higher = jnp.where(bits > low, bits, jnp.int32(0x7F800000)).min()
  reached, next_up = jax.lax.bitcast_convert_type(
    jnp.stack([low, higher]), jnp.float32
  )
  return jnp.where(count > 0, reached + 0.5 * (next_up - reached), jnp.inf)


def _is_selected(forget, full, alpha):
  # alpha * 0 is no number where alpha is infinite; comparing with it is False.
  return forget > alpha * full


def _ratio(total: PyTree, count: jax.Array) -> PyTree:
  return jax.tree.map(lambda t: t / jnp.where(count > 0, count, 1.0), total)


def _sums(model, variables, data, weights, estimator, batch_size, label_free):
  """The sum of what `importance` averages, and the weight of what it sums.

  The rows that count are gathered first, so that the loop, whose length is a
  run-time number, never walks over the others.
  """
  checks.one_of(_ESTIMATORS, estimator=estimator)
  checks.positive(batch_size=batch_size)
  weights = weights.astype(jnp.float32)
  n = checks.num_rows(data)
  size = min(batch_size, n)
  order = jnp.argsort(~(weights > 0), stable=True)
  row_count = (weights > 0).sum(dtype=jnp.int32)
  measure = jnp.abs if label_free else jnp.square

  def losses(params, rows):
    outputs = model.predict(variables._replace(params=params), rows["x"])
    if label_free:
      outputs = outputs.astype(jnp.promote_types(jnp.float32, outputs.dtype))
      return jnp.square(outputs).reshape(len(outputs), -1).sum(axis=1)
    return model.loss(outputs, rows)

  def measured(grads):
    wide = lambda g: g.astype(jnp.promote_types(jnp.float32, g.dtype))
    return jax.tree.map(lambda g: measure(wide(g)), grads)

  def of_rows(rows, weight):
    def one(row):
      single = jax.tree.map(lambda x: x[None], row)
      grad = jax.grad(lambda p: losses(p, single)[0])
      return measured(grad(variables.params))

    def add(value):
      w = weight.reshape(weight.shape + (1,) * (value.ndim - 1))
      return jnp.where(w > 0, w * value, 0.0).sum(axis=0)

    return jax.tree.map(add, jax.vmap(one)(rows)), weight.sum()

  def of_batch(rows, weight):
    def mean_loss(params):
      value = jnp.where(weight > 0, weight * losses(params, rows), 0.0)
      return value.sum() / jnp.maximum(weight.sum(), 1e-12)

    return measured(jax.grad(mean_loss)(variables.params)), jnp.ones(())

  one_chunk = of_rows if estimator == "example" else of_batch

  def body(index, total):
    position = index * size + jnp.arange(size)
    row_id = order[jnp.minimum(position, n - 1)]
    weight = jnp.where(position < row_count, weights[row_id], 0.0)
    added = one_chunk(take_rows(data, row_id, weight), weight)
    return jax.tree.map(jnp.add, total, added)

  like = jax.eval_shape(body, 0, _zero_sums(variables.params))
  zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), like)
  return jax.lax.fori_loop(0, -(-row_count // size), body, zeros)


def _zero_sums(params):
  wide = lambda p: jnp.zeros(p.shape, jnp.promote_types(jnp.float32, p.dtype))
  return jax.tree.map(wide, params), jnp.zeros(())
