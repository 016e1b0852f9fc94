"""Steps of a long run: written one after the other, resumed from the latest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from jaxunlearn.core import checks, stored_trees
from jaxunlearn.core.types import PyTree

_STATE, _META = "state", "meta"


class StepStore(NamedTuple):
  """An open directory of steps; see `open_store`."""

  directory: epath.Path
  manager: ocp.CheckpointManager


def open_store(directory: Any, keep: int = 2) -> StepStore:
  """Opens, or makes, a directory of steps to resume from.

  Saving is synchronous: a step that `save_step` returned from survives a kill,
  and a kill in the middle of it leaves the earlier steps as they are. What such
  a kill left behind is cleared here: one run owns the directory.

  Args:
    directory: where; made if missing.
    keep: how many of the latest steps to keep, at least 1.

  Raises:
    ValueError: if keep < 1, or if a file is there.

  Example:
    >>> import tempfile
    >>> import jax.numpy as jnp
    >>> from jaxunlearn.adapters import orbax
    >>> with tempfile.TemporaryDirectory() as folder:
    ...   store = orbax.open_store(folder, keep=2)
    ...   for step in (10, 20, 30):
    ...     orbax.save_step(store, step, {"w": jnp.full(2, float(step))})
    ...   print(orbax.latest(store))
    ...   orbax.close_store(store)
    30
  """
  checks.count(keep=keep)
  path = stored_trees.absolute(directory)
  if path.exists() and not path.is_dir():
    raise ValueError(f"Expected a directory of steps, got the file {path}.")
  if stored_trees.is_tree(path):
    raise ValueError(
      f"Expected a directory of steps, got a checkpoint: {path}."
    )
  options = ocp.CheckpointManagerOptions(
    max_to_keep=keep,
    enable_async_checkpointing=False,
    cleanup_tmp_directories=True,
  )
  return StepStore(path, ocp.CheckpointManager(path, options=options))


def close_store(store: StepStore) -> None:
  """Ends the store's threads; the directory can be opened again.

  Example:
    >>> import tempfile
    >>> from jaxunlearn.adapters import orbax
    >>> with tempfile.TemporaryDirectory() as folder:
    ...   for _ in range(2):  # The second time it is there already.
    ...     store = orbax.open_store(folder)
    ...     print(orbax.latest(store))
    ...     orbax.close_store(store)
    None
    None
  """
  store.manager.close()


def latest(store: StepStore) -> int | None:
  """The highest complete step, or None.

  Example:
    >>> import tempfile
    >>> import jax.numpy as jnp
    >>> from jaxunlearn.adapters import orbax
    >>> with tempfile.TemporaryDirectory() as folder:
    ...   store = orbax.open_store(folder)
    ...   print(orbax.latest(store))
    ...   orbax.save_step(store, 7, {"w": jnp.ones(2)})
    ...   print(orbax.latest(store))
    ...   orbax.close_store(store)
    None
    7
  """
  return store.manager.latest_step()


def save_step(
  store: StepStore,
  step: int,
  tree: PyTree,
  metadata: Mapping[str, Any] | None = None,
) -> None:
  """Writes the state of a run.

  Args:
    store: from `open_store`.
    step: higher than every step in the store.
    tree: any pytree of arrays, typed PRNG keys among them. Its structure is not
      written, `restore_step` is told it: NamedTuples, optax states and empty
      nodes come back as they were.
    metadata: dict of JSON values.

  Raises:
    ValueError: if the step is not the highest, a leaf is no array, or the
      metadata are not JSON.

  Example:
    >>> import tempfile
    >>> import jax, jax.numpy as jnp
    >>> from jaxunlearn.adapters import orbax
    >>> state = {"w": jnp.array([1.0, 2.0]), "key": jax.random.key(3)}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...   store = orbax.open_store(folder)
    ...   orbax.save_step(store, 5, state, {"seed": 3})
    ...   found, metadata = orbax.restore_step(store, 5, state)
    ...   orbax.close_store(store)
    >>> found["w"].tolist(), metadata
    ([1.0, 2.0], {'seed': 3})
  """
  last = latest(store)
  if last is not None and step <= last:
    raise ValueError(f"Expected step > {last}, the latest, got step={step}.")
  arrays, records = {}, []
  for i, (name, leaf) in enumerate(stored_trees.flat(tree)):
    if not hasattr(leaf, "dtype"):
      raise ValueError(f"Expected array leaves, got {'/'.join(name)}={leaf!r}.")
    record = _record(name, leaf)
    if stored_trees.is_key(leaf):
      record["key_impl"] = str(jax.random.key_impl(leaf))
      leaf = jax.random.key_data(leaf)
    if jax.process_count() > 1 and getattr(leaf, "is_fully_addressable", False):
      leaf = np.asarray(leaf)  # The same in each process: the first writes it.
    if leaf.size:  # Orbax refuses empty arrays; their shape says it all.
      arrays[str(i)] = leaf
    records.append(record)
  meta = {
    "leaves": records,
    "metadata": stored_trees.json_value("metadata", metadata),
  }
  items = {_META: ocp.args.JsonSave(meta)}
  if arrays:
    items[_STATE] = ocp.args.StandardSave(arrays)
  store.manager.save(step, args=ocp.args.Composite(**items))


def read_metadata(store: StepStore, step: int) -> dict[str, Any] | None:
  """The metadata given to `save_step`, without the tree."""
  return stored_trees.read_json(store.directory / str(step) / _META)["metadata"]


def restore_step(
  store: StepStore, step: int, abstract_tree: PyTree
) -> tuple[PyTree, dict[str, Any] | None]:
  """Reads what `save_step` wrote, bit for bit.

  Args:
    store: from `open_store`.
    step: one that the store holds, such as `latest(store)`.
    abstract_tree: the structure, of arrays or `ShapeDtypeStruct`s, as from
      `jax.eval_shape`. A `ShapeDtypeStruct` with a sharding is put there.

  Returns:
    The tree and the metadata.

  Raises:
    ValueError: if there is no such step, or if it holds another tree.

  Example:
    >>> import tempfile
    >>> import jax, jax.numpy as jnp
    >>> from jaxunlearn.adapters import orbax
    >>> state = {"w": jnp.array([1.0, 2.0])}
    >>> shapes = jax.eval_shape(lambda: state)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...   store = orbax.open_store(folder)
    ...   orbax.save_step(store, 5, state)
    ...   found, _ = orbax.restore_step(store, orbax.latest(store), shapes)
    ...   orbax.close_store(store)
    >>> found["w"].tolist()
    [1.0, 2.0]
  """
  steps = sorted(store.manager.all_steps())
  if step not in steps:
    raise ValueError(f"Expected step among {steps}, got step={step}.")
  path = store.directory / str(step)
  meta = stored_trees.read_json(path / _META)
  records, wanted = meta["leaves"], stored_trees.flat(abstract_tree)
  _check(records, wanted)
  arrays = stored_trees.read_tree(path / _STATE) if _has_arrays(records) else {}
  leaves = []
  for i, (record, (_, like)) in enumerate(zip(records, wanted)):
    if 0 in record["shape"]:
      leaves.append(jnp.zeros(like.shape, like.dtype))
    elif "key_impl" in record:
      data = jnp.asarray(arrays[str(i)])
      leaves.append(jax.random.wrap_key_data(data, impl=record["key_impl"]))
    else:
      leaves.append(stored_trees.place(arrays[str(i)], like))
  structure = jax.tree.structure(abstract_tree)
  return jax.tree.unflatten(structure, leaves), meta["metadata"]


def _record(name: stored_trees.Names, leaf: Any) -> dict[str, Any]:
  return {
    "path": list(name),
    "shape": list(np.shape(leaf)),
    "dtype": str(leaf.dtype),
  }


def _has_arrays(records: list[dict[str, Any]]) -> bool:
  return any(0 not in record["shape"] for record in records)


def _check(records: list[dict[str, Any]], wanted: list) -> None:
  """The step holds the leaves of the wanted tree, in this order."""
  saved = {tuple(record["path"]) for record in records}
  names = {name for name, _ in wanted}
  stored_trees.same_names(names - saved, saved - names)
  for record, (name, leaf) in zip(records, wanted):
    expected = _record(name, leaf)
    for field in ("path", "shape", "dtype"):
      if record[field] != expected[field]:
        raise ValueError(
          f"Expected checkpoint leaf {'/'.join(name)} of {field} "
          f"{expected[field]}, got {record[field]}."
        )
