"""Who's Harry Potter, as a guard: says less of what a reinforced model says more of.

Class: heuristic guard; the original's weights are not touched. Model state: the
reinforced weights and the strength, under "whp".
Source: Eldan and Russinovich (2023), arXiv:2310.02238, in the form that MUSE
(arXiv:2407.06460) runs: logits v - alpha relu(v_reinforced - v) of the model that
is served, no fine-tuning on generic labels and no dictionary of names.
Data access: forget rows. Cost: a gradient of them per step of reinforcing; while
serving a second forward pass of every token, and twice the memory.
"""

from __future__ import annotations

from typing import Any, Unpack

import jax
import jax.numpy as jnp

from jaxunlearn.core import checks
from jaxunlearn.core.combinators import chain
from jaxunlearn.core.links import adopt
from jaxunlearn.core.tasks import Fit, FitFields, as_fit
from jaxunlearn.core.transform import Carry, Transform
from jaxunlearn.core.types import PyTree, Variables
from jaxunlearn.language.types import LanguageModel, Text, check_text
from jaxunlearn.methods.task_vector import reinforce
from jaxunlearn.models.decoder import Blocks

NAME = "whp"


def whp(
  lm: LanguageModel,
  fit: Fit | None = None,
  *,
  strength: float | jax.Array = 1.0,
  **fields: Unpack[FitFields],
) -> Transform:
  """Reinforces a copy on the forget rows; serve the pair by `whp_model`.

  Args:
    lm: the model, wrapped or not; a bare one ignores the guard.
    fit: of the reinforcing; published: 10 epochs.
    strength: alpha >= 0; 0 is the original. May be traced.
    **fields: the fields of `Fit` by keyword.

  Returns:
    A `Transform`; params come back as they were.

  Raises:
    ValueError: strength < 0.

  Example:
    >>> import jaxunlearn as ju
    >>> import optax
    >>> from jaxunlearn import language, toy
    >>> problem = toy.decoder()
    >>> fit = ju.Fit(optax.adam(0.05), num_steps=2, batch_size=2)
    >>> method = language.whp(problem.model, fit, strength=5.0)
    >>> after, info = method(*problem.arguments)
    >>> toy.likelihoods(problem, after)  # The bare model does not look at it.
    (0.92, 0.93)
    >>> served = problem._replace(model=language.whp_model(problem.model))
    >>> toy.likelihoods(served, after)
    (0.29, 0.57)
  """
  fit = as_fit(fit, fields)
  checks.non_negative(strength=strength)

  def put(carry: Carry, *_: Any) -> Variables:
    state = {
      "reinforced": carry.variables.params,
      "strength": jnp.asarray(strength, jnp.float32),
    }
    before = carry.original
    return before._replace(model_state={**before.model_state, NAME: state})

  return chain(reinforce(lm, fit), adopt(put, name="guard"), name="whp")


def whp_model(lm: LanguageModel) -> LanguageModel:
  """The model with the guard of `whp`, where its variables have one.

  Variables without it have the bits of the bare model, and training is always that
  of the bare weights. While both run, hidden states and caches hold the two models'
  side by side; `states` are the original's.

  Example:
    >>> import jax
    >>> from jaxunlearn import language, toy
    >>> problem = toy.decoder()
    >>> served = problem._replace(model=language.whp_model(problem.model))
    >>> toy.likelihoods(served, problem.variables)  # Without a guard: bare.
    (0.92, 0.93)
    >>> stronger = jax.tree.map(lambda w: 1.2 * w, problem.variables.params)
    >>> state = {"reinforced": stronger, "strength": 5.0}
    >>> guarded = problem.variables._replace(model_state={"whp": state})
    >>> toy.likelihoods(served, guarded)
    (0.0, 0.0)
  """

  def pair(variables: Variables) -> tuple[Variables, Variables]:
    reinforced = variables.model_state[NAME]["reinforced"]
    return variables, variables._replace(params=reinforced)

  def is_guarded(variables: Variables) -> bool:
    return NAME in variables.model_state

  def embed(variables: Variables, tokens: jax.Array) -> jax.Array:
    if not is_guarded(variables):
      return lm.embed(variables, tokens)
    both = [lm.embed(each, tokens) for each in pair(variables)]
    return jnp.concatenate(both, axis=-1)

  def blocks(
    variables: Variables, hidden: jax.Array, *, cache: Any = None, **more: Any
  ) -> Blocks:
    if not is_guarded(variables):
      return lm.blocks(variables, hidden, cache=cache, **more)
    halves = jnp.split(hidden, 2, axis=-1)
    first, second = (
      lm.blocks(each, half, cache=_half(lm, cache, i), **more)
      for i, (each, half) in enumerate(zip(pair(variables), halves))
    )
    hidden = jnp.concatenate([first.hidden, second.hidden], axis=-1)
    if first.cache is None or second.cache is None:
      return first._replace(hidden=hidden)
    join = lambda a, b: jnp.concatenate([a, b], axis=-2)
    cache = first.cache._replace(
      key=join(first.cache.key, second.cache.key),
      value=join(first.cache.value, second.cache.value),
    )
    return first._replace(hidden=hidden, cache=cache)

  def logits(variables: Variables, hidden: jax.Array) -> jax.Array:
    if not is_guarded(variables):
      return lm.logits(variables, hidden)
    halves = jnp.split(hidden, 2, axis=-1)
    own, more = map(lm.logits, pair(variables), halves)
    strength = variables.model_state[NAME]["strength"]
    return own - strength * jax.nn.relu(more - own)

  def apply(
    variables: Variables,
    inputs: Text,
    *,
    train: bool = False,
    key: jax.Array | None = None,
  ) -> tuple[jax.Array, PyTree]:
    if train or not is_guarded(variables):
      return lm.model.apply(variables, inputs, train=train, key=key)
    check_text(inputs, lm.config)
    hidden = blocks(variables, embed(variables, inputs.tokens)).hidden
    return logits(variables, hidden), variables.model_state

  model = lm.model._replace(apply=apply)
  return lm._replace(model=model, embed=embed, blocks=blocks, logits=logits)


def _half(lm: LanguageModel, cache: Any, which: int) -> Any:
  """One model's part of a cache; an empty one is that of both."""
  if cache is None or cache.key.shape[-2] == lm.config.num_kv_heads:
    return cache
  cut = lambda leaf: jnp.split(leaf, 2, axis=-2)[which]
  return cache._replace(key=cut(cache.key), value=cut(cache.value))
