"""Searches for tokens, or embeddings, under which a model explains an image.

Source: Zhang et al. (2023), arXiv:2310.11868; see `prompt_attack`.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxunlearn.core import checks
from jaxunlearn.core.types import PyTree
from jaxunlearn.diffusion import schedules, splicing
from jaxunlearn.diffusion.training import noisy_rows, squared_error
from jaxunlearn.diffusion.types import Diffusion


class TokenSearch(NamedTuple):
  """How tokens are searched; by default as released for objects and styles.

  Attributes:
    num_tokens: static; K >= 0 tokens put in. They take the place of padding.
    insertion: static; see `splicing.insertion_points`.
    outer_steps: static; O, candidates a prompt.
    inner_steps: static; steps of the optimiser before each.
    learning_rate: of Adam on the tokens' probabilities. May be traced.
    weight_decay: added to the gradient. May be traced.
    batch_size: static; noises, each with tokens of its own, a step.
    start: static; "uniform" probabilities, or "random" ones.
  """

  num_tokens: int = 3
  insertion: str = "prefix"
  outer_steps: int = 50
  inner_steps: int = 40
  learning_rate: float | jax.Array = 0.01
  weight_decay: float | jax.Array = 0.1
  batch_size: int = 1
  start: str = "uniform"


class SoftSearch(NamedTuple):
  """How free embeddings are searched.

  Attributes:
    num_steps: static; of Adam. 0 leaves the search out.
    learning_rate: may be traced.
    batch_size: static; times and noises a step.
  """

  num_steps: int = 200
  learning_rate: float | jax.Array = 0.05
  batch_size: int = 8


PUBLISHED = TokenSearch()
SOFT = SoftSearch()


def adversarial_tokens(
  diffusion: Diffusion,
  params: PyTree,
  prompt: jax.Array,
  image: jax.Array,
  key: jax.Array,
  search: TokenSearch = PUBLISHED,
  *,
  allowed: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
  """Searches tokens under which the model denoises an image best.

  Probabilities q [K, V] are moved by Adam on the error of sampled tokens, whose
  gradient, clipped to [-1, 1], is taken for that by q, and projected on the
  simplex; q and Adam's state go on from time to time.

  Args:
    diffusion: the model.
    params: its params; nothing of them moves.
    prompt: int [L].
    image: float [H, W, C], clean.
    key: PRNG key.
    search: see `TokenSearch`; the times are those of `attack_times`.
    allowed: None, or bool [V], the tokens that may be used.

  Returns:
    The likeliest tokens after each outer step, int32 [O, K], and the errors,
    float32 [O, inner_steps].

  Example:
    >>> from jaxunlearn import toy
    >>> from jaxunlearn.diffusion import token_search
    >>> model, (params, *_), data, _, key = toy.diffusion()
    >>> search = token_search.TokenSearch(2, outer_steps=3, inner_steps=4)
    >>> tokens, loss = token_search.adversarial_tokens(
    ...   model, params, data["tokens"][0], data["x"][0], key, search
    ... )
    >>> tokens.shape, loss.shape
    ((3, 2), (3, 4))
  """
  params = jax.lax.stop_gradient(params)
  table = splicing.embedding_table(diffusion, params)
  size = table.shape[0]
  allowed = jnp.ones(size, bool) if allowed is None else jnp.asarray(allowed)
  point = splicing.insertion_points(diffusion, prompt[None], search.insertion)
  optimizer = optax.chain(
    optax.add_decayed_weights(search.weight_decay),
    optax.adam(search.learning_rate),
  )
  first_key, step_key = jax.random.split(key)
  shape = (search.batch_size, search.num_tokens)
  q = jnp.broadcast_to(allowed / allowed.sum(), (search.num_tokens, size))
  if search.start == "random":
    q = project_simplex(jax.random.uniform(first_key, q.shape), allowed)
  repeated = lambda x: jnp.broadcast_to(x, (shape[0], *x.shape[1:]))

  def error(q, t, key):
    token_key, noise_key = jax.random.split(key)
    ids = jax.random.categorical(token_key, jnp.log(q + 1e-12), shape=shape)
    chosen = straight_through(
      jnp.broadcast_to(q, (shape[0], *q.shape)),
      jax.nn.one_hot(ids, size, dtype=q.dtype),
    )
    context = splicing.encode_with(
      diffusion, params, repeated(prompt[None]), chosen @ table, repeated(point)
    )
    clean = repeated(image[None])
    noise = jax.random.normal(noise_key, clean.shape, clean.dtype)
    t = jnp.full(shape[0], t)
    x_t = schedules.add_noise(diffusion.alphas_bar, clean, noise, t)
    eps = diffusion.eps(params, x_t, t, context)
    return squared_error(eps, noise).mean()

  def inner(moving, key, t):
    q, state = moving
    loss, grad = jax.value_and_grad(error)(q, t, key)
    updates, state = optimizer.update(grad, state, q)
    return (project_simplex(q + updates, allowed), state), loss

  def outer(moving, drawn):
    t, keys = drawn
    moving, losses = jax.lax.scan(lambda m, k: inner(m, k, t), moving, keys)
    return moving, (moving[0].argmax(axis=1).astype(jnp.int32), losses)

  times = attack_times(diffusion, search.outer_steps)
  keys = jax.random.split(step_key, (len(times), search.inner_steps))
  _, found = jax.lax.scan(outer, (q, optimizer.init(q)), (times, keys))
  return found


def soft_prompt(
  diffusion: Diffusion,
  params: PyTree,
  prompt: jax.Array,
  image: jax.Array,
  key: jax.Array,
  search: SoftSearch = SOFT,
  *,
  num_tokens: int,
  insertion: str = "prefix",
) -> jax.Array:
  """Searches embeddings under which the model denoises an image best.

  They start as those of random words and are free; times are random.

  Args:
    diffusion: the model.
    params: its params; nothing of them moves.
    prompt: int [L].
    image: float [H, W, C], clean.
    key: PRNG key.
    search: see `SoftSearch`.
    num_tokens: static; K.
    insertion: static; see `splicing.insertion_points`.

  Returns:
    float [K, E].

  Example:
    >>> from jaxunlearn import toy
    >>> from jaxunlearn.diffusion import token_search
    >>> model, (params, *_), data, _, key = toy.diffusion()
    >>> search = token_search.SoftSearch(num_steps=2)
    >>> prompt, image = data["tokens"][0], data["x"][0]
    >>> token_search.soft_prompt(
    ...   model, params, prompt, image, key, search, num_tokens=2
    ... ).shape
    (2, 4)
  """
  params = jax.lax.stop_gradient(params)
  table = splicing.embedding_table(diffusion, params)
  point = splicing.insertion_points(diffusion, prompt[None], insertion)
  start_key, step_key = jax.random.split(key)
  ids = jax.random.randint(start_key, (num_tokens,), 0, table.shape[0])
  optimizer = optax.adam(search.learning_rate)
  repeated = lambda x: jnp.broadcast_to(x, (search.batch_size, *x.shape[1:]))

  def error(free, keys):
    x_t, t, noise = noisy_rows(diffusion, repeated(image[None]), keys)
    context = splicing.encode_with(
      diffusion,
      params,
      repeated(prompt[None]),
      repeated(free[None]),
      repeated(point),
    )
    return squared_error(diffusion.eps(params, x_t, t, context), noise).mean()

  def step(moving, keys):
    free, state = moving
    updates, state = optimizer.update(jax.grad(error)(free, keys), state, free)
    return (optax.apply_updates(free, updates), state), None

  keys = jax.random.split(step_key, (search.num_steps, search.batch_size))
  free = table[ids]
  (free, _), _ = jax.lax.scan(step, (free, optimizer.init(free)), keys)
  return free


def random_tokens(
  key: jax.Array, shape: tuple[int, ...], allowed: jax.Array
) -> jax.Array:
  """Tokens drawn uniformly from those allowed, bool [V]; int32 of `shape`.

  Example:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> from jaxunlearn.diffusion import token_search
    >>> allowed = jnp.array([False, False, True, False])
    >>> token_search.random_tokens(jax.random.key(0), (2, 3), allowed).tolist()
    [[2, 2, 2], [2, 2, 2]]
  """
  scores = jnp.where(allowed, 0.0, -jnp.inf)
  return jax.random.categorical(key, scores, shape=shape).astype(jnp.int32)


def attack_times(diffusion: Diffusion, outer_steps: int) -> jax.Array:
  """The times of the outer steps, least noisy first; int32 [outer_steps].

  The middles of as many equal bins of 0 .. T: 10, 30, .. 990 for 50 of 1000.

  Example:
    >>> from jaxunlearn import toy
    >>> from jaxunlearn.diffusion import token_search
    >>> token_search.attack_times(toy.diffusion().model, 4).tolist()
    [2, 7, 12, 17]
  """
  checks.counts(outer_steps=outer_steps)
  middles = (np.arange(outer_steps) + 0.5) / outer_steps
  return jnp.asarray(diffusion.num_train_steps * middles, jnp.int32)


@jax.custom_vjp
def straight_through(q: jax.Array, one_hot: jax.Array) -> jax.Array:
  """Tokens `one_hot` [..., V] that were drawn from q [..., V].

  Their gradient, clipped to [-1, 1], is handed to `q`.
  """
  del q
  return one_hot


straight_through.defvjp(
  lambda q, one_hot: (one_hot, None),
  lambda _, gradient: (jnp.clip(gradient, -1, 1), None),
)


def project_simplex(
  x: jax.Array, allowed: jax.Array | None = None
) -> jax.Array:
  """The nearest probabilities to rows x [..., V], in Euclidean distance.

  Args:
    x: float [..., V].
    allowed: None, or bool [V], True somewhere; elsewhere the result is 0.

  Returns:
    float [..., V], >= 0, rows sum to 1.

  Source: Held et al. (1974); Duchi et al. (2008).

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn.diffusion import token_search
    >>> token_search.project_simplex(jnp.array([0.75, 0.75, -1.0])).tolist()
    [0.5, 0.5, 0.0]
  """
  if allowed is not None:
    x = jnp.where(jnp.broadcast_to(allowed, x.shape), x, -jnp.inf)
  # The result is the same, and a 1 is not lost beside large entries.
  x = x - x.max(axis=-1, keepdims=True)
  falling = -jnp.sort(-x, axis=-1)
  rank = jnp.broadcast_to(jnp.arange(1, x.shape[-1] + 1), x.shape)
  excess = jnp.cumsum(jnp.where(jnp.isfinite(falling), falling, 0), axis=-1) - 1
  count = (falling * rank > excess).sum(axis=-1, keepdims=True)
  level = jnp.take_along_axis(excess, count - 1, axis=-1) / count
  return jnp.maximum(x - level, 0)
