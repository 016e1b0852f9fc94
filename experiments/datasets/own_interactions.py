"""Interactions of the user's own, from an npz or a CSV file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..files import read_csv, read_npz

_SIDES = ("users", "items")


def read(kind: str, path: str) -> dict[str, Any]:
  """The fields of an `interactions.Source`.

  Args:
    kind: "npz", or "csv" with columns users and items.
    path: of a file with

      - users, items: [N], ids as the platform gives them, integers of any size
        from 0 on, strings or times; each pair once;
      - users_test, items_test (optional): [M], interactions that no model is
        trained on;
      - user_ids, item_ids (optional): [U] and [I], all there are, in the order of
        the rows of a model; sorted without them;
      - group (optional): [I], the genre, licence or source of each item,
        numbers or strings, in the order of item_ids; without these items are
        numbers from 0 on;
      - features_NAME (optional, any number): float [I, F], a modality; likewise.

  Raises:
    ValueError: arrays that are missing or do not fit, in one line.
  """
  if kind == "csv":
    words = read_csv(path, _SIDES)
    arrays = {name: _as_ids(v) for name, v in words.items()}
  else:
    arrays = read_npz(path)
  count = _check_pairs(path, arrays)
  (user_ids, users), (item_ids, items) = (
    _numbered(path, arrays, side) for side in _SIDES
  )
  described = {
    name: array
    for name, array in arrays.items()
    if name == "group" or name.startswith("features_")
  }
  if described and "item_ids" not in arrays:
    item_ids, items = _from_zero(path, arrays, described)
  _check_described(path, described, len(item_ids))
  rows = np.stack([users, items], axis=1).astype(np.int32)
  _, first, times = np.unique(
    rows, axis=0, return_index=True, return_counts=True
  )
  if times.max() > 1:
    user, item = rows[first[times > 1][0]]
    raise ValueError(
      f"Expected each interaction of {path} once, got user {user_ids[user]} and "
      f"item {item_ids[item]} twice."
    )
  if count == len(rows) and np.bincount(users).max() < 3:
    raise ValueError(
      f"Expected a user with at least 3 interactions in {path}, got none."
    )
  group = described.pop("group", np.zeros(0))
  return {
    "pairs": rows,
    "num_users": len(user_ids),
    "num_items": len(item_ids),
    "features": {
      name.removeprefix("features_"): array.astype(np.float32)
      for name, array in described.items()
    },
    "groups": {str(value): group == value for value in np.unique(group)},
    "words": f"the interactions of {path}",
    "user_ids": user_ids,
    "item_ids": item_ids,
    "is_file": True,
    "trained": count if count < len(rows) else None,
  }


def _check_pairs(path: str, arrays: Mapping[str, np.ndarray]) -> int:
  """How many interactions train; those to test on come in pairs too."""
  tests = [f"{side}_test" for side in _SIDES if f"{side}_test" in arrays]
  if len(tests) == 1:
    raise ValueError(
      f"Expected {path} to have users_test and items_test or neither, got "
      f"{tests[0]}."
    )
  for part in ("", "_test") if tests else ("",):
    for side in _SIDES:
      found = arrays.get(side + part)
      if found is None or found.ndim != 1 or found.dtype.kind not in "iuUSM":
        got = "none" if found is None else f"{found.dtype} {list(found.shape)}"
        raise ValueError(
          f"Expected {path} to have {side}{part}, integers or strings of shape "
          f"[N], got {got}."
        )
      if found.dtype.kind == "i" and found.size and found.min() < 0:
        raise ValueError(
          f"Expected {side}{part} in {path} to be ids from 0 on, got "
          f"{found.min()}."
        )
    users, items = (arrays[side + part] for side in _SIDES)
    if not len(users) or not len(items):
      raise ValueError(f"Expected interactions in {path}, got none.")
    if users.shape != items.shape:
      raise ValueError(
        f"Expected users{part} and items{part} in {path} of one shape [N], got "
        f"{users.shape} and {items.shape}."
      )
  return len(arrays["users"])


def _numbered(
  path: str, arrays: Mapping[str, np.ndarray], side: str
) -> tuple[np.ndarray, np.ndarray]:
  """The ids of users or items, and of each interaction the place among them."""
  listed = f"{side[:-1]}_ids"
  for name in (f"{side}_test", listed):
    # Joined with others they would become floats, which lose digits.
    if name in arrays and arrays[name].dtype.kind != arrays[side].dtype.kind:
      raise ValueError(
        f"Expected {name} in {path} of the kind of {side} "
        f"({arrays[side].dtype}), got {arrays[name].dtype}."
      )
  parts = [arrays[n] for n in (side, f"{side}_test") if n in arrays]
  found, ids = np.concatenate(parts), arrays.get(listed)
  # Whatever the ids are, the model counts users and items from 0.
  known, place = np.unique(found, return_inverse=True)
  if ids is None:
    return known, place
  every, row = np.unique(ids, return_index=True)
  if ids.ndim != 1 or len(every) < len(ids):
    raise ValueError(f"Expected {listed} in {path} to differ, got some twice.")
  unknown = known[~np.isin(known, every)]
  if unknown.size:
    raise ValueError(
      f"Expected {listed} in {path} to have all {side}, got none for "
      f"{unknown[0]}."
    )
  return ids, row[np.searchsorted(every, found)]


def _from_zero(
  path: str,
  arrays: Mapping[str, np.ndarray],
  described: Mapping[str, np.ndarray],
) -> tuple[np.ndarray, np.ndarray]:
  """The same of items that are numbers from 0 on."""
  items = np.concatenate(
    [arrays[n] for n in ("items", "items_test") if n in arrays]
  )
  if items.dtype.kind not in "iu":
    raise ValueError(
      f"Expected items in {path} to be numbers from 0 on beside "
      f"{' and '.join(described)}, or item_ids, got {items.dtype}."
    )
  sizes = [len(v) for v in described.values() if v.ndim]
  count = max([int(items.max()) + 1, *sizes])
  _check_described(path, described, count)  # Before so much is set aside.
  return np.arange(count), items


def _check_described(
  path: str, described: Mapping[str, np.ndarray], num_items: int
) -> None:
  for name, array in described.items():
    dims, kinds, shape = 2, "fiub", f"[{num_items}, F]"
    if name == "group":
      dims, kinds, shape = 1, "iuSUb", f"[{num_items}]"
    fits = array.dtype.kind in kinds and array.ndim == dims
    if not fits or len(array) != num_items:
      raise ValueError(
        f"Expected {name} in {path} of shape {shape}, got {array.dtype} "
        f"{list(array.shape)}."
      )
    if dims == 2 and not np.isfinite(array).all():
      raise ValueError(f"Expected finite numbers in {name} of {path}.")


def _as_ids(words: np.ndarray) -> np.ndarray:
  """Words of a CSV as integers, where each is written as one would write it."""
  if all(re.fullmatch(r"0|[1-9][0-9]{0,17}", word) for word in words):
    return words.astype(np.int64)
  return words
