"""A fixed random expansion of features, for the heads of `acu`."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from jaxunlearn.core import checks


def random_relu(
  key: jax.Array, num_inputs: int, num_features: int, *, has_bias: bool = True
) -> Callable[[jax.Array], jax.Array]:
  """A fixed random expansion relu(x B) of features, never trained.

  Args:
    key: decides B, Gaussian of variance 2 / num_inputs.
    num_inputs: d; static.
    num_features: D, the constant 1 included; static.
    has_bias: static; whether the last feature is the constant 1.

  Returns:
    `x [B, ...] -> [B, num_features]`, x flattened.

  Raises:
    ValueError: a count that is not positive.

  Example:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import continual
    >>> expand = continual.random_relu(jax.random.key(0), 4, num_features=8)
    >>> z = expand(jnp.ones((3, 2, 2)))
    >>> z.shape, z[:, -1].tolist()
    ((3, 8), [1.0, 1.0, 1.0])
  """
  checks.counts(num_inputs=num_inputs, num_features=num_features)
  width = num_features - int(has_bias)
  kernel = jax.random.normal(key, (num_inputs, width))
  kernel = kernel * np.sqrt(2 / num_inputs).astype(np.float32)

  def expand(x: jax.Array) -> jax.Array:
    z = jax.nn.relu(x.reshape(x.shape[0], -1) @ kernel)
    if not has_bias:
      return z
    return jnp.concatenate([z, jnp.ones((x.shape[0], 1), z.dtype)], axis=1)

  return expand
