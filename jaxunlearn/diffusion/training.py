"""The denoising loss of prompted images, which the generic methods train by.

Data is {"x": float [N, H, W, C], "tokens": int [N, L], ...}; the model retrained
without a concept is `ju.train` under the mask of the other rows.

Source: Ho et al. (2020), arXiv:2006.11239, equation 14, averaged over pixels
instead of summed; dropped prompts as in Ho and Salimans (2022),
arXiv:2207.12598.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxunlearn.core import checks
from jaxunlearn.core.shaped import arrays, shaped
from jaxunlearn.core.tasks import Task
from jaxunlearn.core.types import Losses, PyTree, Step, Variables
from jaxunlearn.diffusion import schedules
from jaxunlearn.diffusion.types import Diffusion, check_images, check_tokens

# `(tokens int [L], key) -> tokens int [L]`, what a prompt becomes in training.
Augment = Callable[[jax.Array, jax.Array], jax.Array]


def noisy_rows(
  diffusion: Diffusion,
  x: jax.Array,
  keys: jax.Array,
  *,
  times: tuple[int | jax.Array, int | jax.Array] | None = None,
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Images at random times: (x_t [B, H, W, C], t int32 [B], noise).

  Args:
    diffusion: its schedule is taken.
    x: clean images [B, H, W, C].
    keys: PRNG keys [B], one per row.
    times: (low, high), t is uniform over low .. high - 1; by default all times.
      May be traced.

  Example:
    >>> import jax
    >>> from jaxunlearn import toy
    >>> from jaxunlearn.diffusion import training
    >>> problem = toy.diffusion()
    >>> keys = jax.random.split(problem.key, 4)
    >>> x_t, t, noise = training.noisy_rows(
    ...   problem.model, problem.data["x"], keys, times=(5, 6)
    ... )
    >>> x_t.shape, t.tolist()
    ((4, 2, 2, 1), [5, 5, 5, 5])
  """
  low, high = (0, diffusion.num_train_steps) if times is None else times

  def draw(key, image):
    time_key, noise_key = jax.random.split(key)
    t = jax.random.randint(time_key, (), low, high)
    return t, jax.random.normal(noise_key, image.shape, image.dtype)

  t, noise = jax.vmap(draw)(keys, x)
  return schedules.add_noise(diffusion.alphas_bar, x, noise, t), t, noise


def squared_error(predicted: jax.Array, wanted: jax.Array) -> jax.Array:
  """Mean over pixels and channels of the squared difference; float32 [B].

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn.diffusion import training
    >>> ones = jnp.ones((2, 2, 2, 1))
    >>> training.squared_error(3 * ones, ones).tolist()
    [4.0, 4.0]
  """
  dtype = jnp.promote_types(jnp.float32, predicted.dtype)
  error = jnp.square(predicted.astype(dtype) - wanted.astype(dtype))
  return error.reshape(error.shape[0], -1).mean(axis=1)


def noise_error(
  predicted: jax.Array,
  wanted: jax.Array,
  t: jax.Array,
  time_weights: jax.Array | None = None,
) -> jax.Array:
  """The `squared_error` of noise, times what its time weighs; float32 [B].

  Args:
    predicted: [B, H, W, C].
    wanted: of that shape.
    t: int [B].
    time_weights: None, or float [T]; see `denoising_task`.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn.diffusion import training
    >>> ones, t = jnp.ones((2, 2, 2, 1)), jnp.array([0, 1])
    >>> training.noise_error(3 * ones, ones, t, jnp.array([1.0, 0.5])).tolist()
    [4.0, 2.0]
  """
  error = squared_error(predicted, wanted)
  return error if time_weights is None else error * jnp.asarray(time_weights)[t]


def check_time_weights(diffusion: Diffusion, time_weights: Any) -> None:
  """Weights of the loss at each time are None or float [T] >= 0.

  Raises:
    ValueError: they are not.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import toy
    >>> from jaxunlearn.diffusion import training
    >>> model = toy.diffusion().model
    >>> training.check_time_weights(model, 1 / model.alphas_bar)
    >>> training.check_time_weights(model, jnp.ones(3))
    Traceback (most recent call last):
      ...
    ValueError: Expected time_weights [20], got shape (3,).
  """
  if time_weights is None:
    return
  wanted = (diffusion.num_train_steps,)
  shaped(f"time_weights {list(wanted)}", time_weights)
  if checks.is_concrete(time_weights):
    checks.non_negative(time_weights=np.asarray(time_weights).min())


