"""Forget-Me-Not: attention to a concept's words is minimised on its images.

Source: Zhang, Wang, Xu, Wang and Shi (2023), "Forget-Me-Not: Learning to Forget
in Text-to-Image Diffusion Models", arXiv:2303.17591, and its released code.
Class: heuristic. Data access: images of the forget set.
Cost: one gradient a step, through the network with its attention; with inversion
one gradient each of its steps.
Differences: the norm is that of the released code, not squared, which grows with
the number of queries; papers that quote it square it (`squared=True`). The norm
is taken image by image and averaged, where the code's batch is one image.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxunlearn.core import checks
from jaxunlearn.core.combinators import chain, provide
from jaxunlearn.core.phase import phase
from jaxunlearn.core.types import Draw, Transform
from jaxunlearn.diffusion import steps
from jaxunlearn.diffusion.training import (
  check_data,
  noise_error,
  noisy_rows,
  row_keys,
)
from jaxunlearn.diffusion.types import Diffusion

_WORDS = "concept_embeddings"


def forget_me_not(
  diffusion: Diffusion,
  prompt: jax.Array,
  positions: jax.Array,
  *,
  group: str = "full",
  squared: bool = False,
  optimizer: optax.GradientTransformation | None = None,
  num_steps: int = 35,
  batch_size: int = 1,
  inversion_steps: int = 0,
  inversion_optimizer: optax.GradientTransformation | None = None,
) -> Transform:
  """Steers attention away from the concept's words on the concept's images.

  At noisy images of the forget set, A_l the probabilities of cross-attention
  layer l under the prompt,

      ( sum over l, heads, queries, and words j of the concept of A_l[.., j]^2 )^1/2

  Args:
    diffusion: the model; it has `eps_with_attention`.
    prompt: int [L], "a photo of" the concept. May be traced.
    positions: bool [L], which of its tokens are the concept (and the end of the
      text, in the authors' option `use_pooler`): `word_positions`. May be
      traced.
    group: static; what may move, of `parameter_groups`: "full" as released,
      "xattn" the authors' option `only_optimize_ca`.
    squared: static; the sum instead of its root.
    optimizer: AdamW of 2e-6 with decay 0.01, gradients clipped to norm 1, by
      default.
    num_steps: static.
    batch_size: static; images of the forget set a step.
    inversion_steps: static; 0, the concept's words stand for it; or steps of
      textual inversion before (500 as released): embeddings that say what the
      forget set shows, learned in the place of the words.
    inversion_optimizer: of those; Adam of 1e-3 by default.

  Returns:
    A `Transform` with info "forget", and "invert" where there is inversion,
    needing forget rows {"x": [N, H, W, C]}. For an empty request nothing is
    learned, and weight decay alone acts.

  Raises:
    ValueError: a prompt or positions of a wrong length, no position, an unknown
      group, a count out of range, a model without attention maps (or, with
      inversion, without embeddings); from the call, images that do not fit.
  """
  if jnp.shape(prompt) != (diffusion.length,):
    raise ValueError(
      f"Expected prompt of shape ({diffusion.length},), got "
      f"{jnp.shape(prompt)}."
    )
  words = steps.check_prompts(diffusion, jnp.asarray(prompt)[None], "prompt")
  marked = _check_positions(diffusion, positions)
  checks.positive(batch_size=batch_size)
  checks.non_negative(inversion_steps=inversion_steps)
  if diffusion.eps_with_attention is None:
    raise ValueError("Expected diffusion.eps_with_attention, got None.")
  inverted = inversion_steps > 0
  embed: Any = diffusion.embed
  encode_embeddings: Any = diffusion.encode_embeddings
  if inverted and (embed is None or encode_embeddings is None):
    raise ValueError(
      "Expected diffusion.embed and encode_embeddings for inversion, got None."
    )
  with_attention = diffusion.eps_with_attention

  def context_of(params, learned):
    """[B, L, D], of the words, or of what was learned in their place."""
    if learned is None:
      return diffusion.encode(params, words)
    mixed = jnp.where(marked[None, :, None], learned, embed(params, words))
    return encode_embeddings(params, mixed)

  def noisy(batch, key):
    check_data(diffusion, batch.rows, prompted=False)
    return noisy_rows(diffusion, batch.rows["x"], row_keys(key, batch.slot))

  def spread(context, x):
    return jnp.broadcast_to(context, (x.shape[0], *context.shape[1:]))

  def invert(learned, batch, key):
    params = batch.context.variables.params
    x, t, noise = noisy(batch, key)
    context = spread(context_of(params, learned), x)
    return noise_error(diffusion.eps(params, x, t, context), noise, t)

  def forget(variables, batch, key):
    x, t, _ = noisy(batch, key)
    learned = batch.context.extra[_WORDS] if inverted else None
    context = spread(context_of(variables.params, learned), x)
    _, maps = with_attention(variables.params, x, t, context)
    return attention_norm(maps, marked, squared=squared)

  if optimizer is None:
    optimizer = steps.clipped_adamw(2e-6)
  links = [
    phase(
      forget,
      steps.restricted(optimizer, group),
      num_steps,
      draw=Draw(forget=batch_size),
      name="forget",
    )
  ]
  if inverted:
    first = lambda carry, *_: embed(carry.variables.params, words)
    links = [
      provide(_WORDS, first, reads="nothing"),
      phase(
        invert,
        inversion_optimizer or optax.adam(1e-3),
        inversion_steps,
        draw=Draw(forget=batch_size),
        target=_WORDS,
        name="invert",
      ),
      *links,
    ]
  return chain(*links, name="forget_me_not")


def attention_norm(
  maps: tuple[jax.Array, ...], positions: jax.Array, *, squared: bool = False
) -> jax.Array:
  """The norm of the attention to some tokens over all layers; float32 [B].

  Args:
    maps: probabilities [B, heads, queries, L] of each layer.
    positions: bool [L].
    squared: static; the sum of squares instead of its root.

  Raises:
    ValueError: no layers.
  """
  if not maps:
    raise ValueError("Expected maps of cross-attention layers, got none.")
  total = jnp.zeros(maps[0].shape[0], jnp.float32)
  for layer in maps:
    dtype = jnp.promote_types(jnp.float32, layer.dtype)
    chosen = jnp.where(positions[None, None, None], layer.astype(dtype), 0)
    total = total + jnp.square(chosen).sum(axis=(1, 2, 3))
  if squared:
    return total
  # The root has no slope at 0, where all attention has underflowed.
  positive = total > 0
  return jnp.where(positive, jnp.sqrt(jnp.where(positive, total, 1.0)), 0.0)


def word_positions(prompt: jax.Array, words: jax.Array) -> jax.Array:
  """Where the tokens `words` [K] stand in a prompt [..., L]; bool [..., L]."""
  return jnp.isin(jnp.asarray(prompt), jnp.asarray(words))


def _check_positions(diffusion: Diffusion, positions: Any) -> jax.Array:
  shape, dtype = jnp.shape(positions), jnp.asarray(positions).dtype
  if shape != (diffusion.length,) or dtype != jnp.bool_:
    raise ValueError(
      f"Expected positions bool [{diffusion.length}], got {dtype} {shape}."
    )
  if checks.is_concrete(positions) and not np.asarray(positions).any():
    raise ValueError("Expected positions to mark the concept, got none.")
  return jnp.asarray(positions)
