"""The denoising loss of prompted images, and training under a mask.

Data is {"x": float [N, H, W, C], "tokens": int [N, L], ...}, a request a bool
mask over its rows; the model retrained without a concept is `train` under the
mask of the other rows.

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
import optax

from jaxunlearn.core import checks
from jaxunlearn.core.phase import Objective, phase
from jaxunlearn.core.training import map_many
from jaxunlearn.core.types import Draw, PhaseInfo, PyTree, Transform, Variables
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
    keys: PRNG keys [B], one a row.
    times: (low, high), t is uniform over low .. high - 1; by default all times.
      May be traced.
  """
  low, high = (0, diffusion.num_train_steps) if times is None else times

  def draw(key, image):
    time_key, noise_key = jax.random.split(key)
    t = jax.random.randint(time_key, (), low, high)
    return t, jax.random.normal(noise_key, image.shape, image.dtype)

  t, noise = jax.vmap(draw)(keys, x)
  return schedules.add_noise(diffusion.alphas_bar, x, noise, t), t, noise


def row_keys(key: jax.Array, slot: jax.Array) -> jax.Array:
  """A key for each row of a step's batch, whatever device holds it; [B]."""
  return jax.vmap(jax.random.fold_in, (None, 0))(key, slot)


def squared_error(predicted: jax.Array, wanted: jax.Array) -> jax.Array:
  """Mean over pixels and channels of the squared difference; float32 [B]."""
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
    time_weights: None, or float [T]; see `denoising`.
  """
  error = squared_error(predicted, wanted)
  return error if time_weights is None else error * jnp.asarray(time_weights)[t]


def check_time_weights(diffusion: Diffusion, time_weights: Any) -> None:
  """Weights of the loss at each time are None or float [T] >= 0.

  Raises:
    ValueError: they are not.
  """
  if time_weights is None:
    return
  wanted = (diffusion.num_train_steps,)
  if jnp.shape(time_weights) != wanted:
    raise ValueError(
      f"Expected time_weights of shape {wanted}, got {jnp.shape(time_weights)}."
    )
  if checks.is_concrete(time_weights):
    checks.non_negative(time_weights=np.asarray(time_weights).min())


def denoising(
  diffusion: Diffusion,
  *,
  null_rate: float | jax.Array = 0.1,
  augment: Augment | None = None,
  time_weights: jax.Array | None = None,
) -> Objective:
  """The training loss ||eps(x_t, t, prompt) - noise||^2 of rows, an objective.

  Time, noise and what happens to the prompt are drawn from the step's key and
  the row's slot.

  Args:
    diffusion: the model.
    null_rate: share of rows that get the empty prompt instead, in [0, 1]; may
      be traced.
    augment: static; None, or what is done to each prompt before: `drop_words`.
    time_weights: None, or float [T] >= 0 that multiply the loss at each time:
      `1 / alphas_bar` makes it the loss of the v-prediction, in which the noisy
      times, where the prompt decides, weigh more.

  Returns:
    `(variables, batch, key) -> losses [B]`, means over pixels.

  Raises:
    ValueError: null_rate outside [0, 1], time weights of another shape or
      negative; from the objective, rows that do not fit the model.
  """
  checks.fraction(null_rate=null_rate)
  check_time_weights(diffusion, time_weights)

  def objective(variables, batch, key):
    check_data(diffusion, batch.rows)
    x, tokens = batch.rows["x"], batch.rows["tokens"]

    def prompt(tokens, key):
      null_key, word_key = jax.random.split(key)
      if augment is not None:
        tokens = augment(tokens, word_key)
      is_null = jax.random.bernoulli(null_key, null_rate)
      return jnp.where(is_null, diffusion.null_tokens, tokens)

    keys = jax.vmap(jax.random.split)(row_keys(key, batch.slot))
    x_t, t, noise = noisy_rows(diffusion, x, keys[:, 0])
    tokens = jax.vmap(prompt)(tokens, keys[:, 1])
    params = variables.params
    context = diffusion.encode(params, tokens)
    predicted = diffusion.eps(params, x_t, t, context)
    return noise_error(predicted, noise, t, time_weights)

  return objective


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
  """
  rates = jnp.asarray(rates)
  if rates.ndim != 1 or not jnp.issubdtype(rates.dtype, jnp.floating):
    raise ValueError(
      f"Expected rates of float dtype [V], got {rates.dtype} {rates.shape}."
    )
  if checks.is_concrete(rates):
    found = np.asarray(rates)
    checks.fraction(lowest_rate=found.min(), highest_rate=found.max())

  def augment(tokens, key):
    kept = jax.random.uniform(key, tokens.shape) >= rates[tokens]
    order = jnp.argsort(~kept, stable=True)
    return jnp.where(kept[order], tokens[order], pad).astype(tokens.dtype)

  return augment


