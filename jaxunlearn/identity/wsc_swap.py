"""WSC-swap: faces are swapped by attributes from which identities were removed.

Source: Ren et al. (2023), arXiv:2307.07928, ABSTRACT ONLY: no code is public and
the paper's body was not read. That identities are removed by adversarial
training, and that what is no identity is kept by a reader of 3DMM coefficients,
is the paper's; every formula below is ours.
Class: objectives, of two players: the classifier of identities minimises cross
entropy on codes that are not differentiated, encoder and generator `swap_loss`
with the classifier fixed (`core.alternate`). Model state: none.

That THIS classifier is lost is no evidence: ask a fresh probe, `identity.audit`.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxunlearn.core import checks
from jaxunlearn.identity.vectors import cosine, unit
from jaxunlearn.losses import kl_to_target, squared_error


def removal(logits: jax.Array) -> jax.Array:
  """KL(uniform || softmax) of logits [B, K] of identities, [B]: 0 iff uniform."""
  return kl_to_target(logits, jnp.full(logits.shape, 1 / logits.shape[-1]))


def swap_loss(
  generated: jax.Array,
  target: jax.Array,
  codes: tuple[jax.Array, jax.Array],
  attributes: tuple[jax.Array, jax.Array],
  identity_logits: jax.Array,
  is_same: jax.Array,
  weights: tuple[float | jax.Array, ...] = (1.0, 1.0, 1.0, 1.0),
) -> jax.Array:
  """What encoder and generator minimise, [B].

  Args:
    generated: float [B, ...], results.
    target: float [B, ...], the faces whose attributes they have.
    codes: recogniser embeddings of `generated` and of the source, [B, D].
    attributes: read of `generated` and of `target`, [B, A].
    identity_logits: of the attribute code, [B, K], by the classifier.
    is_same: bool [B], whether source and target are one image.
    weights: >= 0, of `removal`, of the squared error of attributes, of one minus
      the cosine of codes, and of the absolute error where `is_same`.
  """
  for name, value in zip(("removal", "keep", "identity", "rebuild"), weights):
    checks.non_negative(**{f"weight of {name}": value})
  rebuilt = jnp.abs(generated - target).reshape(len(target), -1).mean(axis=1)
  parts = (
    removal(identity_logits),
    squared_error(*attributes),
    1 - cosine(*codes),
    jnp.where(is_same, rebuilt, 0.0),
  )
  return jnp.stack([w * part for w, part in zip(weights, parts)]).sum(axis=0)


def consistency(codes: jax.Array) -> jax.Array:
  """The mean cosine of pairs of results [T, D] of one source: [] in [-1, 1].

  Ours. The leak beside it is the cosine of the results' and the targets' codes.
  """
  count = len(codes)
  checks.count(2, results=count)
  total = jnp.square(unit(codes).sum(axis=0)).sum()
  return (total - count) / (count * (count - 1))
