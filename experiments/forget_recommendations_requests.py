"""What a recommender is asked to forget, from words to masks."""

from __future__ import annotations

import re
import zlib
from collections.abc import Collection
from typing import NamedTuple

import numpy as np

from experiments import files, requests
from experiments.recommendation_data import Source
from jaxunlearn import recsys

KINDS = ("users", "items", "interactions", "preference", "group", "index")
DEFAULT_FRACTION = 0.05
_BARE = KINDS[:3]  # These may stand alone, for the default share.
_ONE = {"user": "users", "item": "items"}
# A comma before a kind is between requests, one before a name is in a request.
_COMMA = re.compile(rf",(?=\s*(?:{'|'.join((*KINDS, *_ONE))})\s*(?::|,|;|$))")


class Request(NamedTuple):
  """One request; what it does not name is drawn anew for each seed.

  Attributes:
    kind: of `KINDS`.
    fraction: of users, items or interactions that are drawn; of a group, and of
      what is named, 1.
    group: its name, or "".
    names: the ids of users or items, or the file of an index; else ().
  """

  kind: str
  fraction: float
  group: str = ""
  names: tuple[str, ...] = ()

  @property
  def name(self) -> str:
    """As it stands in the results."""
    share = f"{100 * self.fraction:g} %"
    if self.names:
      return f"{self.kind} {files.short(', '.join(self.names))}"
    if self.kind == "group":
      return f"group {self.group}"
    if self.kind == "preference":
      return f"preference {self.group} {share}"
    return f"{self.kind} {share}"

  @property
  def words(self) -> str:
    """What it is, for people."""
    share = f"{100 * self.fraction:g} %"
    if self.names:
      named = files.short(", ".join(self.names))
      return {
        "users": f"all interactions of the users {named}",
        "items": f"all interactions with the items {named}",
        "index": f"the interactions in the rows that {named} lists",
      }[self.kind]
    return {
      "users": f"all interactions of {share} of the users",
      "items": f"all interactions with {share} of the items",
      "interactions": f"{share} of the single interactions",
      "preference": f"the interactions of {share} of the users who had any with "
      f"items of {self.group}, which they no longer like",
      "group": f"all interactions with items of {self.group}",
    }[self.kind]


class Drawn(NamedTuple):
  """A request on one seed.

  Attributes:
    forget: bool [N], the training interactions to be forgotten.
    alike: bool [M], the interactions of validation and test, in this order, that
      it would have covered had they been trained on.
  """

  forget: np.ndarray
  alike: np.ndarray


def parse(text: str, groups: Collection[str]) -> tuple[Request, ...]:
  """Reads requests: "users:4711;items:0.1;preference:Horror;group:Horror".

  Args:
    text: several with semicolons, or commas before the name of a kind, between.
      users or items alone, with a share (users:0.1) or with ids as the platform
      gives them (users:4711,4712, or users:id=0.1 where an id looks like a
      share); interactions alone or with a share; preference:GROUP or
      preference:GROUP:SHARE; group:GROUP; index:FILE, rows of the data file.
    groups: names of the groups of items that there are.

  Raises:
    ValueError: one line on what cannot be read.
  """
  known = ", ".join(groups) or "none in these data"
  forms = (
    f"of {', '.join(_BARE)}, as in users, users:0.1 or users:ID,ID, index:FILE, "
    f"preference:GROUP or group:GROUP, a group of items ({known})"
  )
  asks = requests.read(
    _COMMA.sub(requests.SEPARATOR, text),
    (*KINDS, *_ONE),
    forms,
    flag="--requests",
    bare=(*_BARE, *_ONE),
  )
  found = []
  for ask in asks:
    try:
      found.append(_parse_one(ask, groups))
    except ValueError as error:
      text = files.short(ask.text)
      raise ValueError(f"--requests {text}: {error}") from error
  twice = [r.name for i, r in enumerate(found) if r in found[:i]]
  if twice:
    raise ValueError(
      f"Expected each of --requests once, got {twice[0]!r} twice."
    )
  return tuple(found)


