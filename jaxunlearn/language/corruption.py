"""Corruptions of embeddings, and a search for how strong they have to be.

Source: ECO, Liu et al. (2024), arXiv:2406.07933, and its released code.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxunlearn.core import checks, keys
from jaxunlearn.language.types import Text

Scalar = float | jax.Array
CHANGES = ("zero", "flip", "noise")
ENTRIES = ("top", "first", "random")


def corrupted_places(x: Text, names: jax.Array) -> jax.Array:
  """Which tokens are corrupted of a prompt that is flagged, bool [B, L].

  Names, in the answer too where one is given; where the prompt has none, all of
  it but its last token.

  Args:
    x: texts [B, L].
    names: bool [V].

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn.language import Text
    >>> from jaxunlearn.language.corruption import corrupted_places
    >>> tokens = jnp.array([[1, 7, 2, 3], [1, 5, 2, 3]])
    >>> x = Text(tokens, length=jnp.array([4, 4]), prompt=jnp.array([3, 3]))
    >>> names = jnp.arange(9) == 7  # The second prompt has none.
    >>> corrupted_places(x, names).astype(int).tolist()
    [[0, 1, 0, 0], [1, 1, 0, 0]]
  """
  place = jnp.arange(x.tokens.shape[1])[None]
  there = place < x.length[:, None]
  is_name = names[jnp.where(there, x.tokens, 0)] & there
  asked = (is_name & (place < x.prompt[:, None])).any(axis=1, keepdims=True)
  return jnp.where(asked, is_name, place < x.prompt[:, None] - 1)


def corrupt(
  hidden: jax.Array,
  dims: int | jax.Array,
  strength: Scalar,
  key: jax.Array,
  *,
  change: str = "zero",
  entries: str = "top",
) -> jax.Array:
  """Embeddings [..., T, D] with some entries changed; see `eco_model`.

  Of equal entries the first count as larger. Noise depends on the place of a
  token, not on the row.

  Example:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> from jaxunlearn.language.corruption import corrupt
    >>> hidden = jnp.array([[3.0, -5.0, 1.0], [1.0, 2.0, 4.0]])
    >>> key = jax.random.key(0)
    >>> corrupt(hidden, 1, 1.0, key).tolist()
    [[3.0, 0.0, 1.0], [1.0, 2.0, 0.0]]
    >>> corrupt(hidden, 2, 1.0, key, change="flip", entries="first").tolist()
    [[-3.0, 5.0, 1.0], [-1.0, -2.0, 4.0]]
  """
  size = hidden.shape[-1]
  if entries == "top":
    order = jnp.argsort(-jnp.abs(hidden), axis=-1, stable=True)
    rank = jnp.argsort(order, axis=-1)
  elif entries == "first":
    rank = jnp.arange(size)
  else:
    rank = jax.random.permutation(keys.derive(key, "entries"), size)
  chosen = jnp.broadcast_to(rank < dims, hidden.shape)
  if change == "zero":
    new = jnp.zeros_like(hidden)
  elif change == "flip":
    new = -hidden
  else:
    shape = hidden.shape[-2:]
    drawn = jax.random.normal(keys.derive(key, "noise"), shape, jnp.float32)
    drawn = jnp.broadcast_to(strength * drawn, hidden.shape)
    new = hidden + drawn.astype(hidden.dtype)
    chosen &= jnp.asarray(strength) > 0
  return jnp.where(chosen, new, hidden)


def zeroth_order(
  score: Callable[[jax.Array], jax.Array],
  start: Scalar,
  *,
  rate: Scalar = 100.0,
  epsilon: Scalar = 0.0999,
  least: Scalar = 0.1,
  num_steps: int = 10,
  stop: Scalar = -jnp.inf,
) -> tuple[jax.Array, jax.Array]:
  """Searches a strength by differences of a score, which is to become small.

  s <- max(least, s - rate (score(s + e) - score(max(s - e, 1e-8))) / (2 e)).

  Args:
    score: `strength -> []`, traced; how much a guarded model still knows, or how
      far that is from what one would know that never saw it.
    start: where to begin. May be traced.
    rate: > 0. May be traced.
    epsilon: > 0. May be traced.
    least: strengths stay above. May be traced.
    num_steps: static, >= 0.
    stop: score below which the search stays where it is. May be traced.

  Returns:
    The strength, and float32 [num_steps], the scores on the way.

  Example:
    >>> from jaxunlearn.language.corruption import zeroth_order
    >>> score = lambda strength: (strength - 3.0) ** 2
    >>> strength, scores = zeroth_order(score, 1.0, rate=0.25, num_steps=3)
    >>> round(float(strength), 2), scores.round(2).tolist()
    (2.75, [4.0, 1.0, 0.25])
  """
  checks.positive(rate=rate, epsilon=epsilon)
  checks.count(0, num_steps=num_steps)

  def step(s: jax.Array, _: None) -> tuple[jax.Array, jax.Array]:
    now = score(s)
    up, down = score(s + epsilon), score(jnp.maximum(s - epsilon, 1e-8))
    moved = jnp.maximum(s - rate * (up - down) / (2 * epsilon), least)
    return jnp.where(now < stop, s, moved), now

  return jax.lax.scan(
    step, jnp.asarray(start, jnp.float32), None, length=num_steps
  )
