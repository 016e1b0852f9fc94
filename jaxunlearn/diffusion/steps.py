"""What the steps of several methods have in common.

A method that knows its concept by prompts reads no data: what it trains on are
images that the model makes. A method that moves one group of parameters takes
an optimiser that is `restricted` to it.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxunlearn.core import checks
from jaxunlearn.core.types import PyTree
from jaxunlearn.diffusion import samplers, schedules
from jaxunlearn.diffusion.guidance import classifier_free
from jaxunlearn.diffusion.types import (
  Diffusion,
  check_tokens,
  parameter_group,
  parameter_groups,
)


def restricted(
  optimizer: optax.GradientTransformation, group: str
) -> optax.GradientTransformation:
  """An optimiser that sees and moves one group of parameters only.

  The others have neither gradient nor update: they take no part in a norm by
  which gradients are clipped, weight decay leaves them alone, the optimiser has
  no state for them, and they keep their bits.

  Args:
    optimizer: any optax optimiser.
    group: static; a name of `parameter_groups`.

  Raises:
    ValueError: there is no such group; from `init`, the params have none of it.
  """
  checks.one_of(tuple(parameter_groups({})), group=group)
  return optax.multi_transform(
    {True: optimizer, False: optax.set_to_zero()},
    lambda params: parameter_group(params, group),
  )


def check_prompts(
  diffusion: Diffusion, tokens: Any, name: str, *, may_be_empty: bool = False
) -> jax.Array:
  """The prompts of a concept, int [M, L] with M > 0; none is the empty prompt.

  Args:
    diffusion: the model.
    tokens: what is checked.
    name: how messages call it.
    may_be_empty: allows the empty prompt, as what comes in a concept's place.

  Raises:
    ValueError: they are not.
  """
  check_tokens(diffusion, tokens, name)
  if jnp.shape(tokens)[0] == 0:
    raise ValueError(f"Expected {name} to hold prompts, got none.")
  null = diffusion.null_tokens
  known = checks.is_concrete(tokens) and checks.is_concrete(null)
  if known and not may_be_empty:
    empty = (np.asarray(tokens) == np.asarray(null)).all(axis=1)
    if empty.any():
      raise ValueError(
        f"Expected {name} to name a concept, got the empty prompt at "
        f"{int(empty.argmax())}."
      )
  return jnp.asarray(tokens)


def check_sampler_steps(diffusion: Diffusion, sampler_steps: int) -> None:
  """A sampler has from one step to as many as the model has times.

  Raises:
    ValueError: it has not.
  """
  if not 1 <= sampler_steps <= diffusion.num_train_steps:
    raise ValueError(
      f"Expected sampler_steps in 1 .. {diffusion.num_train_steps}, got "
      f"{sampler_steps}."
    )


def clipped_adamw(
  learning_rate: float | jax.Array, *, weight_decay: float = 1e-2
) -> optax.GradientTransformation:
  """AdamW after clipping to norm 1, the optimiser of several released codes."""
  return optax.chain(
    optax.clip_by_global_norm(1.0),
    optax.adamw(learning_rate, weight_decay=weight_decay),
  )


def draw_numbers(count: int, keys: jax.Array) -> jax.Array:
  """A number of 0 .. count - 1 for each key [B]; int32 [B]."""
  return jax.vmap(lambda key: jax.random.randint(key, (), 0, count))(keys)


def begun_images(
  diffusion: Diffusion,
  params: PyTree,
  tokens: jax.Array,
  keys: jax.Array,
  *,
  num_steps: int = 50,
  guidance: float | jax.Array = 3.0,
) -> tuple[jax.Array, jax.Array]:
  """Images that a sampler began and left at a random step, each its own.

  Nothing is differentiated. The batch costs 2 evaluations of the network an
  image for each step up to the last at which one of its images is left.

  Args:
    diffusion: the model.
    params: of the sampler (DDIM).
    tokens: int [B, L], a prompt an image.
    keys: PRNG keys [B], of the new or the old kind.
    num_steps: static; S, of the sampler's grid.
    guidance: of the sampler; may be traced.

  Returns:
    x_t [B, H, W, C] and the number of the step at which each was left, int32
    [B], uniform over 0 .. S - 1; its time is
    `schedules.sampling_times(T, S)[step]`. At step 0 it is pure noise.
  """
  frozen = jax.lax.stop_gradient(params)
  keys = samplers.image_keys(keys, tokens.shape[0])

  def begin(prompt, key):
    stop_key, walk_key = jax.random.split(key)
    stop = jax.random.randint(stop_key, (), 0, num_steps)
    one = walk_key[None]
    noise = samplers.start_noise(diffusion, one)
    x = samplers.walk(
      diffusion,
      classifier_free(diffusion, frozen, prompt[None], guidance),
      _varying_like(noise, frozen),
      one,
      num_steps=num_steps,
      stop=stop,
    )
    return x[0], stop

  return jax.lax.stop_gradient(jax.vmap(begin)(tokens, keys))


def _varying_like(x: jax.Array, tree: PyTree) -> jax.Array:
  """`x` as it is; under `shard_map` it varies over the axes that leaves do.

  A loop's carry has to begin as what the loop makes of it.
  """
  zeros = (jnp.zeros_like(p, x.dtype, shape=()) for p in jax.tree.leaves(tree))
  return sum(zeros, x)


def step_times(diffusion: Diffusion, num_steps: int) -> jax.Array:
  """The times of a sampler's steps and, last, -1 for the clean image."""
  times = schedules.sampling_times(diffusion.num_train_steps, num_steps)
  return jnp.append(times, jnp.int32(-1))


def made_images(
  diffusion: Diffusion,
  params: PyTree,
  tokens: jax.Array,
  key: jax.Array,
  *,
  num_images: int,
  num_steps: int = 50,
  guidance: float | jax.Array = 3.0,
  chunk_size: int = 64,
) -> dict[str, jax.Array]:
  """Images that the model makes for prompts, taken in turn.

  Args:
    diffusion: the model.
    params: its params.
    tokens: int [M, L], M > 0.
    key: one PRNG key.
    num_images: static; N.
    num_steps: static; of the sampler.
    guidance: of the sampler; may be traced.
    chunk_size: static; images at a time, which bounds memory.

  Returns:
    {"x": float [N, H, W, C], "prompt": int32 [N], the prompt's number}.

  Raises:
    ValueError: a count that is not positive; as `sample`.
  """
  checks.positive(num_images=num_images, chunk_size=chunk_size)
  tokens = jnp.asarray(tokens)
  which = jnp.arange(num_images, dtype=jnp.int32) % tokens.shape[0]

  def make(row):
    number, image_key = row
    return samplers.sample(
      diffusion,
      params,
      tokens[number][None],
      image_key[None],
      num_steps=num_steps,
      guidance=guidance,
    )[0]

  keys = jax.random.split(key, num_images)
  images = jax.lax.map(make, (which, keys), batch_size=chunk_size)
  return {"x": images, "prompt": which}
