"""What the steps of several methods have in common.

A method that knows its concept by prompts reads no data: what it trains on are
images that the model makes. A method that moves one group of parameters takes
an optimiser that is `restricted` to it.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxunlearn.core import checks
from jaxunlearn.core.links import adopt
from jaxunlearn.core.tasks import Fit
from jaxunlearn.core.transform import Transform
from jaxunlearn.core.types import PyTree, Slot
from jaxunlearn.diffusion import samplers, schedules
from jaxunlearn.diffusion.guidance import classifier_free
from jaxunlearn.diffusion.types import (
  Diffusion,
  parameter_group,
  parameter_groups,
)


def confined(fit: Fit, group: str) -> Fit:
  """A `Fit` whose optimiser is `restricted` to a group.

  Example:
    >>> import jax
    >>> import jaxunlearn as ju
    >>> import optax
    >>> from jaxunlearn import toy
    >>> from jaxunlearn.diffusion import steps
    >>> fit = steps.confined(ju.Fit(optax.adam(1e-3), num_steps=10), "xattn")
    >>> state = fit.optimizer.init(toy.diffusion().variables.params)
    >>> len(jax.tree.leaves(state))  # A count; two moments of three matrices.
    7
  """
  return fit._replace(optimizer=restricted(fit.optimizer, group))


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

  Example:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> import optax
    >>> from jaxunlearn import toy
    >>> from jaxunlearn.diffusion import steps
    >>> params = toy.diffusion().variables.params
    >>> optimizer = steps.restricted(optax.sgd(1.0), "text")
    >>> grads = jax.tree.map(jnp.ones_like, params)
    >>> updates, _ = optimizer.update(grads, optimizer.init(params), params)
    >>> float(updates["denoiser"]["gain"])
    0.0
    >>> updates["text_encoder"]["mix"][0].tolist()
    [-1.0, -1.0, -1.0, -1.0]
  """
  checks.one_of(tuple(parameter_groups({})), group=group)
  return optax.multi_transform(
    {True: optimizer, False: optax.set_to_zero()},
    lambda params: parameter_group(params, group),
  )


class Sampling(NamedTuple):
  """How a method makes images for itself, by DDIM.

  Attributes:
    num_steps: static; S, 1 .. T, steps of the sampler.
    guidance: 1 is the prompt alone; may be traced.
    num_images: static; N, images of each kind, one per prompt at least; not
      read by methods that make new ones at every step.
    chunk_size: static; images at a time, which bounds memory.
  """

  num_steps: int = 50
  guidance: float | jax.Array = 3.0
  num_images: int = 1000
  chunk_size: int = 64


SAMPLING = Sampling()


def check_sampling(diffusion: Diffusion, sampling: Sampling) -> None:
  """A sampler's steps are 1 .. T, counts positive.

  Raises:
    ValueError: they are not.

  Example:
    >>> from jaxunlearn import toy
    >>> from jaxunlearn.diffusion import steps
    >>> sampling = steps.Sampling(num_steps=50)
    >>> steps.check_sampling(toy.diffusion().model, sampling)
    Traceback (most recent call last):
      ...
    ValueError: Expected sampling.num_steps in 1 .. 20, got 50.
  """
  checks.counts(num_images=sampling.num_images, chunk_size=sampling.chunk_size)
  if not 1 <= sampling.num_steps <= diffusion.num_train_steps:
    raise ValueError(
      f"Expected sampling.num_steps in 1 .. {diffusion.num_train_steps}, got "
      f"{sampling.num_steps}."
    )


def clipped_adamw(
  learning_rate: float | jax.Array, *, weight_decay: float = 1e-2
) -> optax.GradientTransformation:
  """AdamW after clipping to norm 1, the optimiser of several released codes.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn.diffusion import steps
    >>> optimizer = steps.clipped_adamw(0.1, weight_decay=0.0)
    >>> params, grads = jnp.zeros(2), jnp.array([300.0, -400.0])
    >>> updates, _ = optimizer.update(grads, optimizer.init(params), params)
    >>> [round(u, 3) for u in updates.tolist()]  # The rate, at first.
    [-0.1, 0.1]
  """
  return optax.chain(
    optax.clip_by_global_norm(1.0),
    optax.adamw(learning_rate, weight_decay=weight_decay),
  )


def some_rows(rows: PyTree, key: jax.Array, count: int) -> PyTree:
  """Rows [count, ...] of a pytree, drawn uniformly with replacement.

  Example:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> from jaxunlearn.diffusion import steps
    >>> rows = {"x": jnp.zeros((3, 2)), "prompt": jnp.arange(3)}
    >>> drawn = steps.some_rows(rows, jax.random.key(0), 5)
    >>> drawn["x"].shape, int(drawn["prompt"].max()) < 3
    ((5, 2), True)
  """
  number = jax.random.randint(key, (count,), 0, checks.num_rows(rows, "rows"))
  return jax.tree.map(lambda leaf: leaf[number], rows)


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

  Example:
    >>> import jax
    >>> from jaxunlearn import toy
    >>> from jaxunlearn.diffusion import steps
    >>> problem = toy.diffusion()
    >>> params, tokens = problem.variables.params, problem.data["tokens"]
    >>> keys = jax.random.split(problem.key, 4)
    >>> x, number = steps.begun_images(
    ...   problem.model, params, tokens, keys, num_steps=2
    ... )
    >>> x.shape, number.shape, int(number.max()) < 2
    ((4, 2, 2, 1), (4,), True)
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
  """The times of a sampler's steps and, last, -1 for the clean image.

  Example:
    >>> from jaxunlearn import toy
    >>> from jaxunlearn.diffusion import steps
    >>> steps.step_times(toy.diffusion().model, 4).tolist()
    [19, 14, 9, 4, -1]
  """
  times = schedules.sampling_times(diffusion.num_train_steps, num_steps)
  return jnp.append(times, jnp.int32(-1))


