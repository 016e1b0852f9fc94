"""Moving latents towards what a prompt names: the mapper of StyleCLIP, in small.

Source: arXiv:2103.17249 and its released code. Differences: one network for all
layers, without equalised rates; the optimiser is the caller's; latents are not
truncated.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxunlearn.core import checks
from jaxunlearn.core.combinators import chain
from jaxunlearn.core.links import provide
from jaxunlearn.core.phase import phase
from jaxunlearn.core.recording import record
from jaxunlearn.core.shaped import arrays
from jaxunlearn.core.tasks import Fit
from jaxunlearn.core.transform import Transform
from jaxunlearn.core.types import PyTree, Request, Slot, Variables
from jaxunlearn.gan.networks import GENERATOR, Gan

# `x [B, *shape] -> embeddings [B, E]`, of any length.
Encoder = Callable[[jax.Array], jax.Array]
_SHIFT = 0.1


class Keep(NamedTuple):
  """A loss that holds samples to what they were.

  Attributes:
    weight: >= 0; may be traced.
    distance: `(before [B, *shape], after) -> [B]`: pixels, features, an identity.
  """

  weight: float | jax.Array
  distance: Callable[[jax.Array, jax.Array], jax.Array]


class Mapper(NamedTuple):
  """How the latent mapper is trained.

  Attributes:
    fit: of the phase, `batch_size` latents a step.
    hidden: width of each of its layers but the last.
    near: weight of the mean squared shift of w.
    keep: further losses between the edited and the plain sample.
  """

  fit: Fit = Fit(optax.adam(3e-3), 300, 16)
  hidden: Sequence[int] = (32, 32)
  near: float | jax.Array = 0.8
  keep: Sequence[Keep] = ()


MAPPER = Mapper()


def pixels(before: jax.Array, after: jax.Array) -> jax.Array:
  """Mean squared difference of each pair of samples, [B]."""
  return jnp.square(after - before).reshape(len(before), -1).mean(axis=1)


def unit(x: jax.Array) -> jax.Array:
  """Vectors [..., E] of length 1; nan for one without length."""
  return x / jnp.linalg.norm(x, axis=-1, keepdims=True)


def edited(mapper: PyTree, w: jax.Array) -> jax.Array:
  """w + 0.1 M(w): [B, W] moved towards what the mapper was trained for.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import gan
    >>> mapper = [{"kernel": jnp.eye(2), "bias": jnp.array([1.0, 0.0])}]
    >>> moved = gan.edited(mapper, jnp.array([[1.0, 2.0]]))
    >>> [round(w, 2) for w in moved[0].tolist()]  # A tenth of [2, 2] further.
    [1.2, 2.2]
  """
  x = w
  for i, layer in enumerate(mapper):
    x = x @ layer["kernel"] + layer["bias"][None]
    x = jax.nn.leaky_relu(x, 0.2) if i < len(mapper) - 1 else x
  return w + _SHIFT * x


def train_mapper(
  gan: Gan,
  encode: Encoder,
  variables: Variables,
  prompt: jax.Array,
  key: jax.Array,
  mapper: Mapper = MAPPER,
) -> PyTree:
  """The mapper of a prompt [E], for `edited`; `vmap` over prompts serves many.

  Example:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> import jaxunlearn as ju
    >>> import optax
    >>> from jaxunlearn import gan, toy
    >>> model, variables, *_, key = toy.gan()
    >>> encode = lambda x: jnp.concatenate([x, jnp.ones_like(x[:, :1])], axis=1)
    >>> prompt = jnp.array([1.0, 0.0, 0.0, 0.0])  # What is large in x[0].
    >>> how = gan.Mapper(ju.Fit(optax.adam(0.1), 20, 8), hidden=(4,), near=0.0)
    >>> mapper = gan.train_mapper(model, encode, variables, prompt, key, how)
    >>> w = model.noise(jax.random.split(key, 100))
    >>> int((gan.edited(mapper, w)[:, 0] > w[:, 0]).sum())  # Of 100.
    100
  """
  prompt_slot, link = told(gan, encode)
  slot, links = mapping(gan, encode, prompt_slot, mapper)
  leave = record("layers", lambda carry: carry[slot])
  request = Request(concept=prompt)
  return chain(link, *links, leave)(variables, None, request, key)[1]["layers"]


def told(gan: Gan, encode: Encoder) -> tuple[Slot[jax.Array], Transform]:
  """The slot of the prompt's unit embedding, and what fills it.

  Raises:
    ValueError: from the call, no prompt, one of another width than the encoder's
      or of integers, a concrete one that is not finite or has no length.
  """
  slot: Slot[jax.Array] = Slot("prompt")

  def read(carry, data, request, key):
    del carry, data, key
    one = jax.ShapeDtypeStruct((1, *gan.shape), jnp.float32)
    wanted, found = jax.eval_shape(encode, one).shape[1:], request.concept
    if found is None:
      raise ValueError("Expected a prompt in a request of a concept, got none.")
    found = arrays(f"a prompt float {list(wanted)}", found)
    checks.finite(found, "prompt")
    if checks.is_concrete(found) and not np.asarray(found).any():
      raise ValueError("Expected a prompt with a length, got zeros.")
    return unit(found)

  return slot, provide(slot, read, reads="nothing")


def mapping(
  gan: Gan, encode: Encoder, prompt: Slot[jax.Array], mapper: Mapper
) -> tuple[Slot[PyTree], tuple[Transform, ...]]:
  """The slot of the mapper's layers, and what trains them on the original."""
  slot: Slot[PyTree] = Slot("mapper")

  def begin(carry, data, request, key):
    del data, request
    z = jnp.zeros((1, gan.latent_dim))
    generator = carry.original.params[GENERATOR]
    width = jax.eval_shape(gan.mapping, generator, z).shape[1]
    sizes = [*itertools.pairwise((width, *mapper.hidden, width))]
    drawn = [
      jax.random.normal(k, size) * size[0] ** -0.5
      for k, size in zip(jax.random.split(key, len(sizes)), sizes)
    ]
    return [{"kernel": k, "bias": jnp.zeros(k.shape[1])} for k in drawn]

  def objective(layers, step, key):
    generator = step.original.params[GENERATOR]
    z = gan.noise(jax.random.split(key, mapper.fit.batch_size))
    w = gan.mapping(generator, z)
    moved = edited(layers, w)
    plain, x = gan.synthesis(generator, w), gan.synthesis(generator, moved)
    losses = 1 - unit(encode(x)) @ step[prompt]
    losses += mapper.near * jnp.square(moved - w).mean(axis=-1)
    return losses + sum(k.weight * k.distance(plain, x) for k in mapper.keep)

  optimizer, count = mapper.fit.optimizer, mapper.fit.num_steps
  steps = phase(objective, optimizer, count, on=slot, name="mapper")
  return slot, (provide(slot, begin, reads="nothing"), steps)
