"""Requests of a recommender, as masks over the training interactions.

Each returns bool [N], True = forget, for `data = {"x": int [N, 2]}` of (user,
item). Ids may be traced and padded by -1, so that requests can be mapped.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxunlearn.core import checks, integers
from jaxunlearn.core import requests as rows
from jaxunlearn.core.shaped import arrays, shaped
from jaxunlearn.core.types import PyTree
from jaxunlearn.recsys.types import pairs_of

Ids = Sequence[int] | jax.Array


def users(data: PyTree, ids: Ids) -> jax.Array:
  """All interactions of some users (an account is closed).

  Args:
    data: {"x": int [N, 2]}.
    ids: int [K]; -1 is padding.

  Raises:
    ValueError: (concrete values) ids that are no integers, none but padding, or
      one without interactions.

  Example:
    >>> from jaxunlearn import recsys
    >>> data = recsys.interactions([0, 1, 1, 2], [3, 0, 2, 3], 3, 4)
    >>> recsys.requests.users(data, [1]).tolist()
    [False, True, True, False]
  """
  return _matching(pairs_of(data)[:, 0], ids, "user")


def items(data: PyTree, ids: Ids) -> jax.Array:
  """All interactions with some items (an item is withdrawn).

  Args:
    data: {"x": int [N, 2]}.
    ids: int [K]; -1 is padding.

  Raises:
    ValueError: as `users`.

  Example:
    >>> from jaxunlearn import recsys
    >>> data = recsys.interactions([0, 1, 1, 2], [3, 0, 2, 3], 3, 4)
    >>> recsys.requests.items(data, [3]).tolist()
    [True, False, False, True]
  """
  return _matching(pairs_of(data)[:, 1], ids, "item")


def interactions(
  key: jax.Array, data: PyTree, fraction: float | jax.Array
) -> jax.Array:
  """A random fraction of the single interactions.

  Args:
    key: PRNG key.
    data: {"x": int [N, 2]}.
    fraction: in (0, 1); `round(fraction * N)` are chosen; may be traced.

  Raises:
    ValueError: a fraction outside [0, 1], or one that selects none or all.

  Example:
    >>> import jax
    >>> from jaxunlearn import recsys, toy
    >>> data = toy.recommender().data  # 36 of them.
    >>> int(recsys.requests.interactions(jax.random.key(0), data, 0.25).sum())
    9
  """
  mask = rows.random_fraction(key, pairs_of(data).shape[0], fraction)
  checks.request_values(mask)
  return mask


def item_groups(
  data: PyTree, groups: Sequence[Any] | np.ndarray, values: Any
) -> jax.Array:
  """All interactions with the items of a source: a licence, a modality, a genre.

  Args:
    data: {"x": int [N, 2]}.
    groups: [I], the group of each item, numbers or strings; on the host.
    values: the group or groups to forget.

  Raises:
    ValueError: no group for some item, a group that no item has, or one without
      interactions.

  Example:
    >>> from jaxunlearn import recsys
    >>> data = recsys.interactions([0, 1, 1, 2], [3, 0, 2, 3], 3, 4)
    >>> genre = ["drama", "drama", "crime", "crime"]
    >>> recsys.requests.item_groups(data, genre, "crime").tolist()
    [True, False, True, True]
  """
  chosen = rows.groups(groups, values)
  mask = _of_items(data, chosen)
  checks.request_values(mask)
  return mask


def changed_preference(
  data: PyTree, ids: Ids, disliked_items: jax.Array
) -> jax.Array:
  """Interactions of some users with items that they no longer like.

  Args:
    data: {"x": int [N, 2]}.
    ids: int [K], the users; -1 is padding.
    disliked_items: bool [I], such as a column of genres.

  Raises:
    ValueError: as `users`; disliked_items that is no bool [I]; no interaction
      of these users with these items.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import recsys
    >>> data = recsys.interactions([0, 1, 1, 2], [3, 0, 2, 3], 3, 4)
    >>> disliked = jnp.array([False, False, True, True])
    >>> recsys.requests.changed_preference(data, [0, 1], disliked).tolist()
    [True, False, True, False]
  """
  mask = users(data, ids) & _of_items(data, disliked_items)
  checks.request_values(mask)
  return mask


def lowered_ratings(
  data: PyTree, new_rating: jax.Array, threshold: float
) -> jax.Array:
  """Interactions whose new rating no longer counts as positive.

  Args:
    data: {"x": int [N, 2]}.
    new_rating: float [N]; nan keeps the interaction.
    threshold: ratings below it are forgotten.

  Raises:
    ValueError: ratings of another length; none or all of them below.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import recsys
    >>> data = recsys.interactions([0, 1, 1, 2], [3, 0, 2, 3], 3, 4)
    >>> ratings = jnp.array([5.0, 2.0, jnp.nan, 4.0])
    >>> recsys.requests.lowered_ratings(data, ratings, threshold=3.5).tolist()
    [False, True, False, False]
  """
  new_rating = jnp.asarray(new_rating)
  n = pairs_of(data).shape[0]
  shaped(f"new_rating [{n}]", new_rating)
  mask = new_rating < threshold
  checks.request_values(mask)
  return mask


def _of_items(data: PyTree, chosen: jax.Array) -> jax.Array:
  item = pairs_of(data)[:, 1]
  chosen = arrays("items bool [num_items]", chosen)
  if checks.is_concrete(item):
    checks.labels(item, chosen.shape[0], "item ids")
  return chosen[item]


def _matching(column: Any, ids: Ids, kind: str) -> jax.Array:
  wanted = integers.as_given(ids, f"{kind} ids").reshape(-1)
  if checks.is_concrete(wanted) and checks.is_concrete(column):
    column = np.asarray(column)
    asked = wanted[wanted != -1]
    if not asked.size:
      raise ValueError(f"Expected at least one {kind} id, got none.")
    missing = np.setdiff1d(asked, column)
    if missing.size:
      raise ValueError(
        f"Expected a {kind} that has interactions, got id {missing[0]}."
      )
    return jnp.asarray(np.isin(column, asked))
  integers.narrowed({f"{kind} ids": wanted, "data": column}, "request")
  # Sorted search, so that memory is [N + K] whatever the request. Padding is
  # -1 and no id is.
  known = jnp.sort(jnp.asarray(wanted))
  place = jnp.searchsorted(known, column)
  return known[jnp.minimum(place, known.size - 1)] == column
