"""Whether an input is like some rows: O3's out-of-distribution detector.

Source: O3 (2024), arXiv:2407.10223. There an encoder of its own (RoBERTa-large) is
tuned for each request by a contrastive loss, and a one-class machine joins the
scores of its layers. Here the features are the frozen language model's own, of a
prompt's last token after each block, and the scores of layers are standardised
and averaged. Covariances are shrunk: a request has fewer rows than features, and
for the same reason each of its rows is scored by what was fitted on the others: a
row that was fitted is near itself and says nothing of new ones.

Where a machine learns weights of two distances their signs do not matter; in a mean
they do. There a score is -c (largest cosine) - half the squared Mahalanobis
distance, which an input far away lets rise by one half and fall by the other; here
both rise. And an input that is nearer than most rows are counts as one of them.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

_TINY = 1e-6


class Detector(NamedTuple):
  """What is known of a request's rows.

  Attributes:
    unit: [N, L, D], their features of length 1; 0 of all other rows.
    member: bool [N], these rows.
    mean: [L, D], of their features.
    precision: [L, D, D], of them.
    centre: [L], mean of a layer's scores over these rows, each as a new one.
    spread: [L], their standard deviation.
    modes: [2], mean joined scores of two parts of these rows, each as a new one.
    width: [], the larger of their standard deviations.
  """

  unit: jax.Array
  member: jax.Array
  mean: jax.Array
  precision: jax.Array
  centre: jax.Array
  spread: jax.Array
  modes: jax.Array
  width: jax.Array


def fit(
  features: jax.Array,
  member: jax.Array,
  *,
  similarity: float | jax.Array = 10.0,
  shrinkage: float | jax.Array = 0.1,
) -> Detector:
  """Fits a detector; in five parts, to see how rows score that are new to it.

  Args:
    features: [N, L, D].
    member: bool [N], the request's rows.
    similarity: c, of the largest cosine beside the Mahalanobis distance.
    shrinkage: in [0, 1], of the covariance towards a multiple of the identity.

  Example:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> from jaxunlearn.language import detector
    >>> own = jnp.arange(40) < 20
    >>> noise = jax.random.normal(jax.random.key(0), (40, 2, 3))
    >>> features = noise + jnp.where(own, 5.0, -5.0)[:, None, None]
    >>> found = detector.fit(features, own)
    >>> found.mean.round().tolist()  # Of each layer, near 5.
    [[5.0, 5.0, 5.0], [5.0, 5.0, 5.0]]
  """
  # Parts of no period, since rows often come in turns, a question of each kind.
  place = jnp.cumsum(member) * 0.618034 % 1
  part = jnp.where(member, (5 * place).astype(jnp.int32), -1)

  def as_new(number: jax.Array) -> jax.Array:
    one = _moments_of(features, member & (part != number), shrinkage)
    return layer_scores(one, features, similarity)

  every = jax.lax.map(as_new, jnp.arange(5))
  raw = jnp.take_along_axis(every, jnp.maximum(part, 0)[None, :, None], axis=0)
  centre, spread = _moments(raw[0], member)
  spread += _TINY
  joined = ((raw[0] - centre[None]) / spread[None]).mean(axis=1, keepdims=True)
  one, near = _moments(joined, member & (part % 2 == 0))
  other, far = _moments(joined, member & (part % 2 == 1))
  return _moments_of(features, member, shrinkage)._replace(
    centre=centre,
    spread=spread,
    modes=jnp.concatenate([one, other]),
    width=jnp.maximum(near, far)[0] + _TINY,
  )


def _moments_of(
  features: jax.Array, member: jax.Array, shrinkage: float | jax.Array
) -> Detector:
  """Of some rows, before it is known how new ones score."""
  count = jnp.maximum(member.sum(), 1)
  mean = jnp.einsum("n,nld->ld", member / count, features)
  rest = jnp.where(member[:, None, None], features - mean[None], 0)
  cov = jnp.einsum("nld,nle->lde", rest, rest) / count
  size = cov.shape[-1]
  level = jnp.trace(cov, axis1=1, axis2=2)[:, None, None] / size
  eye = jnp.eye(size)[None]
  shrunk = (1 - shrinkage) * cov + shrinkage * level * eye
  unit = jnp.where(member[:, None, None], _unit(features), 0)
  precision = jnp.linalg.inv(shrunk + _TINY * eye)
  layers = jnp.zeros(cov.shape[0])
  more = layers, 1 + layers, jnp.zeros(2), jnp.ones(())
  return Detector(unit, member, mean, precision, *more)


def layer_scores(
  detector: Detector, features: jax.Array, similarity: float | jax.Array
) -> jax.Array:
  """Half the squared Mahalanobis distance - c (largest cosine), [B, L].

  Example:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> from jaxunlearn.language import detector
    >>> own = jnp.arange(40) < 20
    >>> noise = jax.random.normal(jax.random.key(0), (40, 2, 3))
    >>> features = noise + jnp.where(own, 5.0, -5.0)[:, None, None]
    >>> found = detector.fit(features, own)
    >>> scores = detector.layer_scores(found, features, similarity=10.0)
    >>> scores.shape, int((scores[~own] > scores[own].max()).sum())
    ((40, 2), 40)
  """
  near = jnp.einsum("bld,nld->bnl", _unit(features), detector.unit)
  near = jnp.where(detector.member[None, :, None], near, -1.0).max(axis=1)
  rest = features - detector.mean[None]
  far = jnp.einsum("bld,lde,ble->bl", rest, detector.precision, rest)
  return 0.5 * far - similarity * near


def weight(
  detector: Detector,
  features: jax.Array,
  *,
  similarity: float | jax.Array = 10.0,
  sharpness: float | jax.Array = 10.0,
  floor: float | jax.Array = 0.2,
) -> jax.Array:
  """How much inputs are like the request's rows, [B] in {0} and [floor, 1).

  sigmoid(sharpness p - 2), p the share of a mixture of two normals that lies
  farther out than the input, 1 where it is nearer than their middle; 0 below the
  floor.

  Args:
    detector: see `fit`.
    features: [B, L, D].
    similarity: as given to `fit`.
    sharpness: zeta.
    floor: weights below are 0: without one none would be.

  Example:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> from jaxunlearn.language import detector
    >>> own = jnp.arange(40) < 20
    >>> noise = jax.random.normal(jax.random.key(0), (40, 2, 3))
    >>> features = noise + jnp.where(own, 5.0, -5.0)[:, None, None]
    >>> found = detector.fit(features, own)
    >>> on = detector.weight(found, features) > 0
    >>> int(on[:20].sum()), int(on[20:].sum())
    (20, 0)
  """
  raw = layer_scores(detector, features, similarity)
  z = (raw - detector.centre[None]) / detector.spread[None]
  far = jnp.maximum(z.mean(axis=1), detector.modes.mean())
  p = tail(far, detector.modes, detector.width)
  found = jax.nn.sigmoid(sharpness * p - 2)
  return jnp.where(found < floor, 0.0, found)


def tail(d: jax.Array, modes: jax.Array, width: jax.Array) -> jax.Array:
  """Two-sided tail of 0.5 N(m1, s) + 0.5 N(m2, s) about its middle, [...].

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn.language.detector import tail
    >>> d, modes = jnp.array([0.0, 1.0, 2.0]), jnp.array([-1.0, 1.0])
    >>> [round(p, 3) for p in tail(d, modes, jnp.array(1.0)).tolist()]
    [1.0, 0.523, 0.16]
  """
  cdf = lambda x: sum(jax.scipy.stats.norm.cdf((x - m) / width) for m in modes)
  one, other = cdf(d) / 2, cdf(modes.sum() - d) / 2
  return 1 - jnp.maximum(one, other) + jnp.minimum(one, other)


def _unit(features: jax.Array) -> jax.Array:
  norm = jnp.linalg.norm(features, axis=-1, keepdims=True)
  return features / jnp.maximum(norm, 1e-12)


def _moments(values: jax.Array, rows: jax.Array) -> Any:
  """Mean and deviation [K] of values [N, K] over some rows."""
  share = (rows / jnp.maximum(rows.sum(), 1))[:, None]
  mean = (share * values).sum(axis=0)
  return mean, jnp.sqrt((share * (values - mean[None]) ** 2).sum(axis=0))
