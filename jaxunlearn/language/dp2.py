"""DP2Unlearning: a base that no row shows in, and fine-tuning of the rest on it.

Source: DP2Unlearning (2025), arXiv:2504.13774, and its released code.
Class: certified, as far as its base is: what DP-SGD made is (epsilon, delta)-DP for
rows, and fine-tuning on retain rows adds nothing of the others, so that the result
is as near to one whose base never saw k rows as `group_privacy` says. A base from
rewritten tokens is so for each token that was rewritten, and for no row.
Model state: frozen. Data access: the base, all rows; each request, retain rows
alone, by `methods.finetune` from the base, whatever was requested before:

    base, info = protect(lm, fit, ...)(fresh, data, nothing, key)
    unlearn = ju.methods.finetune(lm, shorter)
    many = jax.vmap(unlearn, in_axes=(None, None, 0, 0))(base, data, masks, keys)

Differences from the released code: the loss of a row is its own mean over tokens,
so that clipping bounds what a row does; the candidates of a rewriting are all
tokens, as in one of its two scripts (the other's are not private); bounds of scores
are the caller's.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple, Unpack

import jax
import jax.numpy as jnp
import optax

from jaxunlearn.core import checks, keys
from jaxunlearn.core.links import edit
from jaxunlearn.core.per_example import sum_rows
from jaxunlearn.core.reduction import all_finite
from jaxunlearn.core.sampling import take_rows
from jaxunlearn.core.tasks import Fit, FitFields, as_fit
from jaxunlearn.core.transform import Transform
from jaxunlearn.core.types import ALL, Draw, PyTree, Variables
from jaxunlearn.language.scores import token_nll
from jaxunlearn.language.types import LanguageModel

Scalar = float | jax.Array


class ProtectInfo(NamedTuple):
  """What training under privacy leaves behind.

  Attributes:
    rows: int32 [num_steps], rows that a step drew.
    overflow: bool [], whether a step drew more than it had room for: the guarantee
      of the accountant then does not hold.
    is_finite: bool [].
  """

  rows: jax.Array
  overflow: jax.Array
  is_finite: jax.Array


def protect(
  lm: LanguageModel,
  fit: Fit | None = None,
  *,
  clip_norm: Scalar = 1.0,
  noise_multiplier: Scalar,
  chunk_size: int = 8,
  **fields: Unpack[FitFields],
) -> Transform:
  """Trains on all rows in sight by DP-SGD, whoever is to be forgotten later.

  Each step takes every row with probability batch_size / N, clips its gradient,
  adds normal noise of noise_multiplier * clip_norm to the sum and divides by
  batch_size, the number of rows that is expected.

  Args:
    lm: the model, without state beside its params.
    fit: how; any optimiser, since it sees noised gradients alone.
    clip_norm: C > 0. May be traced.
    noise_multiplier: sigma >= 0; of an epsilon by `privacy.noise_multiplier`. May
      be traced.
    chunk_size: static; rows whose gradients are there at once.
    **fields: the fields of `Fit` by keyword.

  Returns:
    A `Transform` with a `ProtectInfo`.

  Raises:
    ValueError: clip_norm <= 0, noise_multiplier < 0; from the call, model state,
      which batches would share, or batches of more rows than there are.

  Example:
    >>> import jax.numpy as jnp
    >>> import jaxunlearn as ju
    >>> import optax
    >>> from jaxunlearn import language, toy
    >>> problem = toy.decoder()._replace(request=jnp.zeros(8, bool))
    >>> fit = ju.Fit(optax.adam(0.02), num_steps=2, batch_size=4)
    >>> method = language.protect(problem.model, fit, noise_multiplier=1.0)
    >>> base, info = method.compiled(*problem.arguments)
    >>> info.rows.tolist(), bool(info.overflow)  # Rows that each step drew.
    ([3, 6], False)
  """
  fit = as_fit(fit, fields)
  if fit.augment_rows is not None:
    raise ValueError(
      "Expected a Fit without augment_rows, got one that changes rows."
    )
  checks.positive(clip_norm=clip_norm)
  checks.non_negative(noise_multiplier=noise_multiplier)
  checks.count(1, chunk_size=chunk_size)

  def train(variables: Variables, data: Any, request: Any, key: jax.Array):
    if jax.tree.leaves(variables.model_state):
      raise ValueError(
        "Expected a model without state, which would tell of rows that no "
        "gradient was clipped of, got some."
      )
    num = checks.num_rows(data)
    size = num if fit.batch_size == ALL else fit.batch_size
    if size > num:
      raise ValueError(f"Expected batch_size <= {num} rows, got {size}.")
    share = size / num
    room = min(num, math.ceil(size + 5 * math.sqrt(size * (1 - share))))
    seen = (request.forget > 0) | (request.retain > 0)

    def loss(params: PyTree, row: Any) -> jax.Array:
      one = jax.tree.map(lambda leaf: leaf[None], row)
      out = token_nll(lm, Variables(params), one["x"], one.get("token_weight"))
      assert out.weight is not None
      return (out.value / jnp.maximum(out.weight, 1e-12)).sum()

    def step(carry: Any, step_key: jax.Array) -> Any:
      params, opt_state = carry
      draw_key, noise_key = (
        keys.derive(step_key, name) for name in ("draw", "noise")
      )
      drawn = seen & jax.random.bernoulli(draw_key, share, (num,))
      order = jnp.argsort(~drawn, stable=True)[:room]
      weight = drawn[order].astype(jnp.float32)
      total = clipped_sum(
        lambda row: jax.grad(loss)(params, row),
        take_rows(data, order, weight),
        weight,
        clip_norm,
        chunk_size=chunk_size,
      )
      # Without noise nothing need be clipped: inf is a bound too.
      is_noisy = jnp.asarray(noise_multiplier) > 0
      deviation = jnp.where(is_noisy, noise_multiplier * clip_norm, 0.0)
      noised = noisy(total, deviation, noise_key)
      grads = jax.tree.map(
        lambda g, p: (g / size).astype(p.dtype), noised, params
      )
      updates, opt_state = fit.optimizer.update(grads, opt_state, params)
      params = optax.apply_updates(params, updates)
      return (params, opt_state), drawn.sum(dtype=jnp.int32)

    start = variables.params, fit.optimizer.init(variables.params)
    each = jax.random.split(key, fit.num_steps)
    (params, _), rows = jax.lax.scan(step, start, each)
    info = ProtectInfo(rows, (rows > room).any(), all_finite(params))
    return variables._replace(params=params), info

  return edit(train, needs=Draw(mixed=ALL), name="protect")


def clipped_sum(
  gradient: Callable[[Any], PyTree],
  rows: PyTree,
  weight: jax.Array,
  clip_norm: Scalar,
  *,
  chunk_size: int = 8,
) -> PyTree:
  """The sum of the rows' gradients, each no longer than `clip_norm`; float32.

  Args:
    gradient: of one row.
    rows: leaves [B, ...].
    weight: float [B], 0 or 1.
    clip_norm: > 0; inf clips nothing.
    chunk_size: static; rows at a time.

  Example:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> from jaxunlearn.language.dp2 import clipped_sum
    >>> gradient = jax.grad(lambda row: 0.5 * row @ row)  # The row itself.
    >>> rows = jnp.array([[3.0, 4.0], [0.5, 0.0], [9.0, 9.0]])
    >>> weight = jnp.array([1.0, 1.0, 0.0])
    >>> total = clipped_sum(gradient, rows, weight, clip_norm=1.0)
    >>> [round(g, 3) for g in total.tolist()]  # 0.6 + 0.5 and 0.8.
    [1.1, 0.8]
  """

  def clipped(row: Any) -> PyTree:
    grads = jax.tree.map(lambda g: g.astype(jnp.float32), gradient(row))
    length = jnp.maximum(optax.tree.norm(grads), 1e-12)
    return optax.tree.scale(jnp.minimum(1.0, clip_norm / length), grads)

  return sum_rows(clipped, rows, weight, chunk_size=chunk_size)


def noisy(tree: PyTree, deviation: Scalar, key: jax.Array) -> PyTree:
  """A pytree with normal noise on every number; a key for each leaf.

  Example:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> from jaxunlearn.language.dp2 import noisy
    >>> made = noisy({"w": jnp.zeros(10_000)}, 2.0, jax.random.key(0))
    >>> round(float(made["w"].std()), 1)
    2.0
  """
  leaves, structure = jax.tree.flatten(tree)
  each = jax.random.split(key, len(leaves))
  drawn = [
    leaf + deviation * jax.random.normal(k, leaf.shape, leaf.dtype)
    for leaf, k in zip(leaves, each)
  ]
  return jax.tree.unflatten(structure, drawn)
