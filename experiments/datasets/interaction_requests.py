"""What a recommender is asked to forget, from words to masks."""

from __future__ import annotations

import re
import zlib
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from .. import files, requests
from .interactions import Source, Split

FORMS = {
  "users": "users:SHARE, users:ID,ID",
  "items": "items:SHARE, items:ID,ID",
  "interactions": "interactions:SHARE",
  "preference": "preference:GROUP:SHARE",
  "group": "group:GROUP",
  "index": "index:FILE",
}
SHARE = 0.05  # Where a request says none.
_BARE = ("users", "items", "interactions")  # These may stand alone.
_ONE = {"user": "users", "item": "items"}
# A comma before a kind is between requests, one before a name is in a request.
_COMMA = re.compile(rf",(?=\s*(?:{'|'.join((*FORMS, *_ONE))})\s*(?::|,|;|$))")


def parse(text: str, groups: Collection[str]) -> tuple[requests.Ask, ...]:
  """Reads requests: "users:4711;items:0.1;preference:Horror;group:Horror".

  Args:
    text: several with semicolons, or commas before the name of a kind, between.
      users or items alone, with a share (users:0.1) or with ids as the platform
      gives them (users:4711,4712, or users:id=0.1 where an id looks like a
      share); interactions alone or with a share; preference:GROUP or
      preference:GROUP:SHARE; group:GROUP; index:FILE, rows of the data file.
    groups: names of the groups of items that there are.

  Returns:
    One per request, spelled out: with its share, and `kind` of `FORMS`.

  Raises:
    ValueError: one line on what cannot be read.
  """
  known = ", ".join(groups) or "none in these data"
  asks = requests.read(
    _COMMA.sub(requests.SEPARATOR, text),
    (*FORMS, *_ONE),
    f"of {', '.join(_BARE)}, as in users, users:0.1 or users:ID,ID, index:FILE, "
    f"preference:GROUP or group:GROUP, a group of items ({known})",
    flag="--requests",
    bare=(*_BARE, *_ONE),
  )
  found: list[requests.Ask] = []
  for ask in asks:
    kind = _ONE.get(ask.kind, ask.kind)
    with requests.about(ask, "--requests"):
      value = _spelled(kind, ask.value, groups)
    made = requests.Ask(f"{kind}:{value}", kind, value)
    if made in found:
      raise ValueError(
        f"Expected each of --requests once, got {made.text!r} twice."
      )
    found.append(made)
  return tuple(found)


def _spelled(kind: str, value: str, groups: Collection[str]) -> str:
  """The value with its share; refuses what is no value of this kind."""
  if kind == "index":
    return value
  if kind in _BARE:
    is_share = kind == "interactions" or not value
    share = requests.share if is_share else requests.share_or_names
    found = share(value or str(SHARE))
    return value if isinstance(found, tuple) else str(found)
  group, share = _of_group(value, groups)
  if group not in groups or (kind == "group" and share):
    known = ", ".join(groups) or "none in these data"
    raise ValueError(
      f"Expected {kind}:GROUP, a group of items ({known}), got "
      f"'{kind}:{value}'."
    )
  if kind == "group":
    return group
  return f"{group}:{requests.share(share or str(SHARE))}"


def _of_group(value: str, groups: Collection[str]) -> tuple[str, str]:
  """The name of a group and the share behind it, or ""."""
  if value in groups:
    return value, ""
  group, _, share = value.rpartition(":")
  return group, share


def mask(kind: str, value: str, split: Split) -> tuple[np.ndarray, Any]:
  """The interactions of a request; what it does not name is drawn by the seed.

  Args:
    kind: of `FORMS`.
    value: as `parse` spells it.
    split: of one seed.

  Returns:
    bool [N], and {"alike": bool [M], "kind": int []}: the test interactions that
    it would have covered had they been trained on, and its place in `FORMS`.

  Raises:
    ValueError: a user, an item or a row that there is not.
  """
  source = split.source
  user, item = split.train["x"].T
  held_user, held_item = split.held.T
  rng = np.random.default_rng([split.seed, zlib.crc32(kind.encode())])

  def some(ids: np.ndarray, share: str) -> np.ndarray:
    known = np.unique(ids)
    count = max(round(requests.share(share) * len(known)), 1)
    return rng.permutation(known)[:count]

  def chosen(column: np.ndarray) -> np.ndarray:
    named = _named(kind, value, source)
    return some(column, value) if named is None else named

  if kind == "index":
    forget = _rows(value, source)[split.row_id]
    # A row is like no other but itself; against all held-out ones, then.
    alike = np.ones(len(held_user), bool)
  elif kind == "users":
    ids = chosen(user)
    forget, alike = np.isin(user, ids), np.isin(held_user, ids)
  elif kind == "items":
    ids = chosen(item)
    forget, alike = np.isin(item, ids), np.isin(held_item, ids)
  elif kind == "interactions":
    rows = np.arange(len(user))
    forget = np.isin(rows, some(rows, value))
    alike = np.ones(len(held_user), bool)
  else:
    group, share = _of_group(value, source.groups)
    liked = source.groups[group]
    forget, alike = liked[item], liked[held_item]
    if kind == "preference":
      ids = some(user[forget], share)
      forget = forget & np.isin(user, ids)
      alike = alike & np.isin(held_user, ids)
  return forget, {"alike": alike, "kind": np.int32(list(FORMS).index(kind))}


def pinned(asks: Sequence[requests.Ask], source: Source) -> np.ndarray:
  """The interactions that have to be trained on, bool [P].

  Rows that are named, and one of each item that is.

  Raises:
    ValueError: as `mask`.
  """
  found = np.zeros(len(source.pairs), bool)
  for ask in asks:
    with requests.about(ask):
      if ask.kind == "index":
        found |= _rows(ask.value, source)
      elif ask.kind == "items":
        ids = _named(ask.kind, ask.value, source)
        known, first = np.unique(
          source.pairs[: source.trained, 1], return_index=True
        )
        found[first[np.isin(known, [] if ids is None else ids)]] = True
  return found


def _named(kind: str, value: str, source: Source) -> np.ndarray | None:
  """The numbers of users or items that are named; None for a share."""
  names = requests.share_or_names(value)
  if not isinstance(names, tuple):
    return None
  ids = source.user_ids if kind == "users" else source.item_ids
  noun = f"a{'n' if kind == 'items' else ''} {kind[:-1]}"
  return np.flatnonzero(requests.rows_named(ids, names, noun))


def _rows(path: str, source: Source) -> np.ndarray:
  if not source.is_file:
    raise ValueError("Expected --data npz:PATH or csv:PATH for index:FILE.")
  found = np.zeros(len(source.pairs), bool)
  count = len(found) if source.trained is None else source.trained
  found[:count] = files.read_rows(path, count)
  return found
