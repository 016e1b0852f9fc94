"""Losses of what single layers of a decoder would say: UnLOK's defences.

A read-out D is the distribution over the V tokens that a layer's state gives
when the head is put on it (the logit lens), float [..., S, V] of S layers; see
`vision_language.lens`. All in at least float32.

Source: Patil et al. (2024), arXiv:2309.17410 and arXiv:2505.01456.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxunlearn.core import checks


def check_tails(k: int, vocab_size: int) -> None:
  """Raises a ValueError unless the k likeliest and k least likely are apart."""
  checks.count(1, k=k)
  if 2 * k > vocab_size:
    raise ValueError(f"Expected 2 k <= {vocab_size} tokens, got k={k}.")


def head_projection(readout: jax.Array, answer: jax.Array, k: int) -> jax.Array:
  """How far a token is beyond the k-th from either end, a mean over layers.

  mean max(0, D_a - D_(k)) + mean max(0, D_[k] - D_a), with D_(k) the k-th
  largest and D_[k] the k-th smallest entry. Gradients go through both.

  Args:
    readout: [..., S, V].
    answer: int [...], the token a.
    k: static, >= 1; 2 k <= V.

  Returns:
    [...], in [0, 1]; 0 where the token is in neither tail.

  Raises:
    ValueError: a k that does not fit.
  """
  readout = _wide(readout)
  check_tails(k, readout.shape[-1])
  own = of_token(readout, answer)
  high = jax.lax.top_k(readout, k)[0][..., -1]
  low = -jax.lax.top_k(-readout, k)[0][..., -1]
  above, below = jnp.maximum(0, own - high), jnp.maximum(0, low - own)
  return (above + below).mean(axis=-1)


def negative_entropy(readout: jax.Array) -> jax.Array:
  """Mean over layers of sum D log D, [...]: >= -log V, which a uniform D has."""
  readout = _wide(readout)
  there = readout != 0  # 0 log 0 is 0, and its slope is left out.
  log = jnp.log(jnp.where(there, readout, 1))
  return jnp.where(there, readout * log, 0).sum(axis=-1).mean(axis=-1)


def of_token(readout: jax.Array, answer: jax.Array) -> jax.Array:
  """The entries [..., S] of a token int [...] in [..., S, V]."""
  index = jnp.broadcast_to(answer[..., None, None], (*readout.shape[:-1], 1))
  return jnp.take_along_axis(readout, index, axis=-1)[..., 0]


def _wide(x: jax.Array) -> jax.Array:
  return x.astype(jnp.promote_types(jnp.float32, x.dtype))
