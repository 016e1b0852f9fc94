"""EcoVal: values of clusters of rows, shared out among their rows.

Class: heuristic. Data access: the utility, a cluster and a quality for every
row. Cost: K + 1 utilities for K clusters, whatever N.

Source: Tarun et al. (2024), arXiv:2402.09288 (KDD 2024); its repository holds no
code. What follows the paper (its abstract and published reviews of it): rows
are grouped into clusters; a cluster's value is what the utility loses without
it; performance is read as a production function, from which a row's value
combines an extrinsic part, the price of its cluster among the other data, and
an intrinsic part, what the row itself brings; and points outside of the data
have values without a training. A RECONSTRUCTION, made without the body of the
paper, is everything below that line: the form of the production function, both
rules, the definitions of quality, and the defaults.

With q_i >= 0 the quality of row i and e_c the sum of q over cluster c, let
U = A prod_c e_c^gamma_c (Cobb-Douglas). The marginal product of cluster c is
gamma_c U / e_c, a price for a unit of quality, so that

    share:    phi_i = V_c q_i / e_c,    V_c = gamma_c U;
    additive: phi_i = z(V_c / |C_c|) + w z(q_i),

z standardising over all rows. "share" keeps the cluster's value; "additive" is a
ranking only. V_c is "leave_out", U(D) - U(D without c), or "elasticity", gamma_c
from what U loses with a part of the cluster.

Rows pruned by the lowest "share" values go by whole clusters, and classes lose
coverage where clusters are large. What helped on digits and Adult (500 rows, a
fifth of the labels flipped): "additive" instead, clusters of a handful of rows,
the mean over a few clusterings; on digits also ranks within classes
(`clusters.interleaved` with the labels for ids). Ranks within clusters did harm:
flipped rows sit together in clusters of their own, which must go first.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxunlearn.core import checks
from jaxunlearn.core.legacy import old_fields
from jaxunlearn.core.shaped import arrays
from jaxunlearn.valuation.clusters import (
  Clusters,
  nearest_clusters,
  places,
)
from jaxunlearn.valuation.types import Utility, Valuation, require_finite

RULES = ("share", "additive")
CLUSTER_VALUES = ("leave_out", "elasticity")
_TINY = 1e-12
_LEAST_UTILITY = 1e-6


class EcoVal(NamedTuple):
  """Values, and what values of further points are made of.

  Attributes:
    values: float32 [N].
    cluster_values: float32 [K], V_c; 0 for an empty cluster.
    elasticities: float32 [K], gamma_c; V_c / U(D) for "leave_out", nan where
      U(D) is not positive.
    cluster_sizes: int32 [K], rows.
    cluster_quality: float32 [K], what "share" divides by (of inverted qualities
      where they were).
    is_uniform: bool [K], clusters whose qualities are all 0 (or empty ones): the
      quality of every row counts as 1.
    price_moments: float32 [2], mean and standard deviation over rows of
      V_c / |C_c|.
    quality_moments: float32 [2], those of the quality.
    utility_full: float32 [], U(D).
    num_evaluations: int32 [], K + 1.
  """

  values: jax.Array
  cluster_values: jax.Array
  elasticities: jax.Array
  cluster_sizes: jax.Array
  cluster_quality: jax.Array
  is_uniform: jax.Array
  price_moments: jax.Array
  quality_moments: jax.Array
  utility_full: jax.Array
  num_evaluations: jax.Array

  def as_valuation(self) -> Valuation:
    """The same as other estimators have it; standard errors are nan."""
    return Valuation(
      self.values,
      jnp.full_like(self.values, jnp.nan),
      self.num_evaluations,
      self.utility_full,
      jnp.array(True),
    )


class PriceRule(NamedTuple):
  """How a cluster's value is shared among its rows.

  Attributes:
    kind: "share" or "additive"; static.
    quality_weight: w of "additive"; may be traced.
    invert_negative: static; in a cluster with V_c < 0 the worst row, not the
      best, bears most of the loss: 1 / q takes the place of q. For "share" only.
  """

  kind: str = "share"
  quality_weight: float | jax.Array = 1.0
  invert_negative: bool = False


PRICE = PriceRule()


_OLD = {
  "rule": "kind",
  "quality_weight": "quality_weight",
  "invert_negative": "invert_negative",
}


@old_fields(price=_OLD)
def ecoval_values(
  utility: Utility,
  cluster_ids: jax.Array,
  quality: jax.Array | None = None,
  *,
  num_clusters: int,
  price: PriceRule = PRICE,
  cluster_value: str = "leave_out",
  removed_share: float | jax.Array = 0.5,
  constant_returns: bool = False,
  key: jax.Array | None = None,
  **mapping: Any,
) -> EcoVal:
  """Values of rows from those of their clusters.

      groups = cluster_rows(x, label, key, num_classes=10)
      found = ecoval_values(
        utility, groups.ids, confidence(logits, label),
        num_clusters=groups.num_clusters)

  Args:
    utility: of N rows. A log-likelihood tells clusters apart that an accuracy
      does not.
    cluster_ids: int [N], in 0 .. K - 1; may be traced.
    quality: float [N], >= 0, see `quality`; None is 1 for every row. May be
      traced.
    num_clusters: K <= N; static. Empty clusters are allowed and cost a utility.
    price: from the value of a cluster to those of its rows.
    cluster_value: "leave_out" or "elasticity"; static.
    removed_share: rho, of the rows of a cluster that "elasticity" removes, at
      random, in (0, 1); at least one row, and not all of two or more. May be
      traced.
    constant_returns: static; scales the elasticities to add up to 1, and so the
      values to U(D). Needs a utility of all rows > 0 and elasticities whose sum
      is.
    key: PRNG key of the removed rows; only "elasticity" needs it.
    **mapping: `strategy` and `mesh`; see `Utility.many`.

  Returns:
    See `EcoVal`. Under jit, bad numbers make values nan.

  Raises:
    ValueError: no rows, K < 1 or K > N, ids that are out of range, a quality
      that is negative or not finite, an unknown rule or cluster value,
      invert_negative with "additive", a share outside (0, 1), "elasticity"
      without a key; and outside jit: "elasticity" or constant returns with a
      utility of all rows <= 0, constant returns of elasticities with a sum <= 0,
      utilities that are not finite.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import valuation
    >>> game = valuation.Utility(
    ...   lambda mask: mask @ jnp.array([1.0, 2.0, 5.0]), 3)
    >>> found = valuation.ecoval_values(
    ...   game, jnp.array([0, 0, 1]), num_clusters=2)
    >>> found.values.tolist(), found.cluster_values.tolist()
    ([1.5, 1.5, 5.0], [3.0, 5.0])
  """
  _check_rule(price)
  checks.one_of(CLUSTER_VALUES, cluster_value=cluster_value)
  n, k = utility.num_rows, num_clusters
  checks.counts(num_rows=n, num_clusters=k)
  if k > n:
    raise ValueError(f"Expected num_clusters <= {n}, the rows, got {k}.")
  ids, q = _checked_rows(cluster_ids, quality, n, k)
  sizes = jnp.zeros(k, jnp.int32).at[ids].add(1)
  removed = jnp.ones(n, bool)
  if cluster_value == "elasticity":
    removed = _removed_part(ids, sizes, removed_share, key)
  # Number K leaves nothing out.
  utilities = utility.over(
    lambda c: ~((ids == c) & removed),
    jnp.arange(k + 1, dtype=jnp.int32),
    **mapping,
  )
  require_finite((~jnp.isfinite(utilities)).sum(), k + 1)
  full, without = utilities[k], utilities[:k]
  if cluster_value == "elasticity" or constant_returns:
    _require_positive("a utility of all rows > 0, such as an accuracy", full)
  if cluster_value == "elasticity":
    whole, counted, _ = _effective(q, ids, sizes)
    left = jnp.zeros(k).at[ids].add(jnp.where(removed, 0, counted))
    shares = jnp.where(sizes > 0, left / jnp.maximum(whole, _TINY), 1)
    gamma = _elasticities(full, without, shares)
  else:
    gamma = (full - without) / jnp.where(full > 0, full, jnp.nan)
  if constant_returns:
    total = gamma.sum()
    _require_positive("elasticities with a sum > 0", total)
    gamma = gamma / jnp.where(total > 0, total, jnp.nan)
  value = full - without
  if cluster_value == "elasticity" or constant_returns:
    value = gamma * full
  per_row = value / jnp.maximum(sizes, 1)
  own = _inverted(q, value[ids] < 0) if price.invert_negative else q
  effective, own, is_uniform = _effective(own, ids, sizes)
  found = EcoVal(
    values=jnp.zeros(n),
    cluster_values=value,
    elasticities=gamma,
    cluster_sizes=sizes,
    cluster_quality=effective,
    is_uniform=is_uniform,
    price_moments=jnp.stack([per_row[ids].mean(), per_row[ids].std()]),
    quality_moments=jnp.stack([q.mean(), q.std()]),
    utility_full=full,
    num_evaluations=jnp.asarray(k + 1, jnp.int32),
  )
  values = _share(found, ids, own)
  if price.kind == "additive":
    values = _additive(found, ids, q, price.quality_weight)
  return found._replace(values=values)


@old_fields(price=_OLD)
def ecoval_of_points(
  found: EcoVal,
  clusters: Clusters,
  features: jax.Array,
  labels: jax.Array,
  quality: jax.Array | None = None,
  *,
  num_classes: int,
  price: PriceRule = PRICE,
) -> jax.Array:
  """Values of points that were not in the data, without a training.

  A point belongs to the nearest cluster of its class and has that cluster's
  price for its own quality: V_c q / e_c, or the additive rule.

  Args:
    found: values of the data.
    clusters: of the data; `found` has to be made with them.
    features: float [M, ...], in the space of the clusters.
    labels: int [M].
    quality: float [M], >= 0, of the kind that the data's was; None is 1.
    num_classes: C; static.
    price: as it was in `ecoval_values`.

  Returns:
    float32 [M]. Points that are the data's own rows get the values that they
    have there, as far as they are nearest to the cluster that they were in.

  Raises:
    ValueError: as `ecoval_values` and `nearest_clusters`; another number of clusters.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import valuation
    >>> game = valuation.Utility(
    ...   lambda mask: mask @ jnp.array([1.0, 2.0, 5.0]), 3)
    >>> clusters = valuation.Clusters(
    ...   ids=jnp.array([0, 0, 1]), centroids=jnp.array([[0.0], [9.0]]),
    ...   labels=jnp.array([0, 0]))
    >>> found = valuation.ecoval_values(game, clusters.ids, num_clusters=2)
    >>> points, labels = jnp.array([[1.0], [8.0]]), jnp.array([0, 0])
    >>> valuation.ecoval_of_points(
    ...   found, clusters, points, labels, num_classes=1).tolist()
    [1.5, 5.0]
  """
  _check_rule(price)
  k = clusters.num_clusters
  if found.cluster_values.shape != (k,):
    raise ValueError(
      f"Expected values of {k} clusters, those given, got "
      f"{found.cluster_values.shape}."
    )
  ids = nearest_clusters(clusters, features, labels, num_classes=num_classes)
  ids, q = _checked_rows(ids, quality, ids.shape[0], k)
  if price.kind == "additive":
    return _additive(found, ids, q, price.quality_weight)
  if price.invert_negative:
    q = _inverted(q, found.cluster_values[ids] < 0)
  return _share(found, ids, jnp.where(found.is_uniform[ids], 1, q))


def _share(found: EcoVal, ids: jax.Array, q: jax.Array) -> jax.Array:
  """V_c q_i / e_c."""
  effective = found.cluster_quality
  price = found.cluster_values / jnp.where(effective > 0, effective, 1)
  return price[ids] * q


def _additive(
  found: EcoVal, ids: jax.Array, q: jax.Array, weight: float | jax.Array
) -> jax.Array:
  """z(V_c / |C_c|) + w z(q_i)."""
  price = found.cluster_values / jnp.maximum(found.cluster_sizes, 1)
  score = lambda x, moments: jnp.where(
    moments[1] > 0,
    (x - moments[0]) / jnp.where(moments[1] > 0, moments[1], 1),
    0,
  )
  return score(price[ids], found.price_moments) + weight * score(
    q, found.quality_moments
  )


def _effective(
  q: jax.Array, ids: jax.Array, sizes: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Sums of quality [K], the qualities behind them, and a flag [K].

  A cluster whose qualities are all 0, flagged, has 1 for each row instead.
  """
  sums = jnp.zeros(sizes.shape).at[ids].add(q)
  none = sums <= _TINY
  return jnp.where(none, sizes, sums), jnp.where(none[ids], 1, q), none