def fitting(
  diffusion: Diffusion,
  *,
  optimizer: optax.GradientTransformation,
  num_steps: int,
  batch_size: int,
  null_rate: float | jax.Array = 0.1,
  augment: Augment | None = None,
  time_weights: jax.Array | None = None,
  name: str = "fit",
) -> Transform:
  """The phase that fits the denoising loss on the retain rows.

  Fine-tuning as a method, or the way to go on training. Arguments and errors
  are those of `train`; an empty pool of rows teaches nothing.
  """
  checks.positive(batch_size=batch_size)
  return phase(
    denoising(
      diffusion,
      null_rate=null_rate,
      augment=augment,
      time_weights=time_weights,
    ),
    optimizer,
    num_steps,
    draw=Draw(retain=batch_size),
    name=name,
  )


def train(
  diffusion: Diffusion,
  data: PyTree,
  weights: jax.Array,
  key: jax.Array,
  *,
  optimizer: optax.GradientTransformation,
  num_steps: int,
  batch_size: int,
  null_rate: float | jax.Array = 0.1,
  augment: Augment | None = None,
  time_weights: jax.Array | None = None,
) -> tuple[Variables, PhaseInfo]:
  """Trains a fresh model on the rows that a mask selects.

  Args:
    diffusion: what to train.
    data: {"x": float [N, H, W, C] in [-1, 1], "tokens": int [N, L], ...}.
    weights: bool [N], True = train on the row; or float weights in [0, 1].
    key: decides the initial params and all draws. The same key and an all-True
      mask give the same bits whatever the request was.
    optimizer: any optax optimiser.
    num_steps: static.
    batch_size: static; rows a step, drawn without replacement within an epoch.
    null_rate: see `denoising`.
    augment: see `denoising`.
    time_weights: see `denoising`.

  Returns:
    The trained variables and the `PhaseInfo` of the run.

  Raises:
    ValueError: weights of a wrong shape or dtype, (outside jit) weights outside
      [0, 1], no rows to train on or rows to train on that are not finite, rows
      that do not fit the model, tokens out of range, a count that is not
      positive.
  """
  check_data(diffusion, data)
  checks.request(data, weights, "weights")
  weights = jnp.asarray(weights)
  _check_rows(data, weights)
  init_key, fit_key = jax.random.split(key)
  fit = fitting(
    diffusion,
    optimizer=optimizer,
    num_steps=num_steps,
    batch_size=batch_size,
    null_rate=null_rate,
    augment=augment,
    time_weights=time_weights,
  )
  left_out = ~weights if weights.dtype == jnp.bool_ else 1 - weights
  return fit(Variables(diffusion.init(init_key)), data, left_out, fit_key)


def train_many(
  diffusion: Diffusion,
  data: PyTree,
  weights: jax.Array,
  keys: jax.Array,
  *,
  strategy: str | int = "vmap",
  mesh: jax.sharding.Mesh | None = None,
  **recipe: Any,
) -> tuple[Variables, PhaseInfo]:
  """Trains a model for every mask of a stack, in one program.

  Args:
    diffusion: what to train.
    data: shared by all.
    weights: bool or float [M, N], a mask a model.
    keys: PRNG keys [M]; equal keys give models that differ by their mask only.
    strategy: see `core.training.map_many`.
    mesh: see there.
    **recipe: the keyword arguments of `train`.

  Returns:
    Variables and infos with a leading axis [M].

  Raises:
    ValueError: as `map_many` and `train`.
  """
  return map_many(
    lambda mask, key: train(diffusion, data, mask, key, **recipe),
    weights,
    keys,
    strategy=strategy,
    mesh=mesh,
  )


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
  """
  wanted = ("x", "tokens") if prompted else ("x",)
  if not isinstance(data, dict) or any(name not in data for name in wanted):
    found = sorted(data) if isinstance(data, dict) else type(data).__name__
    names = " and ".join(f'"{name}"' for name in wanted)
    raise ValueError(f"Expected data with {names}, got {found}.")
  check_images(diffusion, data["x"], 'data["x"]')
  if prompted:
    check_tokens(diffusion, data["tokens"], 'data["tokens"]')


def _check_rows(data: PyTree, weights: jax.Array) -> None:
  """Where it can be looked at: rows are selected, and those are finite."""
  if not checks.is_concrete(weights):
    return
  found = np.asarray(weights)
  if not ((found >= 0) & (found <= 1)).all():
    raise ValueError("Expected weights in [0, 1], got values outside.")
  taken = found > 0
  if not taken.any():
    raise ValueError("Expected weights to select rows, got none.")
  if checks.is_concrete(data["x"]):
    finite = np.isfinite(np.asarray(data["x"])).reshape(len(taken), -1)
    bad = int((taken & ~finite.all(axis=1)).sum())
    if bad:
      raise ValueError(
        f'Expected data["x"] to be finite where it is trained on, got {bad} '
        "rows with nan or infinite values."
      )
