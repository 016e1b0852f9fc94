"""Intrinsic qualities of points, >= 0: what a point itself brings (see `ecoval`).

Reconstructions: the paper's own definition was not at hand. Any array [N] of
numbers >= 0 can take their place; a quality of 1 for all is the uniform one.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxunlearn.core import checks
from jaxunlearn.core.per_example import map_chunks
from jaxunlearn.core.shaped import arrays, shaped
from jaxunlearn.valuation.banzhaf import msr_values
from jaxunlearn.valuation.clusters import Clusters, labelled_points, places
from jaxunlearn.valuation.types import Utility, require_finite

_TINY = 1e-12

Quality = Callable[[jax.Array, jax.Array], jax.Array]


def confidence(logits: jax.Array, labels: jax.Array) -> jax.Array:
  """Softmax probability of the given label, under the model of all rows.

  Args:
    logits: float [N, C].
    labels: int [N], in 0 .. C - 1.

  Returns:
    float32 [N], in [0, 1]; no training beyond that of the model of all rows.

  Raises:
    ValueError: shapes that do not fit, labels out of range.

  Example:
    >>> confidence(jnp.array([[0.0, 0.0]]), jnp.array([1])).tolist()
    [0.5]
  """
  logits, labels = arrays("logits [N, C] and labels [N]", logits, labels)
  checks.labels(labels, logits.shape[1], "labels")
  p = jax.nn.softmax(logits.astype(jnp.float32))
  return jnp.take_along_axis(p, labels[:, None], axis=1)[:, 0]


def typicality(
  features: jax.Array, labels: jax.Array, *, num_classes: int
) -> Quality:
  """exp(-||x - mu_y||^2 / s): how near a point is to the mean of its class.

  s is the median over the given rows of the squared distance to the nearest mean
  of any class.

  Args:
    features: float [N, ...], of the training rows.
    labels: int [N], in 0 .. C - 1.
    num_classes: C; static.

  Returns:
    `(features [M, ...], labels [M]) -> float32 [M]` in [0, 1], for these and
    other points. Of a class without rows: 0.

  Raises:
    ValueError: no rows, shapes that do not fit, labels out of range, or
      (outside jit) features that are not finite.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import valuation
    >>> x, labels = jnp.array([[-1.0], [1.0], [9.0]]), jnp.array([0, 0, 1])
    >>> quality = valuation.typicality(x, labels, num_classes=2)
    >>> points = jnp.array([[0.0], [99.0]])
    >>> quality(points, jnp.array([0, 0])).tolist()
    [1.0, 0.0]
  """
  x, labels = labelled_points(features, labels, num_classes)
  count = jnp.zeros(num_classes).at[labels].add(1)
  sums = jnp.zeros((num_classes, x.shape[1])).at[labels].add(x)
  means = sums / jnp.maximum(count, 1)[:, None]
  means = jnp.where(count[:, None] > 0, means, jnp.inf)

  def distances(rows: jax.Array) -> jax.Array:
    to_mean = lambda mean: ((rows - mean[None]) ** 2).sum(axis=1)
    return jax.lax.map(to_mean, means).T

  nearest = map_chunks(lambda r: distances(r).min(axis=1), x, chunk_size=1024)
  scale = jnp.maximum(jnp.median(nearest), _TINY)

  def quality(features: jax.Array, labels: jax.Array) -> jax.Array:
    x, labels = labelled_points(features, labels, num_classes)
    shaped(f"features [M, {means.shape[1]}]", x)
    own = lambda rows: ((rows[0] - means[rows[1]]) ** 2).sum(axis=1)
    return jnp.exp(-map_chunks(own, (x, labels), chunk_size=1024) / scale)

  return quality


def curated(
  utility: Utility,
  features: jax.Array,
  labels: jax.Array,
  clusters: Clusters,
  key: jax.Array,
  *,
  num_classes: int,
  per_cluster: int = 4,
  num_samples: int = 300,
  strategy: str | int = "vmap",
  mesh: jax.sharding.Mesh | None = None,
) -> Quality:
  """Values of a few rows among themselves, spread over their class by a kernel.

  `per_cluster` random rows of every cluster make the curated set of p rows;
  their Banzhaf values within that set are estimated from `num_samples` models
  trained on subsets of it. A point's quality is the mean of those of its class,
  weighted by exp(-||x - x'||^2 / s), s the median squared distance of a training
  row to its nearest curated row; minus the least curated value, so that it is
  >= 0.

  Args:
    utility: of N rows.
    features: float [N, ...].
    labels: int [N].
    clusters: of these rows.
    key: PRNG key; of the curated rows and of the subsets.
    num_classes: C; static.
    per_cluster: static; all rows of a smaller cluster are taken.
    num_samples: trainings; static.
    strategy: see `Utility.many`.
    mesh: see `Utility.many`.

  Returns:
    `(features [M, ...], labels [M]) -> float32 [M]`; 0 for a class without
    curated rows.

  Raises:
    ValueError: as `typicality`; counts that are not positive, clusters or a
      utility of other rows, or (outside jit) utilities that are not finite.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from jaxunlearn import valuation
    >>> game = valuation.Utility(
    ...   lambda mask: mask @ jnp.array([1.0, 2.0, 5.0]), 3)
    >>> x, labels = jnp.array([[0.0], [1.0], [9.0]]), jnp.zeros(3, int)
    >>> clusters = valuation.Clusters(jnp.array([0, 0, 0]), x[:1], labels[:1])
    >>> quality = valuation.curated(
    ...   game, x, labels, clusters, jax.random.key(0), num_classes=1)
    >>> found = quality(x, labels)
    >>> found.shape, int(found.argmax())
    ((3,), 2)
  """
  checks.counts(per_cluster=per_cluster, num_samples=num_samples)
  x, labels = labelled_points(features, labels, num_classes)
  n = x.shape[0]
  if clusters.ids.shape != (n,) or utility.num_rows != n:
    raise ValueError(
      f"Expected clusters and a utility of {n} rows, got {clusters.ids.shape} "
      f"and {utility.num_rows}."
    )
  pick_key, draw_key = jax.random.split(key)
  k = clusters.num_clusters
  order = jax.random.permutation(pick_key, jnp.arange(n, dtype=jnp.int32))
  place = places(order, clusters.ids, k)
  p = k * per_cluster
  slot = jnp.where(place < per_cluster, clusters.ids * per_cluster + place, p)
  # Slot p and on are dropped; a slot without a row points behind the rows.
  rows = jnp.full(p, n, jnp.int32).at[slot].set(jnp.arange(n), mode="drop")
  is_row = rows < n

  def draw(index: jax.Array) -> jax.Array:
    own = jax.random.fold_in(draw_key, index)
    return jax.random.bernoulli(own, 0.5, (p,))

  index = jnp.arange(num_samples, dtype=jnp.int32)
  of_rows = lambda i: jnp.zeros(n, bool).at[rows].set(draw(i), mode="drop")
  utilities = utility.over(of_rows, index, strategy=strategy, mesh=mesh)
  require_finite((~jnp.isfinite(utilities)).sum(), num_samples)
  values, _ = msr_values(jax.lax.map(draw, index), utilities)
  values = jnp.where(is_row & jnp.isfinite(values), values, 0)
  values = values - jnp.where(is_row, values, jnp.inf).min()
  points, own = x[jnp.minimum(rows, n - 1)], labels[jnp.minimum(rows, n - 1)]

  def distances(point: jax.Array, label: jax.Array) -> jax.Array:
    distance = ((points - point[None]) ** 2).sum(axis=1)
    return jnp.where(is_row & (own == label), distance, jnp.inf)

  def near(rows):
    return jax.vmap(distances)(*rows).min(axis=1)

  scale = jnp.median(map_chunks(near, (x, labels), chunk_size=256))
  scale = jnp.maximum(jnp.where(jnp.isfinite(scale), scale, 1), _TINY)

  def smooth(point: jax.Array, label: jax.Array) -> jax.Array:
    distance = distances(point, label)
    # Relative to the nearest, so that some weight is 1 however far away.
    nearest = jnp.where(jnp.isfinite(distance.min()), distance.min(), 0)
    weight = jnp.exp(-(distance - nearest) / scale)
    return (weight * values).sum() / jnp.maximum(weight.sum(), _TINY)

  def quality(features: jax.Array, labels: jax.Array) -> jax.Array:
    points = labelled_points(features, labels, num_classes)
    shaped(f"features [M, {x.shape[1]}]", points[0])
    rows_of = lambda rows: jax.vmap(smooth)(*rows)
    return map_chunks(rows_of, points, chunk_size=256)

  return quality
