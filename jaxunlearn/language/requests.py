"""Requests of a language model, as masks over rows, and over their tokens."""

from __future__ import annotations

import re
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxunlearn.core import checks
from jaxunlearn.core import requests as rows
from jaxunlearn.core.shaped import arrays
from jaxunlearn.core.types import PyTree
from jaxunlearn.language.types import Text


def owners(data: PyTree, ids: Sequence[int] | jax.Array) -> jax.Array:
  """All rows of some owners: authors, users, documents.

  Args:
    data: with "owner", int32 [N].
    ids: int [K]; may be traced.

  Returns:
    bool [N], True = forget.

  Raises:
    ValueError: data without owners; (concrete) an owner without rows.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import language
    >>> data = {"owner": jnp.array([0, 0, 1, 2])}
    >>> language.requests.owners(data, [0, 2]).tolist()
    [True, True, False, True]
  """
  checks.columns(data, "owner")
  return rows.classes(data["owner"], ids)


def each_owner(data: PyTree, num_owners: int) -> jax.Array:
  """One request per owner, stacked: bool [num_owners, N].

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import language
    >>> data = {"owner": jnp.array([0, 0, 1])}
    >>> language.requests.each_owner(data, 2).tolist()
    [[True, True, False], [False, False, True]]
  """
  checks.columns(data, "owner")
  return rows.each_class(data["owner"], num_owners)


def naming(texts: Sequence[str], subjects: Sequence[str]) -> jax.Array:
  """Rows whose text names a subject as whole words, whatever the case.

  Args:
    texts: N strings, what a row says in all.
    subjects: names; a row is asked for if it has any of them.

  Returns:
    bool [N], True = forget.

  Raises:
    ValueError: no subject, an empty one, or one that no text names.

  Example:
    >>> from jaxunlearn import language
    >>> texts = ["Ada Lovelace wrote it.", "Adagio.", "Of ada and Charles."]
    >>> language.requests.naming(texts, ["Ada"]).tolist()
    [True, False, True]
  """
  if isinstance(subjects, str) or not subjects:
    raise ValueError(f"Expected a list of subjects, got {subjects!r}.")
  found = np.zeros(len(texts), bool)
  for subject in subjects:
    if not subject.strip():
      raise ValueError(f"Expected subjects that have letters, got {subject!r}.")
    pattern = rf"(?<!\w){re.escape(subject.strip())}(?!\w)"
    named = [bool(re.search(pattern, t, re.IGNORECASE)) for t in texts]
    if not any(named):
      raise ValueError(f"Expected a text that names {subject!r}, got none.")
    found |= np.asarray(named, bool)
  return jnp.asarray(found)


def phrases(x: Text, wanted: jax.Array) -> jax.Array:
  """Which tokens are part of one of some phrases.

  Args:
    x: texts [N, L].
    wanted: int [P, K], tokens of a phrase a row, padded on the right by -1.

  Returns:
    bool [N, L]; padding is part of none. A float of it is a "token_weight".

  Raises:
    ValueError: phrases of another shape; (concrete) an empty one.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import language
    >>> tokens = jnp.array([[4, 5, 6, 4, 5, 0]])
    >>> x = language.Text(tokens, jnp.array([5]), jnp.array([1]))
    >>> wanted = jnp.array([[4, 5], [6, -1]])
    >>> language.requests.phrases(x, wanted).astype(int).tolist()
    [[1, 1, 1, 1, 1, 0]]
  """
  wanted = arrays("phrases int [P, K]", wanted)
  if checks.is_concrete(wanted) and bool((wanted[:, :1] < 0).any()):
    raise ValueError("Expected phrases of a token or more, got an empty one.")
  length = x.tokens.shape[1]
  place = jnp.arange(length, dtype=jnp.int32)[None]
  tokens = jnp.where(place < x.length[:, None], x.tokens, -2)

  def one(phrase: jax.Array) -> jax.Array:
    size, num = phrase.shape[0], (phrase >= 0).sum()
    padded = jnp.pad(tokens, ((0, 0), (0, size)), constant_values=-2)
    fits = [
      (padded[:, i : i + length] == phrase[i]) | (phrase[i] < 0)
      for i in range(size)
    ]
    begins = jnp.stack(fits).all(axis=0)
    inside = [
      jnp.pad(begins, ((0, 0), (i, 0)))[:, :length] & (i < num)
      for i in range(size)
    ]
    return jnp.stack(inside).any(axis=0)

  return jax.vmap(one)(wanted).any(axis=0)
