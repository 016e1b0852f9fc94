"""Adapters that count by row, and how far two of them share inputs."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp


def overlap(factors: Any, past: Any) -> jax.Array:
  """Squared products of an adapter's rows with those of earlier ones.

  Summed over matrices and requests, a mean over layers: [].

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn.language.row_adapters import overlap
    >>> path = "blocks/mlp/up/kernel"
    >>> now = {path: {"a": jnp.array([[[1.0], [0.0]]])}}  # [layers, in, r]
    >>> past = {path: jnp.array([[[[2.0], [5.0]]]])}  # [requests, ...]
    >>> float(overlap(now, past))  # The square of 1 * 2 + 0 * 5.
    4.0
  """
  products = [
    jnp.einsum("tlir,lis->tlrs", jax.lax.stop_gradient(past[path]), f["a"])
    for path, f in factors.items()
  ]
  return jnp.stack([(p**2).sum(axis=(0, 2, 3)).mean() for p in products]).sum()


def nested(factors: Any) -> Any:
  """Of `lora`, by path "blocks/PART/NAME/kernel", as `Adapters` have them.

  Example:
    >>> from jaxunlearn.language.row_adapters import nested
    >>> nested({"blocks/mlp/up/kernel": 1, "blocks/mlp/down/kernel": 2})
    {'mlp': {'up': 1, 'down': 2}}
  """
  nested: dict[str, Any] = {}
  for path, own in factors.items():
    _, part, name, _ = path.split("/")
    nested.setdefault(part, {})[name] = own
  return nested
