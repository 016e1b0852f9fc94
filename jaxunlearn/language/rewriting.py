"""Texts with tokens drawn anew by the exponential mechanism: DP2's other base.

Source: DP2Unlearning (2025), arXiv:2504.13774; see `dp2`.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxunlearn.core import checks
from jaxunlearn.core.shaped import shaped
from jaxunlearn.language.types import Text

Scalar = float | jax.Array


def rewrite(
  x: Text,
  selected: jax.Array,
  scores: jax.Array,
  epsilon: Scalar,
  bounds: tuple[float, float],
  key: jax.Array,
) -> Text:
  """Texts with some tokens drawn anew by the exponential mechanism.

  Each is drawn from softmax(epsilon * score / (2 (high - low))), scores clipped to
  their bounds: epsilon-DP for that token, m epsilon for a row of m of them, and
  nothing at all for tokens that are not selected.

  Args:
    x: texts [N, L].
    selected: bool [N, L], which are drawn anew.
    scores: float [V] or [N, L, V], how well a token stands there, from a model
      that these texts had no part in.
    epsilon: >= 0, per token; 0 draws uniformly. May be traced.
    bounds: of scores; not read off private text.
    key: PRNG key.

  Raises:
    ValueError: epsilon < 0, bounds without room between, shapes that differ.

  Example:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import language
    >>> tokens = jnp.array([[3, 1, 2]])
    >>> x = language.Text(tokens, length=jnp.array([3]), prompt=jnp.array([1]))
    >>> selected = jnp.array([[False, True, True]])
    >>> scores, bounds = jnp.array([0.0, 0.0, 0.0, 0.0, 1.0]), (0.0, 1.0)
    >>> key = jax.random.key(0)
    >>> made = language.rewrite(x, selected, scores, 100.0, bounds, key)
    >>> made.tokens.tolist()  # An epsilon as large as 100 hides nothing.
    [[3, 4, 4]]
  """
  checks.non_negative(epsilon=epsilon)
  low, high = bounds
  if not low < high:
    raise ValueError(f"Expected bounds low < high, got {bounds}.")
  wanted = f"selected {list(x.tokens.shape)} and scores [V] or [N, L, V]"
  shaped(wanted, selected, scores)

  def row(row_key: jax.Array, own: jax.Array) -> jax.Array:
    logits = epsilon * jnp.clip(own, low, high) / (2 * (high - low))
    return jax.random.categorical(row_key, logits, shape=x.tokens.shape[1:])

  each = jax.random.split(key, x.tokens.shape[0])
  if scores.ndim == 1:
    drawn = jax.lax.map(lambda k: row(k, scores[None]), each)
  else:
    drawn = jax.lax.map(lambda pair: row(*pair), (each, scores))
  there = jnp.arange(x.tokens.shape[1])[None] < x.length[:, None]
  new = jnp.where(selected & there, drawn, x.tokens)
  return x._replace(tokens=new.astype(x.tokens.dtype))
