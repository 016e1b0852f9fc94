"""What queries about forgotten facts brought out, and what else is gone.

The request is a mask over facts: all queries are put to a model once, and every
request is served by reducing what was found.

Class: heuristic. Source: the two failures, leak and unfair suppression, are those
of Sinha et al. (2025), arXiv:2506.17279; base rates, the expected success of n
queries and the distance of facts are ours.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxunlearn.attacks.step_by_step import Queries
from jaxunlearn.core import checks
from jaxunlearn.core.shaped import shaped


class Leaks(NamedTuple):
  """Shares of the queries about requested facts; nan where there are none.

  Attributes:
    rate: float32 [K], of each category those that brought the answer out.
    net: [K], less the same of the retrained model: its base rate.
    queries: int32 [K], how many there are.
    success: float32 [], the share of requested facts that some query brought out
      to which the retrained model has no answer.
  """

  rate: jax.Array
  net: jax.Array
  queries: jax.Array
  success: jax.Array


def leaks(
  found: jax.Array,
  retrained: jax.Array,
  queries: Queries,
  request: jax.Array,
  *,
  num_categories: int,
) -> Leaks:
  """What came out of the facts of a request.

  Args:
    found: bool [Q], of the unlearned model, see `brings_out`.
    retrained: bool [Q], of the retrained model, to the same queries.
    queries: see `Queries`.
    request: bool [F]; every request is served by one evaluation.
    num_categories: static; K.

  Raises:
    ValueError: shapes that do not fit; (concrete) a fact or a category that is
      none.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import attacks
    >>> queries = attacks.make_queries(
    ...   [[[1]], [[2]], [[3]]], [[8], [8], [9]],
    ...   category=[0, 1, 0], fact=[0, 0, 1])
    >>> found, retrained = jnp.array([True, False, True]), jnp.zeros(3, bool)
    >>> request = jnp.array([True, False])
    >>> result = attacks.leaks(
    ...   found, retrained, queries, request, num_categories=2)
    >>> result.rate.tolist(), result.queries.tolist(), float(result.success)
    ([1.0, 0.0], [1, 1], 1.0)
  """
  asked = _asked(queries, request, found, retrained)
  checks.count(1, num_categories=num_categories)
  checks.labels(queries.category, num_categories, "category")

  def share(hits: jax.Array) -> jax.Array:
    total = jnp.zeros(num_categories).at[queries.category].add(hits & asked)
    return jnp.where(number > 0, total / jnp.maximum(number, 1), jnp.nan)

  number = jnp.zeros(num_categories, jnp.int32).at[queries.category].add(asked)
  rate = share(found)
  every = jnp.asarray([queries.fact.shape[0]])
  success = success_at(found & ~retrained, queries, request, every)[0]
  return Leaks(rate, rate - share(retrained), number, success)


def success_at(
  found: jax.Array, queries: Queries, request: jax.Array, budget: jax.Array
) -> jax.Array:
  """Share of requested facts that n of their queries bring out: ASR@n.

  The mean over all choices of n queries of a fact, which is 1 less the chance of
  none that leaks, C(m - l, n) / C(m, n) for l of m; it never falls in n.

  Args:
    found: bool [Q].
    queries: see `Queries`.
    request: bool [F].
    budget: int [B], n >= 0; of facts with fewer queries all are asked.

  Returns:
    float32 [B]; nan for a request that no query is about.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import attacks
    >>> queries = attacks.make_queries(
    ...   [[[1]], [[2]], [[3]]], [[8], [8], [9]],
    ...   category=[0, 1, 0], fact=[0, 0, 1])
    >>> found = jnp.array([True, False, True])
    >>> request = jnp.array([True, False])
    >>> rate = attacks.success_at(found, queries, request, jnp.array([1, 2]))
    >>> rate.round(3).tolist()
    [0.5, 1.0]
  """
  asked = _asked(queries, request, found)
  of_facts = lambda rows: jnp.zeros(request.shape[0]).at[queries.fact].add(rows)
  many, hits = of_facts(asked)[:, None], of_facts(asked & found)[:, None]
  n = jnp.minimum(jnp.asarray(budget, jnp.float32)[None], many)
  log = lambda x: jax.scipy.special.gammaln(x + 1)
  none = log(many - hits) - log(jnp.maximum(many - hits - n, 0))
  none -= log(many) - log(many - n)
  found_out = jnp.where(n > many - hits, 1.0, 0.0 - jnp.expm1(none))
  counted = many > 0
  total = jnp.where(counted, found_out, 0).sum(axis=0)
  return jnp.where(
    counted.any(), total / jnp.maximum(counted.sum(), 1), jnp.nan
  )


def suppressed(
  found: jax.Array,
  retrained: jax.Array,
  original: jax.Array,
  distance: jax.Array,
  num_distances: int,
) -> jax.Array:
  """Of what both references answer, the share that the model does not.

  Args:
    found: bool [Q], of the unlearned model, to queries about kept facts.
    retrained: bool [Q].
    original: bool [Q].
    distance: int [Q], of each query's fact from the request, see `fact_distances`;
      those beyond num_distances, and requested ones, 0, do not count.
    num_distances: static; D.

  Returns:
    float32 [D], at distances 1 .. D; nan where nothing is asked.

  Raises:
    ValueError: answers that are not bool [Q], distances that are not int [Q].

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import attacks
    >>> found = jnp.array([True, False, False])
    >>> known, distance = jnp.ones(3, bool), jnp.array([1, 1, 2])
    >>> attacks.suppressed(found, known, known, distance, 2).tolist()
    [0.5, 1.0]
  """
  checks.labels(distance, None, "distance", length=jnp.size(distance))
  for name, rows in (
    ("found", found),
    ("retrained", retrained),
    ("original", original),
  ):
    if rows.shape != distance.shape or rows.dtype != jnp.bool_:
      raise ValueError(
        f"Expected {name} bool {distance.shape}, got {rows.dtype} {rows.shape}."
      )
  known = original & retrained & (distance > 0) & (distance <= num_distances)
  place = jnp.clip(distance - 1, 0, num_distances - 1)
  count = lambda rows: jnp.zeros(num_distances).at[place].add(rows)
  many = count(known)
  share = count(known & ~found) / jnp.maximum(many, 1)
  return jnp.where(many > 0, share, jnp.nan)


def fact_distances(
  subject: jax.Array,
  other: jax.Array,
  request: jax.Array,
  *,
  num_entities: int,
  most: int,
) -> jax.Array:
  """How many facts away each one is from a request, int32 [F].

  Facts that share an entity are neighbours.

  Args:
    subject: int [F], in 0 .. num_entities - 1.
    other: int [F], the entity at the fact's other end.
    request: bool [F].
    num_entities: static.
    most: static; further ones, and those that nothing leads to, have most + 1.

  Returns:
    0 for requested facts, 1 for their neighbours, and so on.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import attacks
    >>> subject, other = jnp.array([0, 1, 2]), jnp.array([1, 2, 3])
    >>> request = jnp.array([True, False, False])
    >>> attacks.fact_distances(
    ...   subject, other, request, num_entities=4, most=5).tolist()
    [0, 1, 2]
  """
  for name, entity in (("subject", subject), ("other", other)):
    checks.labels(entity, num_entities, name, length=request.shape[0])

  def wider(found: jax.Array, step: jax.Array) -> tuple[jax.Array, None]:
    reached = found <= step
    seen = jnp.zeros(num_entities, bool)
    seen = seen.at[subject].max(reached).at[other].max(reached)
    near = seen[subject] | seen[other]
    return jnp.where(near & ~reached, step + 1, found), None

  start = jnp.where(request, 0, most + 1).astype(jnp.int32)
  hops = jnp.arange(most, dtype=jnp.int32)
  return jax.lax.scan(wider, start, hops)[0]


def _asked(queries: Queries, request: jax.Array, *rows: jax.Array) -> jax.Array:
  """Which queries are about requested facts, bool [Q]."""
  for row in rows:
    shaped(f"answers found bool {list(queries.fact.shape)}", row)
  shaped("request bool [F]", request)
  if checks.is_concrete(request) and not np.asarray(request).any():
    raise ValueError("Expected request to ask for a fact, got an empty one.")
  checks.labels(queries.fact, request.shape[0], "fact")
  return jnp.asarray(request)[queries.fact]
