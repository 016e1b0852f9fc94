"""Clusters of like rows with one label, and how typical a row of them is.

What `ecoval` starts from; `quality` has the other intrinsic qualities.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxunlearn.core import checks
from jaxunlearn.core.per_example import map_chunks
from jaxunlearn.core.shaped import arrays


class Clusters(NamedTuple):
  """Rows in K groups, each of one class.

  Attributes:
    ids: int32 [N], in 0 .. K - 1.
    centroids: float32 [K, D]; inf for a cluster that never had a row.
    labels: int32 [K], the class of each cluster; clusters
      y * clusters_per_class and on are those of class y.
  """

  ids: jax.Array
  centroids: jax.Array
  labels: jax.Array

  @property
  def num_clusters(self) -> int:
    """K."""
    return self.labels.shape[0]


def cluster_rows(
  features: jax.Array,
  labels: jax.Array,
  key: jax.Array,
  *,
  num_classes: int,
  clusters_per_class: int = 4,
  num_iterations: int = 25,
  num_restarts: int = 4,
  chunk_size: int = 1024,
) -> Clusters:
  """K-means within every class: Lloyd's iterations, all classes at once.

  Starts from random rows of each class; of several starts the one with the
  least sum of squared distances is taken.

  Args:
    features: float [N, ...], flattened: standardised inputs, their principal
      components, or a model's activations.
    labels: int [N], in 0 .. C - 1.
    key: PRNG key; of the starts.
    num_classes: C; static.
    clusters_per_class: static; K = C * clusters_per_class <= N. A class with
      fewer rows leaves some of its clusters empty.
    num_iterations: static.
    num_restarts: static; runs side by side.
    chunk_size: static; rows whose distances are computed at a time.

  Returns:
    The clusters.

  Raises:
    ValueError: no rows, fewer rows than clusters, counts that are not positive,
      labels out of range, or (outside jit) features that are not finite.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from jaxunlearn import valuation
    >>> x = jnp.array([[0.0], [0.1], [9.0], [9.1]])
    >>> found = valuation.cluster_rows(
    ...   x, jnp.zeros(4, int), jax.random.key(0), num_classes=1,
    ...   clusters_per_class=2)
    >>> [round(c, 2) for c in sorted(found.centroids.ravel().tolist())]
    [0.05, 9.05]
  """
  checks.counts(
    num_iterations=num_iterations,
    num_restarts=num_restarts,
    chunk_size=chunk_size,
  )
  checks.counts(clusters_per_class=clusters_per_class)
  x, labels = labelled_points(features, labels, num_classes)
  n, k = x.shape[0], num_classes * clusters_per_class
  if k > n:
    raise ValueError(
      f"Expected num_classes * clusters_per_class <= {n}, the rows, got "
      f"{num_classes} * {clusters_per_class} = {k}."
    )
  start = lambda key: _first_centroids(
    x, labels, key, num_classes, clusters_per_class
  )

  def step(centroids: jax.Array, _: None) -> tuple[jax.Array, None]:
    ids, _ = _nearest(x, labels, centroids, clusters_per_class, chunk_size)
    count = jnp.zeros(k).at[ids].add(1)
    sums = jnp.zeros(centroids.shape).at[ids].add(x)
    means = sums / jnp.maximum(count, 1)[:, None]
    return jnp.where(count[:, None] > 0, means, centroids), None

  def run(key: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    centroids, _ = jax.lax.scan(step, start(key), None, length=num_iterations)
    ids, distance = _nearest(
      x, labels, centroids, clusters_per_class, chunk_size
    )
    return centroids, ids, distance.sum()

  centroids, ids, inertia = jax.vmap(run)(jax.random.split(key, num_restarts))
  best = jnp.argmin(inertia)
  classes = jnp.arange(num_classes, dtype=jnp.int32)
  return Clusters(
    ids[best], centroids[best], jnp.repeat(classes, clusters_per_class)
  )


def nearest_clusters(
  clusters: Clusters,
  features: jax.Array,
  labels: jax.Array,
  *,
  num_classes: int,
  chunk_size: int = 1024,
) -> jax.Array:
  """The nearest cluster of its class for points that were not clustered.

  Args:
    clusters: of other rows, in the same feature space.
    features: float [M, ...].
    labels: int [M].
    num_classes: C; static.
    chunk_size: static; points at a time.

  Returns:
    int32 [M].

  Raises:
    ValueError: as `cluster_rows`; another number of features or classes.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import valuation
    >>> clusters = valuation.Clusters(
    ...   ids=jnp.array([0, 1]), centroids=jnp.array([[0.0], [9.0]]),
    ...   labels=jnp.array([0, 0]))
    >>> points, labels = jnp.array([[1.0], [8.0]]), jnp.array([0, 0])
    >>> valuation.nearest_clusters(
    ...   clusters, points, labels, num_classes=1).tolist()
    [0, 1]
  """
  x, labels = labelled_points(features, labels, num_classes)
  k, width = clusters.centroids.shape
  if x.shape[1] != width or k % num_classes:
    raise ValueError(
      f"Expected features [M, {width}] and num_classes that divides the {k} "
      f"clusters, got {x.shape} and {num_classes}."
    )
  per_class = k // num_classes
  return _nearest(x, labels, clusters.centroids, per_class, chunk_size)[0]


def interleaved(
  values: jax.Array, cluster_ids: jax.Array, *, num_clusters: int
) -> jax.Array:
  """Ranks within groups: what to prune by, so that none goes as a whole.

  Cluster-wise values put whole clusters last; taking the lowest of these ranks
  takes the same share of every group, its lowest values first. Groups are best
  classes: clusters of bad rows alone should go as a whole.

  Args:
    values: float [N]; nan counts as highest.
    cluster_ids: int [N], in 0 .. K - 1; clusters, or classes.
    num_clusters: K; static.

  Returns:
    float32 [N], strictly in (0, 1): (place + 1/2) / size of the cluster.

  Raises:
    ValueError: shapes that differ, ids out of range.

  Example:
    >>> ranks = interleaved(
    ...   jnp.array([3.0, 1.0, -5.0]), jnp.array([0, 0, 1]), num_clusters=2)
    >>> ranks.tolist()
    [0.75, 0.25, 0.5]
  """
  values, ids = arrays("values [N] and cluster_ids [N]", values, cluster_ids)
  checks.labels(ids, num_clusters, "cluster_ids")
  place = places(jnp.argsort(values), ids, num_clusters)
  sizes = jnp.zeros(num_clusters).at[ids].add(1)
  return (place + 0.5) / sizes[ids]


def places(order: jax.Array, ids: jax.Array, num_clusters: int) -> jax.Array:
  """Each row's place within its cluster, from 0, when rows come in an order.

  Args:
    order: int [N], row numbers.
    ids: int [N], in 0 .. K - 1.
    num_clusters: K; static.

  Returns:
    int32 [N].
  """
  n = ids.shape[0]
  # Cluster by cluster, and within each in the given order.
  grouped = order[jnp.argsort(ids[order], stable=True)]
  sizes = jnp.zeros(num_clusters, jnp.int32).at[ids].add(1)
  first = jnp.cumsum(sizes) - sizes
  place = jnp.arange(n, dtype=jnp.int32) - first[ids[grouped]]
  return jnp.zeros(n, jnp.int32).at[grouped].set(place.astype(jnp.int32))


def labelled_points(
  features: jax.Array, labels: jax.Array, num_classes: int
) -> tuple[jax.Array, jax.Array]:
  """Features [N, D] in float32 and labels int32 [N], N >= 1, checked.

  Raises:
    ValueError: they are not that, or (outside jit) not finite or out of range.
  """
  features, labels = arrays(
    "features [N > 0, ..., D] and labels [N]", features, labels
  )
  checks.counts(num_classes=num_classes)
  checks.labels(labels, num_classes, "labels")
  checks.finite(features, "features")
  flat = features.reshape(features.shape[0], -1).astype(jnp.float32)
  return flat, labels.astype(jnp.int32)


def _first_centroids(x, labels, key, num_classes, per_class):
  """Random rows of each class, [K, D]; inf where it has too few."""
  order = jax.random.permutation(key, jnp.arange(len(labels), dtype=jnp.int32))
  place = places(order, labels, num_classes)
  slot = jnp.where(
    place < per_class, labels * per_class + place, np.iinfo("i4").max
  )
  empty = jnp.full((num_classes * per_class, x.shape[1]), jnp.inf)
  return empty.at[slot].set(x, mode="drop")


def _nearest(x, labels, centroids, per_class, chunk_size):
  """Nearest centroid of a row's own class, and its squared distance.

  By one matrix product with the centroids of all classes: gathering those of a
  row's class would cost more than the products that are not needed.
  """
  is_there = jnp.isfinite(centroids).all(axis=1)
  # About their mean, so that large coordinates cost no digits.
  offset = x.mean(axis=0)
  centre = jnp.where(is_there[:, None], centroids - offset[None], 0)
  lengths = (centre**2).sum(axis=1)
  classes = jnp.arange(len(centroids), dtype=labels.dtype) // per_class

  def chunk(rows):
    points, label = rows
    points = points - offset[None]
    dots = jnp.matmul(points, centre.T, precision="highest")
    distance = (points**2).sum(axis=1)[:, None] - 2 * dots + lengths[None]
    usable = is_there[None] & (classes[None] == label[:, None])
    distance = jnp.where(usable, jnp.maximum(distance, 0), jnp.inf)
    # Of a class without centroids the first cluster, which is empty.
    best = jnp.argmin(distance, axis=1).astype(jnp.int32)
    nearest = distance.min(axis=1)
    own = jnp.where(jnp.isfinite(nearest), best, label * per_class)
    return own, nearest

  return map_chunks(chunk, (x, labels), chunk_size=chunk_size)
