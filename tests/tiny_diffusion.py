"""Two tiny prompted models that tests of methods share."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

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
    denoiser=diffusion.Denoiser(8, num_blocks=1, num_heads=2),
    text_width=4,
  )


@functools.cache
def params(seed=0):
  """Of the small model."""
  return filled(small().init, seed)


def filled(init, seed=0):
  """Params such as a trained model has, no layer zero; nothing is compiled."""
  rng = np.random.default_rng(seed)

  def fill(path, leaf):
    fan_in = leaf.shape[-2] if leaf.ndim > 1 else np.inf
    noise = np.sqrt(1 / fan_in + 0.04) * rng.standard_normal(leaf.shape)
    return jnp.asarray(noise + (path[-1].key == "scale"), leaf.dtype)

  shapes = jax.eval_shape(init, jax.random.key(0))
  return jax.tree_util.tree_map_with_path(fill, shapes)


def moved_groups(before, after):
  """For each leaf whether it has other bits now, as a pytree."""
  return jax.tree.map(lambda a, b: bool((a != b).any()), before, after)


def check_only_group_moved(before, after, group):
  """Every leaf of the group has moved, every other one has kept its bits."""
  assert moved_groups(before, after) == parameter_group(before, group)