def times_within(
  diffusion: Diffusion, num_steps: int, step: jax.Array, keys: jax.Array
) -> jax.Array:
  """Times between those of a sampler's step and of its next, int32 [B].

  Args:
    diffusion: the model.
    num_steps: static; S, of the sampler's grid.
    step: int [B], 0 .. S - 1, as `begun_images` returns it.
    keys: PRNG keys [B]; every time of the interval is as likely.

  Example:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import toy
    >>> from jaxunlearn.diffusion import steps
    >>> problem = toy.diffusion()
    >>> keys = jax.random.split(problem.key, 99)
    >>> number = jnp.zeros(99, int)  # The first of four steps, from 19 to 14.
    >>> t = steps.times_within(problem.model, 4, number, keys)
    >>> int(t.min()), int(t.max())
    (15, 19)
  """
  grid = step_times(diffusion, num_steps)
  return jax.vmap(lambda k, low, high: jax.random.randint(k, (), low, high))(
    keys, grid[step + 1] + 1, grid[step] + 1
  )


def adopt_group(average: Slot[PyTree], group: str) -> Transform:
  """A link that puts the average in the place of the params of a group.

  Others keep their bits, which averaging might round.

  Example:
    >>> import jax
    >>> import jaxunlearn as ju
    >>> from jaxunlearn import toy
    >>> from jaxunlearn.diffusion import steps
    >>> problem, average = toy.diffusion(), ju.Slot("average")
    >>> params = problem.variables.params
    >>> zeros = lambda *_: jax.tree.map(jax.numpy.zeros_like, params)
    >>> method = ju.chain(
    ...   ju.provide(average, zeros, reads="nothing"),
    ...   steps.adopt_group(average, "xattn"),
    ... )
    >>> edited, _ = method(*problem.arguments)
    >>> net = edited.params["denoiser"]
    >>> float(abs(net["attn2"]["to_k"]).max()), round(float(net["gain"]), 3)
    (0.0, 0.3)
  """

  def averaged(carry, data, request, key):
    del data, request, key
    before = carry.variables.params
    params = jax.tree.map(
      lambda moves, old, new: new.astype(old.dtype) if moves else old,
      parameter_group(before, group),
      before,
      carry[average],
    )
    return carry.variables._replace(params=params)

  return adopt(averaged)


def made_images(
  diffusion: Diffusion,
  params: PyTree,
  tokens: jax.Array,
  key: jax.Array,
  sampling: Sampling,
  *,
  is_unfinished: bool = False,
) -> dict[str, jax.Array]:
  """Images that the model makes for prompts, taken in turn.

  Args:
    diffusion: the model.
    params: its params.
    tokens: int [M, L], M > 0.
    key: one PRNG key.
    sampling: how; at least M images are made.
    is_unfinished: static; each image as it is before every one of the S steps,
      instead of at the end.

  Returns:
    {"x": float [N, H, W, C], "prompt": int32 [N], the prompt's number}; or, of
    unfinished ones, those of N * S rows, and "time": int32 [N * S].

  Example:
    >>> from jaxunlearn import toy
    >>> from jaxunlearn.diffusion import steps
    >>> problem = toy.diffusion()
    >>> params, tokens = problem.variables.params, problem.data["tokens"][:2]
    >>> sampling = steps.Sampling(num_steps=2, num_images=3, chunk_size=3)
    >>> made = steps.made_images(
    ...   problem.model, params, tokens, problem.key, sampling
    ... )
    >>> made["x"].shape, made["prompt"].tolist()
    ((3, 2, 2, 1), [0, 1, 0])
  """
  tokens = jnp.asarray(tokens)
  many = max(sampling.num_images, tokens.shape[0])
  which = jnp.arange(many, dtype=jnp.int32) % tokens.shape[0]

  def make(row):
    number, image_key = row
    keys = image_key[None]
    predictor = classifier_free(
      diffusion, params, tokens[number][None], sampling.guidance
    )
    start = samplers.start_noise(diffusion, keys)
    walk = samplers.trajectory if is_unfinished else samplers.walk
    made = walk(diffusion, predictor, start, keys, num_steps=sampling.num_steps)
    return made[:-1, 0] if is_unfinished else made[0]

  keys = samplers.image_keys(key, many)
  x = jax.lax.map(make, (which, keys), batch_size=sampling.chunk_size)
  if not is_unfinished:
    return {"x": x, "prompt": which}
  num_steps = sampling.num_steps
  times = schedules.sampling_times(diffusion.num_train_steps, num_steps)
  return {
    "x": x.reshape(-1, *diffusion.image_shape),
    "prompt": jnp.repeat(which, num_steps),
    "time": jnp.tile(times, many),
  }
