"""Losses of learned inputs: noise on which a model errs most, or least.

Source: UNSIR, Tarun et al. (2021), arXiv:2111.08947 (error-maximising), and
zero-shot unlearning, Chundawat et al. (2022), arXiv:2201.05629 (both). The
model is frozen and `noise` is what an optimiser moves.

Difference from the source: UNSIR writes the norm of the noise as penalty, its
released code squares it. The code's results are the published ones, so that
"squared" is the default here; "plain" is the paper's writing.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import optax

from jaxunlearn.core import checks
from jaxunlearn.core.shaped import arrays
from jaxunlearn.losses.classification import cross_entropy


def error_maximising(
  logits: jax.Array,
  labels: jax.Array,
  noise: jax.Array,
  penalty: float | jax.Array,
  *,
  norm: str = "squared",
) -> jax.Array:
  """-CE(logits, label) + penalty * ||noise||^2 of each row of noise.

  Unbounded below as penalty goes to 0. The norm is taken over all entries of a
  row (a sum, not a mean), so that penalty scales with the size of an input.

  Args:
    logits: float [B, C], the frozen model's outputs on `noise`.
    labels: int [B], the class on which to err.
    noise: float [B, ...].
    penalty: >= 0; may be traced.
    norm: "squared", or "plain" for the norm itself (gradient 0 at 0).

  Returns:
    [B], to be minimised over the noise; in at least float32.

  Raises:
    ValueError: shapes do not match, labels as in `cross_entropy`, penalty < 0,
      unknown norm.

  Example:
    >>> logits, noise = jnp.zeros((1, 4)), jnp.ones((1, 2, 3))
    >>> float(error_maximising(logits, jnp.array([0]), noise, 0.1)[0])
    -0.786...
  """
  losses = cross_entropy(logits, labels)
  return _noise_penalty(losses, noise, penalty, norm) - losses


def error_minimising(
  logits: jax.Array,
  labels: jax.Array,
  noise: jax.Array,
  penalty: float | jax.Array,
  *,
  norm: str = "squared",
) -> jax.Array:
  """CE(logits, label) + penalty * ||noise||^2 of each row of noise.

  The counterpart for classes to keep: inputs the model is sure about. Args,
  result and errors as in `error_maximising`.

  Example:
    >>> import jax.numpy as jnp
    >>> import jaxunlearn as ju
    >>> logits, labels = jnp.array([[50.0, 0.0]]), jnp.array([0])
    >>> noise = jnp.array([[3.0, 4.0]])  # Of squared norm 25.
    >>> ju.losses.error_minimising(logits, labels, noise, 0.1).tolist()
    [2.5]
  """
  losses = cross_entropy(logits, labels)
  return _noise_penalty(losses, noise, penalty, norm) + losses


def _noise_penalty(losses, noise, penalty, norm):
  """penalty * ||noise_b||^2 or ||noise_b||, shape and dtype as `losses`."""
  noise = arrays("noise [...]", noise)
  checks.one_of(("squared", "plain"), norm=norm)
  checks.non_negative(penalty=penalty)
  if losses.ndim != 1 or noise.ndim == 0 or len(noise) != len(losses):
    raise ValueError(
      f"Expected noise [B, ...] and logits [B, C] of the same B, got noise "
      f"{noise.shape} and {losses.shape} losses."
    )
  dtype = jnp.promote_types(losses.dtype, noise.dtype)
  rows = noise.astype(dtype).reshape(len(noise), math.prod(noise.shape[1:]))
  if norm == "squared":
    size = jnp.sum(rows**2, axis=1)
  else:
    size = optax.safe_norm(rows, 0.0, axis=1)
  return jnp.asarray(penalty, dtype) * size
