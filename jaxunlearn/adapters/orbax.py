"""Checkpoints: results of unlearning, models of users, steps of a long run.

- `save` and `load` keep one result: variables, request, key, configuration
  and version together, so that what a number was measured on can be found.
- `load_params` reads the checkpoints that users bring and fits them to a model.
- `open_store`, `save_step`, `latest`, `restore_step` and `close_store` let a
  host loop resume after a kill.

Orbax writes under a temporary name and renames what is complete. Everything is
read as host arrays first, so other devices than the writer's are no obstacle.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from jaxunlearn.core import given, stored_trees
from jaxunlearn.core.checkpoints import (
  StepStore,
  close_store,
  latest,
  open_store,
  restore_step,
  save_step,
)
from jaxunlearn.core.types import Variables

__all__ = [
  "Saved",
  "StepStore",
  "close_store",
  "latest",
  "load",
  "load_params",
  "open_store",
  "restore_step",
  "save",
  "save_step",
]

_STATE, _META = "state", "meta"
# A name of our own: no step of anyone else's can be taken for a result.
_PREFIX = "result"


class Saved(NamedTuple):
  """What `save` wrote.

  Attributes:
    variables: the model's values, on the default device.
    forget_mask: the request, [N], or None.
    key: typed PRNG key, or None.
    config: dict of JSON values, or None.
    version: the version of jaxunlearn that wrote it.
  """

  variables: Variables
  forget_mask: jax.Array | None
  key: jax.Array | None
  config: dict[str, Any] | None
  version: str


def save(
  directory: Any,
  variables: Variables,
  *,
  forget_mask: jax.Array | None = None,
  key: jax.Array | None = None,
  config: Mapping[str, Any] | None = None,
) -> None:
  """Writes one result, all of it or nothing.

  The directory holds the result as `result_0`; saving again writes `result_1`
  and removes the old one only once the new one is complete.

  Args:
    directory: where; made if missing.
    variables: `Variables`, or a bare params pytree; arrays of at least one
      entry each.
    forget_mask: the request, bool or float [N].
    key: the typed PRNG key that the method was given, `jax.random.key(seed)`.
    config: what else must be known, as JSON: nested dicts with string keys,
      lists, strings, numbers, bools and None.

  Raises:
    ValueError: if another program's checkpoint is in the way (it is left
      alone), config is not JSON, key is not typed, or a leaf is empty.

  Example:
    >>> import jax, tempfile
    >>> from jaxunlearn import toy
    >>> from jaxunlearn.adapters import orbax
    >>> _, variables, _, request, key = toy.classifier()
    >>> with tempfile.TemporaryDirectory() as folder:
    ...   orbax.save(folder, variables, forget_mask=request, key=key,
    ...              config={"method": "ssd", "alpha": 10.0})
    ...   saved = orbax.load(folder)
    >>> saved.config, int(saved.forget_mask.sum())
    ({'method': 'ssd', 'alpha': 10.0}, 15)
  """
  path = stored_trees.absolute(directory)
  if path.is_file():
    raise ValueError(f"Expected directory of results, got the file {path}.")
  given.variables(variables)
  latest_result = _latest(path)
  variables = _lifted(variables)
  state: dict[str, Any] = variables._asdict()
  meta = {
    "format": 1,
    "version": importlib.metadata.version("jaxunlearn"),
    "config": stored_trees.json_value("config", config),
    "key_impl": None,
    "integer_nodes": stored_trees.integer_nodes(state),
  }
  if forget_mask is not None:
    state["forget_mask"] = np.asarray(forget_mask)
  if key is not None:
    if not stored_trees.is_key(key):
      raise ValueError(
        f"Expected key to be typed, jax.random.key(seed), got {key!r}."
      )
    state["key_data"] = np.asarray(jax.random.key_data(key))
    meta["key_impl"] = str(jax.random.key_impl(key))
  for name, leaf in stored_trees.flat(state):
    if np.size(leaf) == 0:
      raise ValueError(
        f"Expected arrays of at least one entry, got {'/'.join(name)} of "
        f"shape {np.shape(leaf)}."
      )
  options = ocp.CheckpointManagerOptions(
    max_to_keep=1,
    step_prefix=_PREFIX,
    enable_async_checkpointing=False,
    cleanup_tmp_directories=True,
  )
  items = {
    _STATE: ocp.args.StandardSave(state),
    _META: ocp.args.JsonSave(meta),
  }
  with ocp.CheckpointManager(path, options=options) as manager:
    number = 0 if latest_result is None else latest_result[0] + 1
    manager.save(number, args=ocp.args.Composite(**items))


def load(directory: Any, like: Variables | None = None) -> Saved:
  """Reads what `save` wrote, bit for bit.

  Args:
    directory: the one given to `save`.
    like: variables of the wanted structure, arrays or `ShapeDtypeStruct`s, as
      from `jax.eval_shape(model.init, key, inputs)`. Without it dicts and lists
      come back as they were, but tuples as lists and NamedTuples as dicts.

  Raises:
    ValueError: if there is no such result, or if it does not fit `like`.

  Example:
    >>> import jax, tempfile
    >>> from jaxunlearn import toy
    >>> from jaxunlearn.adapters import orbax
    >>> model, variables, data, *_ = toy.classifier()
    >>> like = jax.eval_shape(model.init, jax.random.key(0), data["x"])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...   orbax.save(folder, variables)
    ...   saved = orbax.load(folder, like)
    >>> saved.variables.params["output"]["kernel"].shape
    (8, 4)
  """
  path = stored_trees.absolute(directory)
  found = _latest(path)
  if found is None:
    raise ValueError(f"Expected directory of a saved result, got {path}.")
  meta = stored_trees.read_json(found[1] / _META)
  raw = stored_trees.read_tree(found[1] / _STATE)
  mask, data = raw.get("forget_mask"), raw.get("key_data")
  if like is None:
    named = stored_trees.with_integers(raw, meta["integer_nodes"])
    parts = (named.get(name, {}) for name in Variables._fields)
    variables = Variables(*(jax.tree.map(jnp.asarray, part) for part in parts))
  else:
    variables = stored_trees.fit(raw, _lifted(like))
  if data is not None:
    data = jax.random.wrap_key_data(jnp.asarray(data), impl=meta["key_impl"])
  return Saved(
    variables=variables,
    forget_mask=None if mask is None else jnp.asarray(mask),
    key=data,
    config=meta["config"],
    version=meta["version"],
  )


def load_params(directory: Any, like: Variables) -> Variables:
  """Reads a model from an Orbax checkpoint, whoever wrote it.

  Understood are results of `save`, and a tree saved by a checkpointer or, in
  its latest step, by a `CheckpointManager`. The tree may be bare params, a dict
  of Flax collections (`params`, `batch_stats`, ...), a train state that holds
  them, or the pure dict of an nnx module's state. It may be spread over several
  items of a step, `params` and `batch_stats`. Optimiser state, step counts,
  random streams, texts and averaged copies beside the model are passed over.

  Args:
    directory: the checkpoint.
    like: variables of the wanted structure, arrays or `ShapeDtypeStruct`s, as
      from `jax.eval_shape(model.init, key, inputs)`.

  Returns:
    The variables, of the structure, shapes and dtypes of `like`. Floats are
    cast to other floats; nothing else is cast. A leaf of `like` that is a
    `ShapeDtypeStruct` with a sharding says where its array goes.

  Raises:
    ValueError: if nothing is there, if it is no Orbax checkpoint, if leaves are
      missing, left over, or of another shape or kind than in `like` (the line
      lists the items that are there), or if several trees fit.

  Example:
    >>> import jax, pathlib, tempfile
    >>> import orbax.checkpoint as ocp
    >>> from jaxunlearn import toy
    >>> from jaxunlearn.adapters import orbax
    >>> model, variables, data, *_ = toy.classifier()
    >>> like = jax.eval_shape(model.init, jax.random.key(0), data["x"])
    >>> with tempfile.TemporaryDirectory() as folder:  # Of another program.
    ...   path = pathlib.Path(folder, "checkpoint")
    ...   with ocp.StandardCheckpointer() as checkpointer:
    ...     checkpointer.save(path, {"params": variables.params, "step": 7})
    ...   found = orbax.load_params(path, like)
    >>> found.params["output"]["kernel"].shape
    (8, 4)
  """
  given.variables(like, "like")
  raw, items = stored_trees.read_model(stored_trees.absolute(directory))
  return stored_trees.fit(raw, _lifted(like), items)


def _lifted(variables: Any) -> Variables:
  if isinstance(variables, Variables):
    return variables
  return Variables(variables, {})


def _latest(path: epath.Path) -> tuple[int, epath.Path] | None:
  """The latest result in a directory; an error where others save theirs."""
  others = [path, *stored_trees.numbered(path).values()]
  for other in others:
    ours = other.name.startswith(f"{_PREFIX}_") and other != path
    if not ours and (
      stored_trees.is_tree(other) or (other / "_CHECKPOINT_METADATA").is_file()
    ):
      raise ValueError(
        f"Expected directory of results of save, got another checkpoint, "
        f"{other}."
      )
  return max(stored_trees.numbered(path, f"{_PREFIX}_").items(), default=None)
