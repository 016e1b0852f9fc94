"""A small variational auto-encoder of vectors, as a `Task` to be trained."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxunlearn.core import checks
from jaxunlearn.core.tasks import Task
from jaxunlearn.core.types import Losses, PyTree, Step, Variables

_LAST = {"sigmoid": jax.nn.sigmoid, "linear": lambda x: x}


class VAE(NamedTuple):
  """An auto-encoder of rows [B, d]; the task's data are `{"x": [N, d]}`.

  Attributes:
    task: its loss is |x' - x|^2 + kl_weight * KL of each row.
    rebuild: `(params, x [B, d], keys [B]) -> x' [B, d]`, with fresh latent
      noise from each row's key.
  """

  task: Task
  rebuild: Callable[[PyTree, jax.Array, jax.Array], jax.Array]


def vae(
  hidden: tuple[int, ...] = (128, 32),
  latent: int = 8,
  *,
  kl_weight: float | jax.Array = 0.025,
  output: str = "sigmoid",
) -> VAE:
  """Dense layers with ReLU to a Gaussian of `latent` numbers, and back.

  Args:
    hidden: widths on the way in; on the way out the same in reverse.
    latent: numbers in the middle.
    kl_weight: of the divergence from a standard normal, >= 0; may be traced.
    output: "sigmoid" reaches (0, 1) only; or "linear".

  Raises:
    ValueError: a width < 1, a negative weight, an unknown output.

  Example:
    >>> import jax, jax.numpy as jnp, optax
    >>> import jaxunlearn as ju
    >>> from jaxunlearn.models.vae import vae
    >>> model, key = vae(hidden=(8,), latent=2), jax.random.key(0)
    >>> data = {"x": jax.random.uniform(key, (20, 5))}
    >>> variables, info = jax.jit(lambda k: ju.train(
    ...   model.task, data, jnp.ones(20, bool), k,
    ...   ju.Fit(optax.adam(0.01), 4, 10)))(key)
    >>> made = model.rebuild(
    ...   variables.params, data["x"], jax.random.split(key, 20))
    >>> made.shape, info.loss.shape
    ((20, 5), (4,))
  """
  checks.count(
    1, latent=latent, **{f"hidden{i}": n for i, n in enumerate(hidden)}
  )
  checks.non_negative(kl_weight=kl_weight)
  checks.one_of(tuple(_LAST), output=output)

  def init(key: jax.Array, data: PyTree) -> Variables:
    width = data["x"].shape[-1]
    # Twice the latent width: a mean and the logarithm of a variance.
    inner, outer = (width, *hidden, 2 * latent), (latent, *hidden[::-1], width)
    pairs = [*itertools.pairwise(inner), *itertools.pairwise(outer)]
    weights = [
      jax.random.normal(k, pair) * (2 / pair[0]) ** 0.5
      for k, pair in zip(jax.random.split(key, len(pairs)), pairs)
    ]
    made = [{"kernel": w, "bias": jnp.zeros(w.shape[1])} for w in weights]
    half = len(inner) - 1
    return Variables({"encoder": made[:half], "decoder": made[half:]})

  def encode(params: PyTree, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    return tuple(jnp.split(_dense(params["encoder"], x), 2, axis=-1))  # type: ignore[return-value]

  def decode(params: PyTree, gaussian: tuple[jax.Array, jax.Array], keys):
    mean, log_variance = gaussian
    noise = jax.vmap(lambda k: jax.random.normal(k, (latent,)))(keys)
    z = mean + jnp.exp(0.5 * log_variance) * noise
    return _LAST[output](_dense(params["decoder"], z))

  def loss(variables: Variables, step: Step, key, *, train=False) -> Losses:
    del train  # The same in both modes.
    x = step.rows["x"].astype(jnp.float32)
    gaussian = encode(variables.params, x)
    error = decode(variables.params, gaussian, step.keys(key)) - x
    return Losses((error**2).sum(axis=-1) + kl_weight * standard_kl(*gaussian))

  def rebuild(params: PyTree, x: jax.Array, keys: jax.Array) -> jax.Array:
    return decode(params, encode(params, x), keys)

  return VAE(Task(init, loss), rebuild)


def standard_kl(mean: jax.Array, log_variance: jax.Array) -> jax.Array:
  """KL(N(mean, variance) || N(0, 1)), summed over the last axis.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn.models.vae import standard_kl
    >>> means = jnp.array([[0.0, 0.0], [3.0, 4.0]])  # Half of 25 away.
    >>> standard_kl(means, jnp.zeros((2, 2))).tolist()
    [0.0, 12.5]
  """
  terms = jnp.exp(log_variance) + mean**2 - 1 - log_variance
  return 0.5 * terms.sum(axis=-1)


def _dense(layers: list[PyTree], x: jax.Array) -> jax.Array:
  for layer in layers[:-1]:
    x = jax.nn.relu(x @ layer["kernel"] + layer["bias"][None])
  return x @ layers[-1]["kernel"] + layers[-1]["bias"][None]