def _parse_one(ask: requests.Ask, groups: Collection[str]) -> Request:
  kind, value = _ONE.get(ask.kind, ask.kind), ask.value
  if kind == "index":
    return Request(kind, 1.0, names=(value,))
  if kind in _BARE:
    if not value:
      return Request(kind, DEFAULT_FRACTION)
    if kind == "interactions":
      return Request(kind, requests.share(value))
    found = requests.share_or_names(value)
    if isinstance(found, tuple):
      return Request(kind, 1.0, names=found)
    return Request(kind, found)
  group, _, share = value.rpartition(":")
  if value in groups:
    group, share = value, ""
  if group not in groups:
    known = ", ".join(groups) or "none in these data"
    raise ValueError(
      f"Expected {kind}:GROUP, a group of items ({known}), got {ask.text!r}."
    )
  if kind == "group":
    if share:
      raise ValueError(f"Expected group:GROUP alone, got {ask.text!r}.")
    return Request(kind, 1.0, group)
  fraction = requests.share(share) if share else DEFAULT_FRACTION
  return Request(kind, fraction, group)


def draw(request: Request, source: Source, seed: int) -> Drawn:
  """Makes the masks of a request.

  Args:
    request: what to forget.
    source: the data.
    seed: of which users, items or interactions.

  Raises:
    ValueError: it covers no interactions, or all; a user or an item that there
      is not, with the nearest that there are.
  """
  try:
    return _drawn(request, source, seed)
  except ValueError as error:
    raise ValueError(f"--requests {request.name}: {error}") from error


def _drawn(request: Request, source: Source, seed: int) -> Drawn:
  train = source.data.train
  user, item = np.asarray(train["x"]).T
  held = np.concatenate(
    [np.asarray(part["x"]) for part in source.data[1:3]], axis=0
  )
  rng = np.random.default_rng([seed, zlib.crc32(request.kind.encode())])

  def some(ids: np.ndarray, names: np.ndarray | None = None) -> np.ndarray:
    if request.names and names is not None:
      noun = f"a{'n' if request.kind == 'items' else ''} {request.kind[:-1]}"
      chosen = requests.rows_named(names, request.names, noun)
      return np.flatnonzero(chosen).astype(np.int32)
    known = np.unique(ids)
    count = max(round(request.fraction * len(known)), 1)
    return rng.permutation(known)[:count].astype(np.int32)

  everything = np.ones(source.data.num_items, bool)
  liked = source.groups.get(request.group, everything)
  if request.kind == "index":
    forget, alike = _rows(request.names[0], source, (user, item), held)
  elif request.kind == "users":
    ids = some(user, source.user_ids)
    forget = recsys.requests.users(train, ids)
    alike = np.isin(held[:, 0], ids)
  elif request.kind == "items":
    ids = some(item, source.item_ids)
    forget = recsys.requests.items(train, ids)
    alike = np.isin(held[:, 1], ids)
  elif request.kind == "preference":
    ids = some(user[liked[item]])
    forget = recsys.requests.changed_preference(train, ids, liked)
    alike = np.isin(held[:, 0], ids) & liked[held[:, 1]]
  elif request.kind == "group":
    forget = recsys.requests.item_groups(train, liked.astype(np.int32), 1)
    alike = liked[held[:, 1]]
  else:
    forget = np.isin(np.arange(len(user)), some(np.arange(len(user))))
    alike = np.ones(len(held), bool)
  forget = np.asarray(forget)
  if not 0 < forget.sum() < len(forget):
    raise ValueError(
      "Expected training interactions to forget, and others to keep, got "
      f"{forget.sum()} of {len(forget)}."
    )
  return Drawn(forget, alike)


def _rows(path: str, source: Source, trained, held: np.ndarray):
  """Rows of the user's file, as masks over training and held-out pairs."""
  if source.rows is None:
    raise ValueError("Expected --data npz:PATH or csv:PATH for index:FILE.")
  chosen = source.rows[files.read_rows(path, len(source.rows))]
  key = lambda user, item: user.astype(np.int64) * source.data.num_items + item
  wanted = key(*chosen.T)
  return (
    np.isin(key(*trained), wanted),
    # A row is like no other but itself; against all held-out ones, then.
    np.ones(len(held), bool),
  )
