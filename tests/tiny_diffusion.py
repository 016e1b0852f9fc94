"""Two tiny prompted models that tests of methods share."""

import functools

import jax
import jax.numpy as jnp

from jaxunlearn import diffusion
from jaxunlearn.diffusion import schedules
from jaxunlearn.diffusion.types import Diffusion, parameter_group

LEVELS = schedules.linear(40, 1e-3, 0.2)
LENGTH, VOCAB = 3, 6
NULL = (1, 0, 0)
# Two names of one concept, another concept, and both together.
CONCEPT = jnp.array([[1, 2, 0], [1, 5, 2]])
OTHER = jnp.array([[1, 3, 0], [1, 5, 3]])
DATA = {"x": jnp.full((4, 2, 2, 3), jnp.nan), "tokens": jnp.zeros((4, 3), int)}
REQUEST = jnp.array([True, False, False, True])


def linear(traces=None):
  """eps = gain x + (sum of the prompt's tokens - 1) / 10: 0 for the empty one.

  `traces` grows each time the network is traced.
  """

  def eps(params, x, t, context):
    if traces is not None:
      traces.append(1)
    said = context.sum(axis=(1, 2))[:, None, None, None] / 10
    return gain_of(params) * x + said

  def encode(params, tokens):
    said = tokens - jnp.array([1, 0, 0])[None]
    return params["text_encoder"]["scale"] * said[..., None].astype(jnp.float32)

  return Diffusion(
    init=lambda key: linear_params(0.3),
    eps=eps,
    encode=encode,
    null_tokens=jnp.array(NULL),
    alphas_bar=LEVELS,
    image_shape=(2, 2, 3),
    clip=2.0,
    vocab_size=VOCAB,
  )


def linear_params(gain):
  """The gain in cross-attention, the encoder's scale in the text encoder."""
  return {
    "text_encoder": {"scale": jnp.float32(1)},
    "denoiser": {"attn2": {"to_k": jnp.asarray(gain, jnp.float32)}},
  }


def gain_of(params):
  return params["denoiser"]["attn2"]["to_k"]


@functools.cache
def small():
  return diffusion.text_to_image(
    image_shape=(2, 2, 3),
    vocab_size=VOCAB,
    null_tokens=NULL,
    alphas_bar=LEVELS,
    width=8,
    num_blocks=1,
    num_heads=2,
    text_width=4,
  )


@functools.cache
def params(seed=0):
  """Of the small model, away from the start, where its last layer is zero."""
  made = jax.jit(small().init)(jax.random.key(seed))
  leaves, tree = jax.tree.flatten(made)
  keys = jax.random.split(jax.random.key(seed + 1), len(leaves))
  return jax.tree.unflatten(
    tree,
    [p + 0.2 * jax.random.normal(k, p.shape) for p, k in zip(leaves, keys)],
  )


def moved_groups(before, after):
  """For each leaf whether it has other bits now, as a pytree."""
  return jax.tree.map(lambda a, b: bool((a != b).any()), before, after)


def check_only_group_moved(before, after, group):
  """Every leaf of the group has moved, every other one has kept its bits."""
  assert moved_groups(before, after) == parameter_group(before, group)
