"""Selective Synaptic Dampening: shrinks the weights that the forget set leans on.

Source: Foster, Schoepf and Brintrup (2024), arXiv:2308.07707. Relatives: the
label-free LF-SSD, arXiv:2402.19308, and the adaptive ASSD, arXiv:2402.10098.
Class: heuristic; a one-shot edit without a gradient step. Model state: not
touched, gradients are taken in evaluation mode.
Data access: forget rows with labels, and either all rows or their importance,
computed once after training. Cost: a gradient per forget row (estimator
"example") or batch of them ("batch"), and as much for the other rows where
no importance is stored.

Estimators. The paper defines the importance as the diagonal Fisher information,
a mean of squared gradients of single rows; the released code, whose numbers are
the published ones, squares the gradient of each batch's mean loss. There batch
size and order are settings, and a fixed alpha has a meaning only with them.
With "example" and q = |forget| / |all| no weight has importance_forget /
importance_full > 1/q, so that alpha >= 1/q selects nothing: the published alpha
of 10 is a no-op for one of ten equal classes. `ssd_adaptive` looks for its own.
Made for classes and other groups that lean on weights of their own: of rows
scattered over all classes the importances are alike, and the edit damages what
it should keep.
Difference from the released code: the batches of the full set are those of the
forget set and then those of the rest, where the released loader lets one batch
straddle the two.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxunlearn.core import checks, order
from jaxunlearn.core.links import edit
from jaxunlearn.core.tasks import Task, as_task
from jaxunlearn.core.training import prepared
from jaxunlearn.core.transform import Transform
from jaxunlearn.core.types import ALL, Draw, PyTree, Variables
from jaxunlearn.methods import _importance, _rows

Threshold = Callable[[PyTree, PyTree, jax.Array], jax.Array]


class SsdInfo(NamedTuple):
  """What a dampening did.

  Attributes:
    alpha: float32 [], the threshold in use.
    selected_count: int32 [], how many weights were selected.
  """

  alpha: jax.Array
  selected_count: jax.Array


def ssd(
  task: Task | Any,
  *,
  alpha: float | jax.Array | Threshold = 10.0,
  dampening: float | jax.Array = 1.0,
  exponent: float | jax.Array = 1.0,
  estimator: str = "batch",
  batch_size: int = 64,
  importance_full: PyTree | None = None,
  label_free: bool = False,
) -> Transform:
  """Dampens the weights that matter to the forget set far more than to all data.

  A weight whose importances f (forget set) and d (all rows) have f > alpha * d
  is multiplied by min((dampening * d / f)^exponent, 1).

  Args:
    task: a `Task`, or a model of any room.
    alpha: >= 0, the threshold; published: 5 to 50, 10 for ResNet-18. With the
      estimator "example", alpha >= |all| / |forget| selects nothing, silently:
      see the module and `SsdInfo.selected_count`. May be traced. Or a function
      `(importance_forget, importance_full, share of rows to forget) -> alpha`.
    dampening: lambda >= 0; 0 sets selected weights to zero, large values change
      nothing. Published: 1, or 0.1 for faces. May be traced.
    exponent: of the shrinking factor. May be traced.
    estimator: "example", the paper's, or "batch", the released code's.
    batch_size: static; rows at a time. "example": memory holds so many
      gradients, the result does not depend on it. "batch": it does.
    importance_full: from `importance` on all training rows with the same
      estimator, batch size and task; then only forget rows are read. None
      computes it from the data of the request.
    label_free: LF-SSD; see `importance`.

  Returns:
    A `Transform` of no steps, info `SsdInfo`. An empty request changes nothing.

  Raises:
    ValueError: alpha, dampening or exponent < 0, an unknown estimator,
      batch_size < 1; from the call, an importance that does not fit the params.

  Example:
    >>> import jax, optax
    >>> import jaxunlearn as ju
    >>> from jaxunlearn import toy
    >>> problem = toy.classifier()
    >>> unlearn = ju.methods.ssd(problem.model, alpha=2.0, batch_size=15)
    >>> made, info = jax.jit(unlearn)(*problem.arguments)
    >>> toy.accuracies(problem, made)
    (0.0, 1.0)
  """
  checks.non_negative(dampening=dampening, exponent=exponent)
  if not callable(alpha):
    checks.non_negative(alpha=alpha)
  kind = (estimator, batch_size, label_free)
  _importance.check_kind(*kind)
  task = as_task(task)

  def apply(variables, data, request, key):
    params, visible = variables.params, _rows.seen(request)
    loss, rows = _importance.loss_and_rows(
      task, variables, data, visible, key, label_free
    )
    total, count = _importance.sums(loss, params, rows, request.forget, *kind)
    forget = full = _importance.ratio(total, count)
    if importance_full is not None:
      checks.same_structure(importance_full, params, "importance_full")
      full = importance_full
    else:
      rest = _importance.sums(loss, params, rows, request.retain, *kind)
      full = _importance.ratio(*jax.tree.map(jnp.add, (total, count), rest))
    asked = request.forget.astype(jnp.float32).sum()
    share = asked / (asked + request.retain.astype(jnp.float32).sum())
    threshold = alpha(forget, full, share) if callable(alpha) else alpha
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
  return prepared(task, edit(apply, needs=needs, name="ssd"), after=True)


def ssd_adaptive(
  task: Task | Any,
  *,
  selection: float | jax.Array = 1.5,
  dampening: float | jax.Array = 0.3,
  **options: Any,
) -> Transform:
  """`ssd` with a threshold that fits requests of any size (ASSD).

  Args:
    task: see `ssd`.
    selection: >= 0, how many weights are selected; see `adaptive_alpha`.
      Published: 1. The defaults of this and of dampening were chosen on the
      classes of digits. May be traced.
    dampening: see `ssd`.
    **options: the other keyword arguments of `ssd`.

  Returns:
    As `ssd`.

  Raises:
    ValueError: selection < 0, and as `ssd`.

  Example:
    >>> import jax, optax
    >>> import jaxunlearn as ju
    >>> from jaxunlearn import toy
    >>> problem = toy.classifier()
    >>> unlearn = ju.methods.ssd_adaptive(problem.model, batch_size=15)
    >>> made, info = jax.jit(unlearn)(*problem.arguments)
    >>> toy.accuracies(problem, made)
    (0.0, 1.0)
  """
  checks.non_negative(selection=selection)
  alpha = functools.partial(adaptive_alpha, selection=selection)
  plain = ssd(task, alpha=alpha, dampening=dampening, **options)
  return dataclasses.replace(plain, name="ssd_adaptive")


def importance(
  task: Task | Any,
  variables: Variables,
  data: PyTree,
  weights: jax.Array,
  *,
  key: jax.Array | None = None,
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
    task: a `Task`, or a model of any room; in evaluation mode.
    variables: its variables.
    data: pytree of arrays [N, ...].
    weights: bool [N], or float weights >= 0; the rows that count.
    key: PRNG key, for a loss that draws; `jax.random.key(0)` by default.
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
  _importance.check_kind(estimator, batch_size, label_free)
  key = jax.random.key(0) if key is None else key
  everything = jnp.ones(weights.shape, bool)
  loss, rows = _importance.loss_and_rows(
    as_task(task), variables, data, everything, key, label_free
  )
  kind = (estimator, batch_size, label_free)
  return _importance.ratio(
    *_importance.sums(loss, variables.params, rows, weights, *kind)
  )


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
    return jnp.where(usable, order.magnitude(value), -1)

  every = jax.tree.map(ordered_bits, importance_forget, importance_full)
  bits = jax.tree.leaves(every)
  count = sum((b >= 0).sum(dtype=jnp.int32) for b in bits)
  percent = selection * jnp.log1p(100.0 * jnp.asarray(forget_share))
  above = jnp.ceil(jnp.clip(percent / 100.0, 0.0, 1.0) * (count - 1))
  wanted = jnp.minimum(above.astype(jnp.int32) + 1, count)

  low = order.reached(bits, wanted)
  # Half way to the next ratio above: were it a ratio itself, rounding would
  # select that weight in one program and not in another.
  higher = [jnp.where(b > low, b, jnp.int32(0x7F800000)).min() for b in bits]
  next_up = order.from_magnitude(jnp.stack(higher).min())
  reached = order.from_magnitude(low)
  return jnp.where(count > 0, reached + 0.5 * (next_up - reached), jnp.inf)


def _is_selected(forget, full, alpha):
  # alpha * 0 is no number where alpha is infinite; comparing with it is False.
  return forget > alpha * full
