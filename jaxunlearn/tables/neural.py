"""A tabular VAE and a conditional tabular GAN, small ones.

Xu et al. (2019), "Modeling tabular data using conditional GAN",
arXiv:1907.00503, in spirit: TVAE and CTGAN, the kinds of generators that
arXiv:2207.05295 compares. Heuristic methods; a step costs one forward and one
backward pass of small networks (the GAN's critic three, and one of second order).

Differences, all to stay small: columns are encoded by quantiles in the place of
mixtures of Gaussians. The GAN has no batch normalisation, no dropout and no
packing of rows; both players move at every step, by one Adam; a condition is the
category of a random column in a row drawn uniformly, so that rare categories are
not drawn more often than they occur. Training is a phase over the rows that a
mask selects, so that masks and keys vmap and checkpoints are those of
`alternate_with_curve`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxunlearn.core import checks
from jaxunlearn.core.columns import Columns, columns_of
from jaxunlearn.core.phase import Objective, phase
from jaxunlearn.core.recording import alternate_with_curve
from jaxunlearn.core.transform import Transform
from jaxunlearn.core.types import Draw, Request, Variables
from jaxunlearn.tables.encoding import (
  Encoding,
  check_rows,
  decode,
  draw_codes,
  encode,
  fit_encoding,
  group_log_softmax,
)
from jaxunlearn.tables.generators import Generator

_PENALTY = 10.0  # Of the critic's slope.
_TEMPERATURE = 0.2


class Learnt(NamedTuple):
  """A fitted network.

  Attributes:
    encoding: of the columns.
    variables: of the network.
  """

  encoding: Encoding
  variables: Variables


class LearntInfo(NamedTuple):
  """How it went.

  Attributes:
    loss: float32 [num_checkpoints, num_steps // num_checkpoints].
    is_finite: bool [].
    checkpoints: a `Learnt` each, leaves [num_checkpoints, ...]; the last one is
      the result.
  """

  loss: jax.Array
  is_finite: jax.Array
  checkpoints: Learnt


def tabular_vae(
  categories: Sequence[int],
  *,
  num_steps: int,
  batch_size: int = 128,
  learning_rate: float | jax.Array = 2e-3,
  latent_size: int = 16,
  width: int = 128,
  num_checkpoints: int = 1,
) -> Generator:
  """A variational autoencoder of rows.

  The loss of a row is twice what decoding costs (a normal law with learnt
  deviation for each number, cross entropy for each category) plus the divergence
  of its latent law from the standard normal one.

  Args:
    categories: static; see `resampled_rows`.
    num_steps: static, > 0; a multiple of num_checkpoints.
    batch_size: static; rows a step.
    learning_rate: of Adam. May be traced.
    latent_size: static.
    width: static; of the hidden layers.
    num_checkpoints: static; how often the network is kept on the way.

  Returns:
    A `Generator` whose state is a `Learnt` and whose info is a `LearntInfo`.

  Raises:
    ValueError: a count that is not positive or not a multiple.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from jaxunlearn import tables
    >>> generator = tables.tabular_vae(
    ...   [0, 2], num_steps=4, batch_size=16, latent_size=2, width=8)
    >>> x = jnp.column_stack([jnp.arange(40.0), jnp.arange(40) % 2])
    >>> state, info = jax.jit(generator.fit)(
    ...   x, jnp.ones(40, bool), jax.random.key(0))
    >>> made = generator.sample(state, jax.random.key(1), 5)
    >>> made.shape, bool(info.is_finite), info.loss.shape
    ((5, 2), True, (1, 4))
  """
  from jaxunlearn.tables.networks import Autoencoder

  columns = columns_of(categories)
  checks.counts(latent_size=latent_size, width=width)
  split = len(columns.numeric)
  module = Autoencoder(columns.num_features, split, latent_size, width)

  def objective(variables, batch, key):
    x = batch.rows["x"]
    noise = jax.random.normal(key, (len(x), latent_size), x.dtype)
    outputs, spread, mean, log_std = module.apply(
      {"params": variables.params}, x, noise
    )
    off = (x[:, :split] - outputs[:, :split]) / jnp.exp(spread)[None]
    numbers = (off**2 / 2 + spread[None]).sum(axis=1)
    chosen = group_log_softmax(outputs[:, split:], columns) * x[:, split:]
    variance = jnp.exp(2 * log_std)
    divergence = (mean**2 + variance - 1 - 2 * log_std).sum(axis=1) / 2
    return 2 * (numbers - chosen.sum(axis=1)) + divergence

  def init(key, x):
    noise = jnp.zeros((len(x), latent_size), x.dtype)
    return module.init(key, x, noise)["params"]

  def features(params, key, num_rows):
    latent_key, number_key = jax.random.split(key)
    z = jax.random.normal(latent_key, (num_rows, latent_size))
    outputs, spread = module.apply({"params": params}, z, method="decode")
    noise = jax.random.normal(number_key, (num_rows, split), outputs.dtype)
    scores = outputs[:, :split] + jnp.exp(spread)[None] * noise
    return scores, outputs[:, split:]

  fitting = _training(
    objective,
    optax.adam(learning_rate),
    num_steps=num_steps,
    batch_size=batch_size,
    num_checkpoints=num_checkpoints,
  )
  return _generator(
    columns,
    fitting,
    init,
    lambda state, k, n: features(state.variables.params, k, n),
  )


def tabular_gan(
  categories: Sequence[int],
  *,
  num_steps: int,
  batch_size: int = 128,
  learning_rate: float | jax.Array = 2e-4,
  latent_size: int = 32,
  width: int = 128,
  num_checkpoints: int = 1,
) -> Generator:
  """A conditional Wasserstein GAN of rows, with a penalty on the critic's slope.

  A row's condition is its category in one column at random. The critic learns
  D(fake) - D(real) + 10 (|slope| - 1)^2, the generator -D(fake) plus the cross
  entropy of the condition.

  Args:
    categories: static; see `resampled_rows`.
    num_steps: static, > 0; a multiple of num_checkpoints.
    batch_size: static; rows a step.
    learning_rate: of Adam (0.5, 0.9), for both players. May be traced.
    latent_size: static; of the noise.
    width: static; of the hidden layers.
    num_checkpoints: static; how often the network is kept on the way.

  Returns:
    A `Generator` whose state is a `Learnt` and whose info is a `LearntInfo`; the
    loss is the sum of both players'.

  Raises:
    ValueError: a count that is not positive or not a multiple.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from jaxunlearn import tables
    >>> generator = tables.tabular_gan(
    ...   [0, 2], num_steps=4, batch_size=16, latent_size=2, width=8)
    >>> x = jnp.column_stack([jnp.arange(40.0), jnp.arange(40) % 2])
    >>> state, info = jax.jit(generator.fit)(
    ...   x, jnp.ones(40, bool), jax.random.key(0))
    >>> made = generator.sample(state, jax.random.key(1), 5)
    >>> made.shape, bool(info.is_finite), info.loss.shape
    ((5, 2), True, (1, 4))
  """
  from jaxunlearn.tables.networks import Critic, Synthesiser

  columns = columns_of(categories)
  checks.counts(latent_size=latent_size, width=width)
  split, num_columns = len(columns.numeric), len(columns.categorical)
  maker, critic = Synthesiser(columns.num_features, width), Critic(width)
  make = lambda params, *args: maker.apply({"params": params}, *args)
  judge = lambda params, *args: critic.apply({"params": params}, *args)

  def chosen_column(key, num_rows, dtype):
    """Indicators [B, L] of the levels of one random column a row."""
    place = jax.random.randint(key, (num_rows, 1), 0, max(num_columns, 1))
    return (place == columns.level_group[None]).astype(dtype)

  def objective(variables, batch, key):
    x = batch.rows["x"]
    size = len(x)
    pick_key, noise_key, gumbel_key, mix_key = jax.random.split(key, 4)
    asked = chosen_column(pick_key, size, x.dtype)
    condition = asked * x[:, split:]
    noise = jax.random.normal(noise_key, (size, latent_size), x.dtype)
    outputs = make(variables.params["maker"], noise, condition)
    logits = outputs[:, split:]
    gumbel = jax.random.gumbel(gumbel_key, logits.shape, x.dtype)
    soft = jnp.exp(group_log_softmax((logits + gumbel) / _TEMPERATURE, columns))
    fake = jnp.concatenate([outputs[:, :split], soft], axis=1)
    # Each player sees the other as it is: one sum of losses trains both.
    own, seen = variables.params["critic"], jax.lax.stop_gradient(fake)
    frozen = jax.lax.stop_gradient(own)
    share = jax.random.uniform(mix_key, (size, 1), x.dtype)
    mixed = share * x + (1 - share) * seen
    slope = jax.grad(lambda rows: judge(own, rows, condition).sum())(mixed)
    length = jnp.sqrt((slope**2).sum(axis=1) + 1e-12)
    critic_loss = judge(own, seen, condition) - judge(own, x, condition)
    critic_loss += _PENALTY * (length - 1) ** 2
    missed = -(group_log_softmax(logits, columns) * condition).sum(axis=1)
    return critic_loss - judge(frozen, fake, condition) + missed

  def init(key, x):
    maker_key, critic_key = jax.random.split(key)
    noise = jnp.zeros((len(x), latent_size), x.dtype)
    condition = x[:, split:]
    return {
      "maker": maker.init(maker_key, noise, condition)["params"],
      "critic": critic.init(critic_key, x, condition)["params"],
    }

  def features(state, key, num_rows):
    pick_key, level_key, noise_key = jax.random.split(key, 3)
    logits = jnp.log(state.encoding.shares)
    codes = draw_codes(
      jnp.broadcast_to(logits[None], (num_rows, len(logits))),
      level_key,
      columns,
    )
    hot = codes[:, columns.level_group] == columns.level_code[None]
    asked = chosen_column(pick_key, num_rows, logits.dtype)
    condition = jnp.where(hot, asked, 0)
    noise = jax.random.normal(noise_key, (num_rows, latent_size), logits.dtype)
    outputs = make(state.variables.params["maker"], noise, condition)
    return outputs[:, :split], outputs[:, split:]

  fitting = _training(
    objective,
    optax.adam(learning_rate, b1=0.5, b2=0.9),
    num_steps=num_steps,
    batch_size=batch_size,
    num_checkpoints=num_checkpoints,
  )
  return _generator(columns, fitting, init, features)


def _training(
  objective: Objective,
  optimizer: optax.GradientTransformation,
  *,
  num_steps: int,
  batch_size: int,
  num_checkpoints: int,
) -> Transform:
  """One optimiser's way over the retain rows, with stops."""
  checks.counts(
    num_steps=num_steps, batch_size=batch_size, num_checkpoints=num_checkpoints
  )
  if num_steps % num_checkpoints:
    raise ValueError(
      f"Expected num_steps to be a multiple of num_checkpoints, got "
      f"{num_steps} and {num_checkpoints}."
    )
  stretch = phase(
    objective,
    optimizer,
    num_steps // num_checkpoints,
    draw=Draw(retain=batch_size),
    name="fit",
  )
  return alternate_with_curve(
    stretch, rounds=num_checkpoints, evaluate=lambda variables: variables
  )


def _generator(
  columns: Columns,
  fitting: Transform,
  init: Callable[[jax.Array, jax.Array], Any],
  features: Callable[[Learnt, jax.Array, int], tuple[jax.Array, jax.Array]],
) -> Generator:
  """`fit` and `sample` around a network's training and its outputs."""

  def fit(x, weights, key):
    x, weights = check_rows(x, weights, columns)
    encoding = fit_encoding(x, weights, columns)
    rows = {"x": encode(encoding, x, columns)}
    weights = jnp.asarray(weights).astype(jnp.float32)
    left_out = 1 - weights
    init_key, fit_key = jax.random.split(key)
    like = jnp.zeros((1, columns.num_features), x.dtype)
    variables = Variables(init(init_key, like))
    variables, info = fitting(
      variables, rows, Request(left_out, weights), fit_key
    )
    many = len(info["fit"].loss)
    stacked = jax.tree.map(
      lambda leaf: jnp.broadcast_to(leaf[None], (many, *leaf.shape)), encoding
    )
    learnt = LearntInfo(
      info["fit"].loss,
      info["fit"].is_finite.all(),
      Learnt(stacked, info["curve"]),
    )
    return Learnt(encoding, variables), learnt

  def sample(state: Learnt, key: jax.Array, num_rows: int) -> jax.Array:
    feature_key, code_key = jax.random.split(key)
    scores, logits = features(state, feature_key, num_rows)
    # As numbers stay in the range of the rows learnt from, so do categories.
    logits = jnp.where(state.encoding.shares[None] > 0, logits, -jnp.inf)
    codes = draw_codes(logits, code_key, columns)
    return decode(state.encoding, scores, codes, columns)

  return Generator(fit, sample)
