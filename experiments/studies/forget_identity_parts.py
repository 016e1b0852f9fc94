"""What a representation is, and small networks for it; all of 64 numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

import jaxunlearn as ju
from jaxunlearn import models
from jaxunlearn.core.tasks import Task

WIDTH, SIZE = 16, 64


class Representation(NamedTuple):
  """What is trained, and how it is looked at.

  Attributes:
    task: with rows x [B, 64], label, context, live.
    view: `(variables, rows) -> [B, D]`, what is audited.
    gallery: the same of the images that an audit knows; real ones of a generator.
    logits: its own read-out of identities, or None.
    respond: what an anchor is put on.
    anchor: what the original says of the class.
    anybody: what it says of all people at once.
  """

  task: Task
  view: Callable[..., jax.Array]
  gallery: Callable[..., jax.Array]
  logits: Callable[..., jax.Array] | None
  respond: Callable[..., jax.Array]
  anchor: Callable[..., jax.Array]
  anybody: Callable[..., jax.Array]


def net_of(outputs: int, inputs: int = SIZE) -> tuple[Any, Any]:
  """`key -> params` and `(params, x) -> [B, outputs]` of a small network."""
  module = models.MLP(outputs, hidden=(32,))
  x = jnp.zeros((1, inputs))
  return (
    lambda key: module.init(key, x)["params"],
    lambda params, x: module.apply({"params": params}, x),
  )


def fresh(key: jax.Array, **parts: Any) -> dict[str, Any]:
  """Params by name: of a network, or normal numbers of a shape."""

  def one(name: str, part: Any) -> Any:
    own = ju.derive(key, name)
    if callable(part):
      return part(own)
    return jax.random.normal(own, part) / part[0] ** 0.5

  return {name: one(name, part) for name, part in parts.items()}