def denoising_task(
  diffusion: Diffusion,
  *,
  null_rate: float | jax.Array = 0.1,
  augment: Augment | None = None,
  time_weights: jax.Array | None = None,
) -> Task:
  """The training loss ||eps(x_t, t, prompt) - noise||^2 of rows, as a `Task`.

      variables, info = ju.train(denoising_task(model), data, mask, key, Fit(...))

  Time, noise and what happens to the prompt are drawn from the step's key and
  the row's place. Prompts are changed in training mode only.

  Args:
    diffusion: the model.
    null_rate: share of rows that get the empty prompt instead, in [0, 1]; may
      be traced.
    augment: static; None, or what is done to each prompt before: `drop_words`.
    time_weights: None, or float [T] >= 0 that multiply the loss at each time:
      `1 / alphas_bar` makes it the loss of the v-prediction, in which the noisy
      times, where the prompt decides, weigh more.

  Returns:
    A `Task` for data {"x": float [N, H, W, C] in [-1, 1], "tokens": int [N, L]};
    losses are means over pixels.

  Raises:
    ValueError: null_rate outside [0, 1], time weights of another shape or
      negative; from `init` and the loss, rows that do not fit the model.

  Example:
    >>> import optax
    >>> import jaxunlearn as ju
    >>> from jaxunlearn import diffusion, toy
    >>> model, _, data, request, key = toy.diffusion()
    >>> task = diffusion.denoising_task(model, null_rate=0.2)
    >>> variables, info = ju.train(
    ...   task, data, request.retain, key, optimizer=optax.sgd(0.1), num_steps=2
    ... )
    >>> info.loss.shape, int(info.retain_count)
    ((2,), 2)
  """
  checks.fraction(null_rate=null_rate)
  check_time_weights(diffusion, time_weights)

  def init(key: jax.Array, data: PyTree) -> Variables:
    check_data(diffusion, data)
    return Variables(diffusion.init(key))

  def loss(
    variables: Variables, step: Step, key: jax.Array, *, train: bool = False
  ) -> Losses:
    check_data(diffusion, step.rows)
    params = variables.params
    keys = jax.vmap(jax.random.split)(step.keys(key))
    x_t, t, noise = noisy_rows(diffusion, step.rows["x"], keys[:, 0])
    tokens = step.rows["tokens"]
    if train:
      change = lambda row, key: changed_prompts(
        diffusion, row, key, null_rate, augment
      )[0]
      tokens = jax.vmap(change)(tokens, keys[:, 1])
    predicted = diffusion.eps(params, x_t, t, diffusion.encode(params, tokens))
    return Losses(noise_error(predicted, noise, t, time_weights))

  return Task(init, loss)


def changed_prompts(
  diffusion: Diffusion,
  tokens: jax.Array,
  key: jax.Array,
  null_rate: float | jax.Array,
  augment: Augment | None,
  relabel: Augment | None = None,
) -> jax.Array:
  """What training makes of a prompt, and of another one in its place.

  Args:
    diffusion: the model.
    tokens: int [L].
    key: PRNG key.
    null_rate: see `denoising_task`.
    augment: see `denoising_task`.
    relabel: None, or what makes the other prompt of the changed one; both are
      dropped together.

  Returns:
    int [1, L], or with `relabel` [2, L].

  Example:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import toy
    >>> from jaxunlearn.diffusion import training
    >>> model, key = toy.diffusion().model, jax.random.key(0)
    >>> prompt = jnp.array([1, 3, 2, 0, 0])
    >>> training.changed_prompts(model, prompt, key, 0.0, None).tolist()
    [[1, 3, 2, 0, 0]]
    >>> training.changed_prompts(model, prompt, key, 1.0, None).tolist()
    [[1, 0, 0, 0, 0]]
  """
  null_key, word_key, new_key = jax.random.split(key, 3)
  if augment is not None:
    tokens = augment(tokens, word_key)
  prompts = tokens[None]
  if relabel is not None:
    prompts = jnp.stack([tokens, relabel(tokens, new_key)])
  is_null = jax.random.bernoulli(null_key, null_rate)
  return jnp.where(is_null, diffusion.null_tokens[None], prompts)


def drop_words(rates: jax.Array, pad: int = 0) -> Augment:
  """Drops words of a prompt at random; the others move up, padding follows.

  Args:
    rates: float [V], with which probability a token is dropped; 0 for the marks
      of start and padding.
    pad: the token that fills the end.

  Returns:
    An `Augment`.

  Raises:
    ValueError: rates that are no probabilities [V].

  Example:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import diffusion
    >>> augment = diffusion.drop_words(jnp.array([0.0, 0.0, 0.0, 1.0]))
    >>> augment(jnp.array([1, 3, 2, 0, 0]), jax.random.key(0)).tolist()
    [1, 2, 0, 0, 0]
  """
  rates = arrays("rates float [V]", rates)
  if checks.is_concrete(rates):
    found = np.asarray(rates)
    checks.fraction(lowest_rate=found.min(), highest_rate=found.max())

  def augment(tokens, key):
    kept = jax.random.uniform(key, tokens.shape) >= rates[tokens]
    order = jnp.argsort(~kept, stable=True)
    return jnp.where(kept[order], tokens[order], pad).astype(tokens.dtype)

  return augment


def check_data(
  diffusion: Diffusion, data: PyTree, *, prompted: bool = True
) -> None:
  """Rows are images and prompts of the model's shapes.

  Args:
    diffusion: the model.
    data: {"x": float [N, H, W, C], "tokens": int [N, L], ...}.
    prompted: static; whether "tokens" are wanted.

  Raises:
    ValueError: they are not, or a leaf is missing.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import toy
    >>> from jaxunlearn.diffusion import training
    >>> data = {"x": jnp.zeros((4, 2, 2, 1))}
    >>> training.check_data(toy.diffusion().model, data, prompted=False)
    >>> training.check_data(toy.diffusion().model, data)
    Traceback (most recent call last):
      ...
    ValueError: Expected data to have 'x' and 'tokens', got 'x'.
  """
  checks.columns(data, *(("x", "tokens") if prompted else ("x",)))
  check_images(diffusion, data["x"], 'data["x"]')
  if prompted:
    check_tokens(diffusion, data["tokens"], 'data["tokens"]')
