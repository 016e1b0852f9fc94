"""Reading Orbax checkpoints of any origin and fitting them to a model."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from jaxunlearn.core import given
from jaxunlearn.core.types import PyTree, Variables

Names = tuple[str, ...]

# Under which names other people's checkpoints keep the tree of a model.
_ITEMS = ("default", "state", "params", "variables", "model", "pytree")
_OWNERS = ("model", "state", "train_state", "variables", "module")
# What checkpoints hold beside a model, and what copies of it they call.
_BESIDE = ("step", "opt_state", "optimizer", "opt", "rng", "rngs", "key")
_COPIES = ("ema", "average", "avg", "target", "teacher", "polyak", "swa")
_SHOWN = 3  # How many leaves an error lists.


def absolute(directory: Any) -> epath.Path:
  """A path of this machine, or one of those that etils knows ("gs://...")."""
  if isinstance(directory, str | os.PathLike) and "://" in str(directory):
    return epath.Path(directory)
  return epath.Path(given.path(directory))


def flat(tree: PyTree) -> list[tuple[Names, Any]]:
  """Leaves with the names on the way, as Orbax writes them: all strings."""
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  return [(tuple(map(_name, path)), leaf) for path, leaf in leaves]


def _name(entry: Any) -> str:
  for attribute in ("key", "name", "idx"):
    if hasattr(entry, attribute):
      return str(getattr(entry, attribute))
  return str(entry)


def integer_nodes(tree: PyTree) -> list[Names]:
  """Where dicts have integer keys, which come back from Orbax as strings."""
  nodes = set()
  for path, _ in jax.tree_util.tree_leaves_with_path(tree):
    for i, entry in enumerate(path):
      if isinstance(getattr(entry, "key", None), int):
        nodes.add(tuple(map(_name, path[:i])))
  return sorted(nodes)


def with_integers(tree: Any, nodes: Iterable[Names]) -> Any:
  """Undoes it: integer keys again in the dicts at `nodes`."""
  nodes = set(map(tuple, nodes))

  def walk(node: Any, path: Names) -> Any:
    if isinstance(node, Mapping):
      key = int if path in nodes else str
      return {key(k): walk(v, (*path, k)) for k, v in node.items()}
    if isinstance(node, list):
      return [walk(v, (*path, str(i))) for i, v in enumerate(node)]
    return node

  return walk(tree, ())


def read_tree(path: epath.Path) -> Any:
  """The arrays of a checkpoint as host arrays, whatever devices wrote it."""
  handler = ocp.PyTreeCheckpointHandler()
  try:
    tree = handler.metadata(path).tree
    # Without this Orbax looks for the devices of the writer.
    on_host = lambda _: ocp.RestoreArgs(restore_type=np.ndarray)
    args = ocp.args.PyTreeRestore(restore_args=jax.tree.map(on_host, tree))
    return handler.restore(path, args=args)
  except Exception as error:  # Broken checkpoints raise many kinds.
    raise _unreadable(path, error) from error
  finally:
    handler.close()


def _unreadable(path: epath.Path, error: Exception) -> ValueError:
  reason = (str(error).splitlines() or [""])[0][:200]
  return ValueError(
    f"Expected a readable Orbax checkpoint at {path}, got "
    f"{type(error).__name__}: {reason}"
  )


def read_json(path: epath.Path) -> dict[str, Any]:
  handler = ocp.JsonCheckpointHandler()
  try:
    return handler.restore(path, args=ocp.args.JsonRestore())
  except Exception as error:
    raise _unreadable(path, error) from error
  finally:
    handler.close()


def json_value(name: str, value: Mapping[str, Any] | None) -> dict | None:
  """The dict as JSON gives it back, or an error that names the argument."""
  if value is None:
    return None
  try:
    return json.loads(json.dumps(dict(value)))
  except (TypeError, ValueError) as error:
    raise ValueError(
      f"Expected {name} to be a dict of JSON values, got {error}."
    ) from error


def numbered(path: epath.Path, prefix: str = r"(?:.*_)?") -> dict:
  """The steps in a directory, by number; temporary folders have no number."""
  found = {}
  for child in path.iterdir() if path.is_dir() else ():
    number = re.fullmatch(prefix + r"(\d+)", child.name)
    if number and child.is_dir():
      found[int(number[1])] = child
  return found


def is_tree(path: epath.Path) -> bool:
  names = ("_METADATA", "manifest.ocdbt", "checkpoint")
  return any((path / name).is_file() for name in names)


def read_model(path: epath.Path) -> tuple[Any, tuple[str, ...]]:
  """The trees of a checkpoint: the one here, or the items of the latest step.

  Returns:
    The tree, and () where it is one; else a dict of the trees of all items, and
    their names. What holds no arrays (texts, JSON) is passed over.

  Raises:
    ValueError: there is no checkpoint, or none that can be read.
  """
  if not path.exists():
    raise ValueError(
      f"Expected directory of an Orbax checkpoint, got {path}, which does not "
      "exist."
    )
  if is_tree(path):
    return read_tree(path), ()
  named = [name for name in _ITEMS if is_tree(path / name)]
  steps = {} if named else numbered(path)
  root = steps[max(steps)] if steps else path
  if is_tree(root):
    return read_tree(root), ()
  children = sorted(root.iterdir()) if root.is_dir() else []
  items = {child.name: child for child in children if is_tree(child)}
  is_step = bool(steps) or (root / "_CHECKPOINT_METADATA").is_file()
  known = [name for name in _ITEMS if name in items]
  if not (known or (is_step and items)):
    there = f"none, but {', '.join(items)} in it" if items else "none"
    raise ValueError(
      f"Expected directory of an Orbax checkpoint, got {path}, which holds "
      f"{there}."
    )
  trees, errors = {}, []
  for name, place in items.items():
    try:
      trees[name] = read_tree(place)
    except ValueError as error:
      errors.append(error)
  if not trees:
    raise errors[0]
  if len(trees) == 1:
    return next(iter(trees.values())), ()
  return trees, tuple(trees)


def fit(raw: Any, like: Variables, items: tuple[str, ...] = ()) -> Variables:
  """Picks the leaves that `like` names out of whatever was saved.

  Args:
    raw: the tree, or the trees of several items by name.
    like: what to look for.
    items: the names of the items, for the message.

  Raises:
    ValueError: leaves are missing, left over, or of another shape or kind; or
      several trees fit, and no name tells which is the model.
  """
  paths, beside_paths, frozen_paths = (
    [p for p, _ in flat(part)]
    for part in (like.params, like.model_state, like.frozen)
  )
  every = paths + beside_paths + frozen_paths
  saved = _plain(dict(flat(raw)), every)
  home = _home(
    saved,
    paths,
    [("params",), (), ("params", "params")]
    + [(owner, "params") for owner in _OWNERS]
    + [(owner,) for owner in _OWNERS],
    (),
  )
  near = [home[:-1], (*home[:-1], "model_state"), home, ()]
  beside = _home(saved, beside_paths, near, home)
  # An item may be a collection without its name.
  cut = 0
  if len(like.model_state) == 1 and _hits(saved, beside_paths, beside) == 0:
    cut = 1
    beside = _home(saved, [p[1:] for p in beside_paths], near, home)
  near = [(*home[:-1], "frozen"), home[:-1], home, ()]
  base = _home(saved, frozen_paths, near, home)
  source = {("params", *p): (*home, *p) for p in paths}
  source |= {("model_state", *p): (*beside, *p[cut:]) for p in beside_paths}
  source |= {("frozen", *p): (*base, *p) for p in frozen_paths}
  # Left over is what stands under the same roof and is no bookkeeping.
  roofs = [home, *((*beside, *p[cut : cut + 1]) for p in beside_paths)]
  roofs += [(*base, *p[:1]) for p in frozen_paths]
  left = [
    p
    for p in saved.keys() - set(source.values())
    if any(p[: len(roof)] == roof for roof in roofs)
    and not (home == () and p[0] in _BESIDE)
    and "rngs" not in p
  ]
  try:
    same_names([n for n, p in source.items() if p not in saved], left)
  except ValueError as error:
    if not items:
      raise
    raise ValueError(f"{error} The items are {', '.join(items)}.") from None
  fitted = [
    place(cast(saved[source[name]], leaf, name), leaf)
    for name, leaf in flat(like._asdict())
  ]
  # The order of the dict's keys is that of its leaves.
  made = jax.tree.unflatten(jax.tree.structure(like._asdict()), fitted)
  return Variables(**made)


def _plain(saved: dict[Names, Any], wanted: list[Names]) -> dict[Names, Any]:
  """Nested names: without the level "value" that an unpurified nnx state has,
  and of a flat dict "a/b" as a and b."""
  parts = {tuple("/".join(p).split("/")): v for p, v in saved.items()}
  if any(p[-1:] == ("value",) for p in wanted):
    return parts
  return {p[:-1] if p[-1:] == ("value",) else p: v for p, v in parts.items()}


def _hits(
  saved: Mapping[Names, Any], paths: Iterable[Names], prefix: Names
) -> int:
  return sum((*prefix, *p) in saved for p in paths)


def _home(
  saved: Mapping[Names, Any],
  paths: list[Names],
  known: list[Names],
  near: Names,
) -> Names:
  """The prefix under which most leaves are found.

  The first of the known ones where that has all; else, of all there are, one
  that has all, that is no copy, and that shares most with `near`.

  Raises:
    ValueError: several are as good.
  """
  hits = {prefix: _hits(saved, paths, prefix) for prefix in known}
  best = max(known, key=lambda prefix: hits[prefix])
  if not paths or hits[best] == len(paths):
    return best
  tail = max(paths, key=len)
  others = {p[: -len(tail)] for p in saved if p[-len(tail) :] == tail}
  whole = [
    p
    for p in others
    if not set(p) & set(_BESIDE) and _hits(saved, paths, p) == len(paths)
  ]
  if not whole:
    return best

  def rank(prefix: Names) -> tuple[bool, int]:
    is_copy = any(word in n.lower() for n in prefix for word in _COPIES)
    shared = sum(a == b for a, b in zip(prefix, near))
    return is_copy, -shared

  first = [p for p in whole if rank(p) == min(map(rank, whole))]
  if len(first) > 1:
    names = ", ".join(sorted("/".join(p) for p in first))
    raise ValueError(
      f"Expected one tree that fits the model, got several: {names}; name the "
      "folder of one."
    )
  return first[0]


def same_names(missing: Iterable[Names], unexpected: Iterable[Names]) -> None:
  """Raises if there are any, listing the first few."""
  parts = []
  for label, found in (("missing", missing), ("unexpected", unexpected)):
    names = sorted("/".join(name) for name in found)
    if names:
      more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
      parts.append(f"{label} {', '.join(names[:_SHOWN])}{more}")
  if parts:
    raise ValueError(f"Expected the model's leaves, got {'; '.join(parts)}.")


def cast(array: np.ndarray, like: Any, name: Names) -> np.ndarray:
  """The saved array in the dtype of `like`: floats to floats, nothing else."""
  where = "/".join(name)
  if np.shape(array) != np.shape(like):
    raise ValueError(
      f"Expected checkpoint leaf {where} of shape {np.shape(like)}, got "
      f"{np.shape(array)}."
    )
  array = np.asarray(array)
  if array.dtype == like.dtype:
    return array
  if all(jnp.issubdtype(x.dtype, jnp.floating) for x in (array, like)):
    return array.astype(like.dtype)
  raise ValueError(
    f"Expected checkpoint leaf {where} of dtype {like.dtype}, got "
    f"{array.dtype}."
  )


def place(array: Any, like: Any) -> jax.Array:
  """On the default device, or where an abstract leaf says."""
  sharding = getattr(like, "sharding", None)
  if isinstance(like, jax.ShapeDtypeStruct) and sharding is not None:
    return jax.device_put(array, sharding)
  return jnp.asarray(array)


def is_key(array: Any) -> bool:
  return hasattr(array, "dtype") and jnp.issubdtype(
    array.dtype, jax.dtypes.prng_key
  )