def _check_rule(price: PriceRule) -> None:
  checks.one_of(RULES, kind=price.kind)
  if price.invert_negative and price.kind != "share":
    raise ValueError(
      "Expected invert_negative with kind='share' only, got "
      f"kind={price.kind!r}."
    )


def _require_positive(what: str, value: jax.Array) -> None:
  if checks.is_concrete(value) and not float(value) > 0:
    raise ValueError(
      f"Expected {what}, for elasticities or constant returns, got "
      f"{float(value):g}."
    )


def _inverted(q: jax.Array, where: jax.Array) -> jax.Array:
  return jnp.where(where, 1 / jnp.maximum(q, 1e-6), q)


def _removed_part(
  ids: jax.Array,
  sizes: jax.Array,
  share: float | jax.Array,
  key: jax.Array | None,
) -> jax.Array:
  """A random part of every cluster, bool [N]."""
  if key is None:
    raise ValueError("Expected a key for cluster_value='elasticity', got None.")
  if checks.is_concrete(share) and not 0 < float(share) < 1:
    raise ValueError(f"Expected removed_share in (0, 1), got {share}.")
  order = jax.random.permutation(key, jnp.arange(ids.shape[0], dtype=jnp.int32))
  place = places(order, ids, sizes.shape[0])
  count = jnp.round(share * sizes).astype(jnp.int32)
  count = jnp.clip(count, 1, jnp.maximum(sizes - 1, 1))
  return place < count[ids]


