"""What a recommender is asked to forget, from words to masks."""

from __future__ import annotations

import zlib
from collections.abc import Collection
from typing import NamedTuple

import numpy as np

from experiments.recommendation_data import Source
from jaxunlearn import recsys

KINDS = ("users", "items", "interactions", "preference", "group")
DEFAULT_FRACTION = 0.05


class Request(NamedTuple):
  """One request, drawn anew for each seed.

  Attributes:
    kind: of `KINDS`.
    fraction: of users, items or interactions that are drawn; of a group 1.
    group: its name, or "".
  """

  kind: str
  fraction: float
  group: str

  @property
  def name(self) -> str:
    """As it stands in the results."""
    share = f"{100 * self.fraction:g} %"
    if self.kind == "group":
      return f"group {self.group}"
    if self.kind == "preference":
      return f"preference {self.group} {share}"
    return f"{self.kind} {share}"

  @property
  def words(self) -> str:
    """What it is, for people."""
    share = f"{100 * self.fraction:g} %"
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
  """Reads requests: "users,items:0.1,preference:Horror,group:Horror".

  Args:
    text: KIND or KIND:FRACTION for users, items and interactions,
      preference:GROUP or preference:GROUP:FRACTION, and group:GROUP.
    groups: names of the groups of items that there are.

  Raises:
    ValueError: one line on what cannot be read.
  """
  found = [_parse_one(part.strip(), groups) for part in text.split(",")]
  twice = [r.name for i, r in enumerate(found) if r in found[:i]]
  if twice:
    raise ValueError(
      f"Expected each of --requests once, got {twice[0]!r} twice."
    )
  return tuple(found)


def _parse_one(text: str, groups: Collection[str]) -> Request:
  kind, _, rest = text.partition(":")
  if kind not in KINDS:
    raise ValueError(
      f"Expected --requests of {', '.join(KINDS)}, got {text!r}."
    )
  group, share = "", rest
  if kind in ("preference", "group"):
    group, share = (rest, "") if rest in groups else _split(rest)
    if group not in groups:
      known = ", ".join(groups) or "none in these data"
      raise ValueError(
        f"Expected --requests {kind}:GROUP, a group of items ({known}), got "
        f"{text!r}."
      )
  if kind == "group" and not share:
    return Request(kind, 1.0, group)
  try:
    fraction = float(share) if share else DEFAULT_FRACTION
  except ValueError:
    fraction = -1.0
  if not 0 < fraction < 1 or kind == "group":
    form = "group:GROUP" if kind == "group" else "a fraction in (0, 1)"
    raise ValueError(f"Expected {form} in --requests, got {text!r}.")
  return Request(kind, fraction, group)


def _split(text: str) -> tuple[str, str]:
  name, _, share = text.rpartition(":")
  return (name, share) if name else (text, "")


def draw(request: Request, source: Source, seed: int) -> Drawn:
  """Makes the masks of a request.

  Args:
    request: what to forget.
    source: the data.
    seed: of which users, items or interactions.

  Raises:
    ValueError: it covers no interactions, or all.
  """
  train = source.data.train
  user, item = np.asarray(train["x"]).T
  held = np.concatenate(
    [np.asarray(part["x"]) for part in source.data[1:3]], axis=0
  )
  rng = np.random.default_rng([seed, zlib.crc32(request.kind.encode())])

  def some(ids: np.ndarray) -> np.ndarray:
    known = np.unique(ids)
    count = max(round(request.fraction * len(known)), 1)
    return rng.permutation(known)[:count].astype(np.int32)

  everything = np.ones(source.data.num_items, bool)
  liked = source.groups.get(request.group, everything)
  if request.kind == "users":
    ids = some(user)
    forget = recsys.requests.users(train, ids)
    alike = np.isin(held[:, 0], ids)
  elif request.kind == "items":
    ids = some(item)
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
      f"Expected --requests to leave interactions to keep, got {request.name}, "
      f"which covers {forget.sum()} of {len(forget)}."
    )
  return Drawn(forget, alike)
