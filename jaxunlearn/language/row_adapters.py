"""Adapters that count by row, and how far two of them share inputs."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp


def overlap(factors: Any, past: Any) -> jax.Array:
  """Squared products of an adapter's rows with those of earlier ones.

  Summed over matrices and requests, a mean over layers: [].
  """
  products = [
    jnp.einsum("tlir,lis->tlrs", jax.lax.stop_gradient(past[path]), f["a"])
    for path, f in factors.items()
  ]
  return jnp.stack([(p**2).sum(axis=(0, 2, 3)).mean() for p in products]).sum()


def nested(factors: Any) -> Any:
  """Of `lora`, by path "blocks/PART/NAME/kernel", as `Adapters` have them."""
  nested: dict[str, Any] = {}
  for path, own in factors.items():
    _, part, name, _ = path.split("/")
    nested.setdefault(part, {})[name] = own
  return nested