def _elasticities(
  full: jax.Array, without: jax.Array, left: jax.Array
) -> jax.Array:
  """gamma_c = (ln U(D) - ln U(D without R_c)) / -ln(share of e_c left)."""
  log = lambda u: jnp.log(jnp.maximum(u, _LEAST_UTILITY))
  drop = -log(left)
  gamma = (log(full) - log(without)) / jnp.where(drop > 0, drop, 1)
  gamma = jnp.where(drop > 0, gamma, 0)
  return jnp.where(full > 0, gamma, jnp.nan)


def _checked_rows(
  cluster_ids: jax.Array,
  quality: jax.Array | None,
  num_rows: int,
  num_clusters: int,
) -> tuple[jax.Array, jax.Array]:
  ids = arrays(f"cluster_ids [{num_rows}]", cluster_ids)
  checks.labels(ids, num_clusters, "cluster_ids")
  q = jnp.ones(num_rows) if quality is None else quality
  q = arrays(f"quality [{num_rows}]", q)
  if checks.is_concrete(q):
    least = float(np.min(np.nan_to_num(np.asarray(q, np.float32), nan=-1.0)))
    if not least >= 0 or not np.isfinite(np.asarray(q, np.float32)).all():
      raise ValueError(
        "Expected quality >= 0 and finite, got values that are negative, nan or "
        "infinite."
      )
  return ids, q.astype(jnp.float32)
