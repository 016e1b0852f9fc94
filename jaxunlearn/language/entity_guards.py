"""Two guards for an entity: words before every prompt, a push on the activations.

Each makes of a `LanguageModel` another one, which metrics, attacks and generation
take as it is; its variables are those of the model below. Nothing is trained, so
nothing is forgotten: who has the weights has it all.

Class: heuristic. Model state: none. Data access: the entity's name.
Cost: a prefix costs its tokens in every call, a push nothing.
Sources: in-context unlearning as RWKU runs it (Jin et al., 2024, arXiv:2406.10890),
a system sentence to act as if the entity were unknown; representation engineering,
Zou et al. (2023), arXiv:2310.01405, a vector from prompts of a novice and an
expert, added with strength 0.5 to 1.5.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxunlearn.core.shaped import arrays, shaped
from jaxunlearn.core.types import Variables
from jaxunlearn.language.types import LanguageModel, Text, check_text
from jaxunlearn.models.decoder import Blocks, Cache, Edits, States


def prefix_guard(
  lm: LanguageModel, prefix: jax.Array, there: jax.Array | None = None
) -> LanguageModel:
  """The model with the same tokens before every text.

  Args:
    lm: the model.
    prefix: int32 [P]; of no tokens, the model itself. May be traced. Texts have
      to leave room for it in the model's context.
    there: None, or bool [P], the tokens of it that are seen; others take a
      position and nothing else, so that prefixes of several lengths share a shape.

  Returns:
    A `LanguageModel`. Hidden states and logits are of the text's own tokens.

  Raises:
    ValueError: a prefix or a mask of another shape or dtype.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import language, toy
    >>> problem = toy.decoder()
    >>> lm = language.prefix_guard(problem.model, jnp.array([2, 2, 2]))
    >>> guarded = problem._replace(model=lm)
    >>> toy.likelihoods(guarded, problem.variables)  # It was 0.92 and 0.93.
    (0.94, 0.94)
  """
  prefix = arrays("prefix int [P]", prefix)
  size = prefix.shape[0]
  there = jnp.ones(size, bool) if there is None else there
  there = arrays(f"there bool [{size}]", there)
  if not size:
    return lm

  def blocks(
    variables: Variables,
    hidden: jax.Array,
    *,
    positions: jax.Array | None = None,
    mask: jax.Array | None = None,
    cache: Cache | None = None,
    **more: Any,
  ) -> Blocks:
    if cache is not None and positions is not None:
      # The text goes on behind a prefix that is in the cache.
      return lm.blocks(
        variables,
        hidden,
        positions=positions + size,
        mask=mask,
        cache=cache,
        **more,
      )
    batch, length = hidden.shape[:2]
    before = lm.embed(variables, jnp.tile(prefix[None], (batch, 1)))
    if positions is not None:
      first = jnp.tile(jnp.arange(size)[None], (batch, 1))
      own = jnp.broadcast_to(positions, (batch, length)) + size
      positions = jnp.concatenate([first, own], axis=1)
    seen = jnp.tile(there[None], (batch, 1))
    own_mask = jnp.ones((batch, length), bool) if mask is None else mask
    mask = jnp.concatenate([seen, own_mask], axis=1)
    out = lm.blocks(
      variables,
      jnp.concatenate([before.astype(hidden.dtype), hidden], axis=1),
      positions=positions,
      mask=mask,
      cache=None if cache is None else _with_room(cache, size),
      **more,
    )
    own_states = jax.tree.map(lambda state: state[:, :, size:], out.states)
    return Blocks(out.hidden[:, size:], out.cache, own_states)

  return _guarded(lm, blocks)


def activation_guard(
  lm: LanguageModel, vector: jax.Array, strength: float | jax.Array
) -> LanguageModel:
  """The model with a vector added to the stream after each block.

  Args:
    lm: the model.
    vector: float [layers, D], see `control_vector`; zeros leave a layer alone.
      May be traced.
    strength: its factor; 0 is the model itself. May be traced.

  Raises:
    ValueError: a vector of another shape.

  Example:
    >>> from jaxunlearn import language, toy
    >>> problem = toy.decoder()
    >>> lm, variables = problem.model, problem.variables
    >>> expert, novice = problem.data["x"], problem.data["alternative"]
    >>> vector = language.control_vector(lm, variables, novice, expert)
    >>> for strength in (0.0, 1.0):
    ...   pushed = language.activation_guard(lm, vector, strength)
    ...   print(toy.likelihoods(problem._replace(model=pushed), variables))
    (0.92, 0.93)
    (0.28, 0.0)
  """
  wanted = (lm.config.num_layers, lm.config.width)
  shaped(f"vector {list(wanted)}", vector)

  def blocks(
    variables: Variables, hidden: jax.Array, *, edits: Any = None, **more: Any
  ) -> Blocks:
    if edits is not None:
      raise ValueError(
        "Expected no edits beside an activation guard, got some."
      )
    everywhere = jnp.ones((wanted[0], hidden.shape[1]), bool)
    push = States(residual=strength * jnp.asarray(vector))
    edits = Edits(States(residual=everywhere), push, add=True)
    return lm.blocks(variables, hidden, edits=edits, **more)

  return _guarded(lm, blocks)


def control_vector(
  lm: LanguageModel, variables: Variables, novice: Text, expert: Text
) -> jax.Array:
  """The way from an expert's states to a novice's, float [layers, D].

  The mean over prompts of the difference of the streams at their last tokens.

  Args:
    lm: the model.
    variables: its values.
    novice: [B, L], prompts that say that the entity is unknown.
    expert: [B, L'], the same that say that it is known well.

  Raises:
    ValueError: see `check_text`; not as many of both.

  Example:
    >>> from jaxunlearn import language, toy
    >>> problem = toy.decoder()
    >>> expert, novice = problem.data["x"], problem.data["alternative"]
    >>> language.control_vector(
    ...   problem.model, problem.variables, novice, expert
    ... ).shape
    (2, 16)
  """
  if novice.tokens.shape[:1] != expert.tokens.shape[:1]:
    raise ValueError(
      "Expected as many novice as expert prompts, got "
      f"{novice.tokens.shape[0]} and {expert.tokens.shape[0]}."
    )

  def last(x: Text) -> jax.Array:
    check_text(x, lm.config)
    states = lm.blocks(variables, lm.embed(variables, x.tokens)).states
    place = jnp.maximum(x.length - 1, 0)[None, :, None, None]
    return jnp.take_along_axis(states.residual, place, axis=2)[:, :, 0]

  return (last(novice) - last(expert)).mean(axis=1)


def _guarded(lm: LanguageModel, blocks: Any) -> LanguageModel:
  """The model with other blocks, in whatever runs them."""

  def apply(
    variables: Variables,
    inputs: Text,
    *,
    train: bool = False,
    key: jax.Array | None = None,
  ) -> tuple[jax.Array, Any]:
    del train, key
    check_text(inputs, lm.config)
    hidden = blocks(variables, lm.embed(variables, inputs.tokens)).hidden
    return lm.logits(variables, hidden), variables.model_state

  model = lm.model._replace(apply=apply, features=None)
  task = lm.task._replace(predict=model.predict, features=None)
  return lm._replace(model=model, blocks=blocks, task=task)


def _with_room(cache: Cache, size: int) -> Cache:
  """An empty cache with more slots."""
  wider = lambda x, axis, value: jnp.pad(
    x,
    [(0, size if i == axis else 0) for i in range(x.ndim)],
    constant_values=value,
  )
  return cache._replace(
    key=wider(cache.key, 2, 0),
    value=wider(cache.value, 2, 0),
    position=wider(cache.position, 1, -1),
  )
