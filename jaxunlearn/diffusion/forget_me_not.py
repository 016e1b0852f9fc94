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

from typing import Any, Unpack

import jax
import jax.numpy as jnp
import optax

from jaxunlearn.core.combinators import chain
from jaxunlearn.core.legacy import old_fits
from jaxunlearn.core.links import provide
from jaxunlearn.core.phase import phase
from jaxunlearn.core.tasks import Fit, FitFields, as_fit
from jaxunlearn.core.transform import Transform
from jaxunlearn.core.types import Draw, Slot
from jaxunlearn.diffusion import requests, steps
from jaxunlearn.diffusion.requests import Concept
from jaxunlearn.diffusion.training import check_data, noise_error, noisy_rows
from jaxunlearn.diffusion.types import Diffusion

PUBLISHED = Fit(steps.clipped_adamw(2e-6), num_steps=35, batch_size=1)
NO_INVERSION = Fit(optax.adam(1e-3), num_steps=0, batch_size=1)
INVERSION = NO_INVERSION._replace(num_steps=500)  # As released.
_NAMES = requests.NAMES._replace(prompts="prompt", marks="positions")


@old_fits(inversion=("inversion_optimizer", "inversion_steps", ""))
def forget_me_not(
  diffusion: Diffusion,
  prompt: jax.Array | None = None,
  positions: jax.Array | None = None,
  fit: Fit = PUBLISHED,
  *,
  inversion: Fit = NO_INVERSION,
  group: str = "full",
  squared: bool = False,
  **fields: Unpack[FitFields],
) -> Transform:
  """Steers attention away from the concept's words on the concept's images.

  At noisy images of the forget set, A_l the probabilities of cross-attention
  layer l under the prompt,

      ( sum over l, heads, queries, and words j of the concept of A_l[.., j]^2 )^1/2

  Args:
    diffusion: the model; it has `eps_with_attention`.
    prompt: int [L], "a photo of" the concept; None takes the first prompt of the
      request. May be traced.
    positions: bool [L], which of its tokens are the concept (and the end of the
      text, in the authors' option `use_pooler`): `word_positions`; None takes
      the request's marks of that prompt. May be traced.
    fit: AdamW of 2e-6 with decay 0.01, gradients clipped to norm 1, 35 steps of
      one image of the forget set by default.
    inversion: of textual inversion before: embeddings that say what the forget
      set shows, learned in the place of the concept's words. By default there
      is none, the words stand for it; `INVERSION` is the released one.
    group: static; what may move, of `parameter_groups`: "full" as released,
      "xattn" the authors' option `only_optimize_ca`.
    squared: static; the sum instead of its root.
    **fields: the fields of `Fit` by keyword.

  Returns:
    A `Transform` with info "forget", and "invert" where there is inversion,
    needing forget rows {"x": [N, H, W, C]}. For an empty request nothing is
    learned, and weight decay alone acts.

  Raises:
    ValueError: a prompt or positions of a wrong length, no position, an unknown
      group, a count out of range, a model without attention maps (or, with
      inversion, without embeddings); from the call, images that do not fit.

  Example:
    >>> import optax
    >>> from jaxunlearn import diffusion, toy
    >>> problem = toy.diffusion()
    >>> method = diffusion.forget_me_not(
    ...   problem.model, optimizer=optax.sgd(0.1), num_steps=2
    ... )
    >>> edited, info = method.compiled(*problem.arguments)
    >>> info["forget"].loss.shape, int(info["forget"].forget_count)
    ((2,), 2)
  """
  fit = steps.confined(as_fit(fit, fields), group)
  inversion = as_fit(inversion, {})
  one = lambda value: None if value is None else jnp.asarray(value)[None]
  read = requests.reader(
    diffusion,
    Concept(one(prompt), marks=one(positions)),
    *("prompts", "marks"),
    names=_NAMES,
  )
  if diffusion.eps_with_attention is None:
    raise ValueError("Expected diffusion.eps_with_attention, got None.")
  is_inverted = inversion.num_steps > 0
  embed: Any = diffusion.embed
  encode_embeddings: Any = diffusion.encode_embeddings
  if is_inverted and (embed is None or encode_embeddings is None):
    raise ValueError(
      "Expected diffusion.embed and encode_embeddings for inversion, got None."
    )
  with_attention = diffusion.eps_with_attention
  concept: Slot[Concept] = Slot("concept")
  words: Slot[jax.Array] = Slot("concept_embeddings")

  def first_prompt(request):
    found = read(request)
    return Concept(found.prompts[:1], marks=jnp.asarray(found.marks)[0])

  def context_of(params, step, learned, size):
    """[B, L, D], of the words, or of what was learned in their place."""
    asked = step[concept]
    if learned is None:
      context = diffusion.encode(params, asked.prompts)
    else:
      own = embed(params, asked.prompts)
      mixed = jnp.where(asked.marks[None, :, None], learned, own)
      context = encode_embeddings(params, mixed)
    return jnp.broadcast_to(context, (size, *context.shape[1:]))

  def noisy(step, key):
    check_data(diffusion, step.rows, prompted=False)
    return noisy_rows(diffusion, step.rows["x"], step.keys(key))

  def invert(learned, step, key):
    params = step.variables.params
    x, t, noise = noisy(step, key)
    context = context_of(params, step, learned, len(x))
    return noise_error(diffusion.eps(params, x, t, context), noise, t)

  def forget(variables, step, key):
    params = variables.params
    x, t, _ = noisy(step, key)
    learned = step[words] if is_inverted else None
    context = context_of(params, step, learned, len(x))
    _, maps = with_attention(params, x, t, context)
    return attention_norm(maps, step[concept].marks, squared=squared)

  def fitted(objective, fit, name, **options):
    draw = Draw(forget=fit.batch_size)
    return phase(objective, fit, draw=draw, name=name, **options)

  def own_words(carry, *_):
    return embed(carry.variables.params, carry[concept].prompts)

  links = [fitted(forget, fit, "forget")]
  if is_inverted:
    start = provide(words, own_words, reads="nothing")
    links = [start, fitted(invert, inversion, "invert", on=words), *links]
  return requests.telling(
    concept, first_prompt, chain(*links, name="forget_me_not")
  )


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

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import diffusion
    >>> maps = (jnp.array([0.0, 0.6, 0.4]).reshape(1, 1, 1, 3),)
    >>> maps += (jnp.array([0.2, 0.8, 0.0]).reshape(1, 1, 1, 3),)
    >>> words = jnp.array([False, True, False])
    >>> [round(v, 3) for v in diffusion.attention_norm(maps, words).tolist()]
    [1.0]
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
  """Where the tokens `words` [K] stand in a prompt [..., L]; bool [..., L].

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import diffusion
    >>> prompt = jnp.array([1, 3, 2, 0, 0])
    >>> diffusion.word_positions(prompt, jnp.array([2, 7])).tolist()
    [False, False, True, False, False]
  """
  return jnp.isin(jnp.asarray(prompt), jnp.asarray(words))
