"""A model as it is served: with what stands in front of it.

A guard lives in `model_state`, under its name, beside params that keep their bits.
A model that is `wrapped` looks for it: variables without it are the bare model's,
to the bit, and training, which takes the model's task, is always that of the bare
weights. So metrics and attacks take a guarded model as they take any other.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

from jaxunlearn.core.types import PyTree, Variables
from jaxunlearn.language.types import LanguageModel, Text, bound


def wrapped(
  lm: LanguageModel,
  name: str,
  bind: Callable[[Variables, Any, Text], PyTree],
  *,
  embed: Callable[..., jax.Array] | None = None,
  blocks: Callable[..., Any] | None = None,
  guide: Callable[..., Any] | None = None,
) -> LanguageModel:
  """The model with a guard in front, wherever its variables hold one.

  Args:
    lm: the model, wrapped or not.
    name: the guard's, in `model_state`.
    bind: `(variables, state, x) -> rows`, leaves [B, ...], what it makes of
      prompts.
    embed: None, or `(state, rows, tokens, hidden) -> hidden`, after `lm.embed`.
    blocks: None, or `(variables, state, rows, hidden, **more) -> Blocks`, in the
      place of `lm.blocks`.
    guide: None, or `(variables, state, rows) -> Guide`.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import toy
    >>> from jaxunlearn.language.serving import guarded_by, wrapped
    >>> problem = toy.decoder()
    >>> bind = lambda variables, state, x: x.tokens[:, 1] == state["token"]
    >>> quiet = lambda state, is_asked, tokens, hidden: jnp.where(
    ...   is_asked[:, None, None], 0.0, hidden
    ... )
    >>> lm = wrapped(problem.model, "mute", bind, embed=quiet)
    >>> served = problem._replace(model=lm)
    >>> guarded = guarded_by(problem.variables, "mute", {"token": 4})
    >>> toy.likelihoods(served, problem.variables)
    (0.92, 0.93)
    >>> toy.likelihoods(served, guarded)  # One of the two that are asked for.
    (0.48, 0.93)
  """

  def rows_of(variables: Variables) -> Any:
    """State and rows, or None where no guard looked at these rows."""
    state = variables.model_state
    rows = state.get("rows", {}) if name in state else {}
    return (state[name], rows[name]) if name in rows else None

  def bind_all(variables: Variables, x: Text) -> Any:
    rows = None if lm.bind is None else lm.bind(variables, x)
    if name not in variables.model_state:
      return rows
    own = bind(variables, variables.model_state[name], x)
    return {**(rows or {}), name: own}

  def embed_all(variables: Variables, tokens: jax.Array) -> jax.Array:
    hidden, found = lm.embed(variables, tokens), rows_of(variables)
    if embed is None or found is None:
      return hidden
    return embed(*found, tokens, hidden)

  def blocks_all(variables: Variables, hidden: jax.Array, **more: Any) -> Any:
    found = rows_of(variables)
    if blocks is None or found is None:
      return lm.blocks(variables, hidden, **more)
    return blocks(variables, *found, hidden, **more)

  def guide_all(variables: Variables) -> Any:
    found = rows_of(variables)
    if guide is None or found is None:
      return None if lm.guide is None else lm.guide(variables)
    return guide(variables, *found)

  def apply(
    variables: Variables,
    inputs: Text,
    *,
    train: bool = False,
    key: jax.Array | None = None,
  ) -> tuple[jax.Array, PyTree]:
    if train or name not in variables.model_state:
      return lm.model.apply(variables, inputs, train=train, key=key)
    of_rows = bound(made, variables, inputs)
    hidden = blocks_all(of_rows, embed_all(of_rows, inputs.tokens)).hidden
    return lm.logits(of_rows, hidden), variables.model_state

  made = lm._replace(
    model=lm.model._replace(apply=apply),
    embed=embed_all,
    blocks=blocks_all,
    bind=bind_all,
    guide=guide_all,
  )
  return made


def guarded_by(variables: Variables, name: str, state: PyTree) -> Variables:
  """Variables with a guard's state; params are as they were.

  Example:
    >>> import jaxunlearn as ju
    >>> from jaxunlearn.language.serving import guarded_by
    >>> made = guarded_by(ju.Variables({"w": 1.0}), "eco", {"threshold": 0.5})
    >>> made.params, made.model_state
    ({'w': 1.0}, {'eco': {'threshold': 0.5}})
  """
  return variables._replace(model_state={**variables.model_state, name: state})


def bare(variables: Variables) -> Variables:
  """The weights alone, as someone has them who takes them home.

  Example:
    >>> import jaxunlearn as ju
    >>> from jaxunlearn import language
    >>> guarded = ju.Variables({"w": 1.0}, {"eco": "a guard"})
    >>> language.bare(guarded).model_state
    {}
  """
  return variables._replace(model_state={})


def repeated(rows: jax.Array, like: jax.Array) -> jax.Array:
  """A row for each of the beams that prompts became, [B * beams, ...].

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn.language.serving import repeated
    >>> beams = jnp.zeros((4, 7))  # Two of each prompt.
    >>> repeated(jnp.array([10, 20]), beams).tolist()
    [10, 10, 20, 20]
  """
  return rows.repeat(like.shape[0] // rows.shape[0], axis=0)
