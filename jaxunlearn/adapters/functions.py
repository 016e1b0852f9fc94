"""A `Model` from plain functions, and the loss that all adapters default to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax

from jaxunlearn.adapters.flags import FLAG_SIGNS, keywords
from jaxunlearn.core import checks
from jaxunlearn.core.tasks import Model
from jaxunlearn.core.types import PyTree, Variables
from jaxunlearn.losses.classification import cross_entropy

Loss = Callable[[jax.Array, PyTree], jax.Array]


def default_loss(outputs: jax.Array, rows: PyTree) -> jax.Array:
  """Softmax cross entropy of each row's label.

  Args:
    outputs: logits [B, ..., C]; at least float32 is computed in.
    rows: a batch with `rows["label"]`, integer classes [B, ...] in [0, C).

  Returns:
    float32 [B], in nats; the mean over any axes between the first and the last.

  Raises:
    ValueError: if the rows have no label, or if the labels do not fit the
      outputs, are no integers, or (outside jit) out of range.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn.adapters.functions import default_loss
    >>> rows = {"label": jnp.array([0, 1])}
    >>> losses = default_loss(jnp.array([[50.0, 0.0], [0.0, 0.0]]), rows)
    >>> [round(v, 3) for v in losses.tolist()]  # Sure and right; undecided.
    [0.0, 0.693]
  """
  if not isinstance(rows, Mapping) or "label" not in rows:
    found = sorted(rows) if isinstance(rows, Mapping) else type(rows).__name__
    raise ValueError(
      f'Expected rows with a "label" for the default loss, got {found}; '
      "pass loss=(outputs, rows) -> [B] for other data."
    )
  losses = cross_entropy(outputs, rows["label"])
  return losses.reshape(losses.shape[0], -1).mean(axis=1)


def from_functions(
  init: Callable[[jax.Array, PyTree], Any],
  apply: Callable[..., Any],
  *,
  loss: Loss | None = None,
  features: Callable[[Variables, PyTree], dict[str, jax.Array]] | None = None,
  has_state: bool = False,
) -> Model:
  """Makes a `Model` of two plain functions.

  Args:
    init: `(key, inputs) -> params`; with `has_state` it returns `Variables`.
    apply: `(params, inputs) -> outputs [B, ...]`; with `has_state`
      `(variables, inputs) -> (outputs, model_state)`. If it has parameters
      named `train` and `key` (or `**kwargs`), they are passed by keyword: a
      bool, and the step's key, which is None in evaluation mode. The usual
      other names of the former are known, `is_training` or `deterministic`.
    loss: `(outputs, rows) -> [B]`; `default_loss` if None.
    features: `(variables, inputs) -> {name: [B, ...]}`, or None.
    has_state: whether the model carries state; static.

  Returns:
    The model. In evaluation mode it hands back the state that it was given,
    whatever `apply` returns.

  Raises:
    ValueError: if one is no function; if `init` does not return `Variables` where `has_state` asks
      for them; if the model has state and `apply` does not return a pair.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> model = from_functions(
    ...   lambda key, x: {"w": jax.random.normal(key, (x.shape[1], 3))},
    ...   lambda params, x: x @ params["w"],
    ... )
    >>> variables = model.init(jax.random.key(0), jnp.ones((1, 4)))
    >>> model.predict(variables, jnp.ones((2, 4))).shape
    (2, 3)
  """
  checks.functions(init=init, apply=apply, loss=loss or default_loss)
  wanted = keywords(apply, ("train", "key"))
  others = [] if "train" in wanted else keywords(apply, tuple(FLAG_SIGNS))

  def init_variables(key: jax.Array, inputs: PyTree) -> Variables:
    made = init(key, inputs)
    if isinstance(made, Variables):
      return made
    if has_state:
      raise ValueError(
        "Expected init to return Variables(params, model_state) with "
        f"has_state=True, got {type(made).__name__}."
      )
    return Variables(made, {})

  def apply_variables(
    variables: Variables,
    inputs: PyTree,
    *,
    train: bool = False,
    key: jax.Array | None = None,
  ) -> tuple[jax.Array, PyTree]:
    given = {"train": train, "key": key if train else None}
    kwargs = {name: given[name] for name in wanted}
    kwargs |= {name: train == FLAG_SIGNS[name] for name in others}
    if not has_state:
      return apply(variables.params, inputs, **kwargs), variables.model_state
    made = apply(variables, inputs, **kwargs)
    if not isinstance(made, tuple) or len(made) != 2:
      raise ValueError(
        "Expected apply to return (outputs, model_state) with has_state=True, "
        f"got {type(made).__name__}."
      )
    outputs, state = made
    return outputs, state if train else variables.model_state

  return Model(init_variables, apply_variables, loss or default_loss, features)
