"""Parameters by layer: in the order of use, and as masks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core as jex_core

from jaxunlearn.core import checks
from jaxunlearn.core.tasks import Model
from jaxunlearn.core.types import PyTree, Variables

Path = tuple[Any, ...]


def layers(
  model: Model, variables: Variables, inputs: PyTree
) -> list[tuple[Path, ...]]:
  """The model's layers, from the input to the output.

  A layer is the group of parameters under one parent in the params pytree (a
  kernel and its bias). The order is that of first use in the traced forward
  pass, so it holds for any framework and for plain functions.

  Args:
    model: the model.
    variables: its variables; shapes suffice.
    inputs: an input batch; shapes suffice.

  Returns:
    One tuple of parameter paths a layer. Parameters that the forward pass does
    not use come first.
  """
  flat, treedef = jax.tree_util.tree_flatten_with_path(variables.params)
  paths = [path for path, _ in flat]

  def forward(leaves: list[Any], state: PyTree, x: PyTree) -> Any:
    params = jax.tree.unflatten(treedef, leaves)
    return model.predict(Variables(params, state), x)

  leaves = [leaf for _, leaf in flat]
  closed = jax.make_jaxpr(forward)(leaves, variables.model_state, inputs)
  order: dict[int, int] = {}
  sources = dict(zip(closed.jaxpr.invars, range(len(paths))))
  _first_uses(closed.jaxpr, sources, order)
  first: dict[Path, int] = {}
  members: dict[Path, list[Path]] = {}
  for i, path in enumerate(paths):
    parent = path[:-1]
    use = order.get(i, -1)
    first[parent] = min(first.get(parent, use), use)
    members.setdefault(parent, []).append(path)
  return [tuple(members[p]) for p in sorted(first, key=lambda p: first[p])]


def _first_uses(
  jaxpr: Any, sources: dict[Any, int], order: dict[int, int]
) -> list[int | None]:
  """Numbers parameters by when an equation first computes with them.

  Args:
    jaxpr: to walk through, inner ones included.
    sources: from a variable to the parameter that it is, cast or not; grows.
    order: from a parameter to its number; grows.

  Returns:
    Of each output the parameter that it is, or None.
  """
  find = lambda v: sources.get(v) if isinstance(v, jex_core.Var) else None
  for eqn in jaxpr.eqns:
    read = [find(v) for v in eqn.invars]
    inner = [
      (p.jaxpr if isinstance(p, jex_core.ClosedJaxpr) else p)
      for p in eqn.params.values()
      if isinstance(p, (jex_core.ClosedJaxpr, jex_core.Jaxpr))
    ]
    called = next((j for j in inner if len(j.invars) == len(read)), None)
    if called is not None:
      passed = {v: s for v, s in zip(called.invars, read) if s is not None}
      made = _first_uses(called, passed, order)
      if len(made) == len(eqn.outvars):
        sources.update(
          {v: s for v, s in zip(eqn.outvars, made) if s is not None}
        )
    elif eqn.primitive.name in ("convert_element_type", "copy", "reshape"):
      # A cast ahead of time is no use yet.
      sources.update({v: read[0] for v in eqn.outvars if read[0] is not None})
    else:
      for source in read:
        if source is not None:
          order.setdefault(source, len(order))
  return [find(v) for v in jaxpr.outvars]


def last_layers(
  model: Model, variables: Variables, inputs: PyTree, count: int
) -> PyTree:
  """A weight mask that is True on the last `count` layers.

  Normalisation layers within them are included and do not count.

  Raises:
    ValueError: count < 1 or more than the model has.

  Example:
    >>> import jax
    >>> import jaxunlearn as ju
    >>> from jaxunlearn import toy
    >>> model, variables, data, *_ = toy.classifier()
    >>> mask = ju.core.last_layers(model, variables, data["x"], count=1)
    >>> {name: bool(layer["kernel"].all()) for name, layer in mask.items()}
    {'hidden': False, 'output': True}
  """
  ordered = layers(model, variables, inputs)
  shapes = {
    path: jnp.shape(leaf)
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables.params)
  }
  heavy = [
    i
    for i, layer in enumerate(ordered)
    if any(len(shapes[path]) > 1 for path in layer)
  ]
  if not 1 <= count <= len(heavy):
    raise ValueError(
      f"Expected a number of layers in 1 .. {len(heavy)}, got {count}."
    )
  start = 0 if count == len(heavy) else heavy[-count]
  chosen = {path for layer in ordered[start:] for path in layer}
  return path_mask(variables.params, chosen)


def path_mask(params: PyTree, chosen: Sequence[Path] | set[Path]) -> PyTree:
  """A weight mask that is True on the parameters at the given paths."""
  return jax.tree_util.tree_map_with_path(
    lambda path, leaf: jnp.full(jnp.shape(leaf), path in chosen), params
  )


def stack(models: Sequence[PyTree]) -> PyTree:
  """Models of one structure as one, leaves [M, ...]: for `predict_many`.

  Raises:
    ValueError: no model, or one of another structure or of other shapes.

  Example:
    >>> import jax.numpy as jnp
    >>> import jaxunlearn as ju
    >>> models = ju.stack([{"w": jnp.zeros(3)}, {"w": jnp.ones(3)}])
    >>> models["w"].shape, models["w"][1].tolist()
    ((2, 3), [1.0, 1.0, 1.0])
  """
  if isinstance(models, Variables) or not models:
    raise ValueError(f"Expected a list of models, got {type(models).__name__}.")
  for i, other in enumerate(models):
    checks.same_structure(other, models[0], f"models[{i}]")
  return jax.tree.map(lambda *leaves: jnp.stack(leaves), *models)


def check_weight_mask(mask: Any, params: Any) -> None:
  """A mask is a prefix of `params` whose entries broadcast to theirs."""

  def fits(path: Any, entry: Any, subtree: Any) -> None:
    shape = np.shape(entry)
    if isinstance(entry, str):
      raise ValueError(f"Expected weight_mask to be numbers, got {entry!r}.")
    for leaf in jax.tree.leaves(subtree):
      wanted = np.shape(leaf)
      if len(shape) > len(wanted) or any(
        a not in (1, b) for a, b in zip(shape[::-1], wanted[::-1])
      ):
        raise ValueError(
          f"Expected weight_mask{jax.tree_util.keystr(path)} of shape {wanted} "
          f"or (), got {shape}."
        )

  structure: Any = jax.tree_util.tree_structure(mask)
  try:
    rest = structure.flatten_up_to(params)
  except ValueError as error:
    raise ValueError(
      f"Expected weight_mask to be a prefix of the params, got another tree: "
      f"{str(error).splitlines()[0]}"
    ) from error
  entries = jax.tree_util.tree_leaves_with_path(mask)
  for (path, entry), subtree in zip(entries, rest):
    fits(path, entry, subtree)
