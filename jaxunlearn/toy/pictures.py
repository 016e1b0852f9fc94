"""The toy of pictures under prompts."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxunlearn.core.types import Variables
from jaxunlearn.toy.problem import Problem


def diffusion() -> Problem:
  """Images of 2 x 2 pixels under prompts of five tokens; token 2 has to go.

  Returns:
    Data {"x": float32 [4, 2, 2, 1], "tokens": int32 [4, 5]}; a `Diffusion` of
    eight tokens, 1 the start and 0 the padding, of random params, with a layer
    of text encoder and one of cross-attention; as request a concept of two
    prompts, with anchors, marks and three prompts to retain, and its two rows.

  Example:
    >>> from jaxunlearn import toy
    >>> problem = toy.diffusion()
    >>> problem.request.concept.prompts.tolist()
    [[1, 2, 0, 0, 0], [1, 3, 2, 0, 0]]
    >>> problem.request.forget.tolist()
    [True, True, False, False]
  """
  from jaxunlearn import diffusion as room

  def embed(params, tokens):
    return params["text_encoder"]["token_embedding"][tokens]

  def encode_embeddings(params, embeddings):
    place = jnp.linspace(-0.5, 0.5, 5)[None, :, None]
    return jnp.tanh(embeddings @ params["text_encoder"]["mix"] + place)

  def eps_with_attention(params, x, t, context):
    net = params["denoiser"]
    flat = x.reshape(x.shape[0], -1)
    query = jnp.tanh(flat @ net["attn2"]["to_q"])
    scores = jnp.einsum("be,ble->bl", query, context @ net["attn2"]["to_k"])
    value = context @ net["attn2"]["to_v"]
    seen = jax.nn.softmax(scores)
    said = jnp.einsum("bl,bli->bi", seen, value)
    eps = (net["gain"] * flat + said).reshape(x.shape)
    return eps, (seen[:, None, None],)

  model = room.Diffusion(
    init=_init_diffusion,
    eps=lambda *args: eps_with_attention(*args)[0],
    encode=lambda p, tokens: encode_embeddings(p, embed(p, tokens)),
    null_tokens=jnp.array([1, 0, 0, 0, 0]),
    alphas_bar=room.schedules.linear(20, 1e-3, 0.3),
    image_shape=(2, 2, 1),
    clip=1.5,
    eps_with_attention=eps_with_attention,
    embed=embed,
    encode_embeddings=encode_embeddings,
    vocab_size=8,
  )
  concept = jnp.array([[1, 2, 0, 0, 0], [1, 3, 2, 0, 0]])
  others = jnp.array([[1, 5, 0, 0, 0], [1, 6, 0, 0, 0], [1, 3, 7, 0, 0]])
  forget = jnp.arange(4) < 2
  request = room.requests.concept(
    model,
    concept,
    anchors=jnp.where(concept == 2, 4, concept),
    retain=others,
    marks=concept == 2,
  )
  key = jax.random.key(0)
  x = jax.random.uniform(key, (4, 2, 2, 1), minval=-1)
  return Problem(
    model,
    Variables(model.init(jax.random.key(2))),
    {"x": x, "tokens": jnp.concatenate([concept, others[:2]])},
    request._replace(forget=forget, retain=~forget),
    key,
  )


def _init_diffusion(key):
  keys = jax.random.split(key, 5)
  draw = lambda i, *shape: jax.random.normal(keys[i], shape)
  return {
    "text_encoder": {"token_embedding": draw(0, 8, 4), "mix": draw(1, 4, 4)},
    "denoiser": {
      "attn2": {
        "to_q": draw(2, 4, 4),
        "to_k": draw(3, 4, 4),
        "to_v": draw(4, 4, 4),
      },
      "gain": jnp.float32(0.3),
    },
  }
