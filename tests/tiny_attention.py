"""A prompted model of a few products, for tests that compile a lot.

It has what the methods reach for by name: token embeddings, a layer of the text
encoder, and one head of cross-attention whose queries are the image's.
"""

import jax
import jax.numpy as jnp

from jaxunlearn.diffusion import schedules
from jaxunlearn.diffusion.types import Diffusion

SHAPE, LENGTH, VOCAB, WIDTH = (2, 2, 1), 5, 8, 4
LEVELS = schedules.linear(20, 1e-3, 0.3)
# Two prompts of a concept (2), of its anchor or another (4), and others.
CONCEPT = jnp.array([[1, 2, 0, 0, 0], [1, 3, 2, 0, 0]])
OTHER = jnp.array([[1, 4, 0, 0, 0], [1, 3, 4, 0, 0]])
RETAIN = jnp.array([[1, 5, 0, 0, 0], [1, 6, 0, 0, 0], [1, 3, 7, 0, 0]])


def model():
  def embed(params, tokens):
    return params["text_encoder"]["token_embedding"][tokens]

  def encode_embeddings(params, embeddings):
    place = jnp.linspace(-0.5, 0.5, LENGTH)[None, :, None]
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

  return Diffusion(
    init=params,
    eps=lambda *args: eps_with_attention(*args)[0],
    encode=lambda p, tokens: encode_embeddings(p, embed(p, tokens)),
    null_tokens=jnp.array([1, 0, 0, 0, 0]),
    alphas_bar=LEVELS,
    image_shape=SHAPE,
    clip=1.5,
    eps_with_attention=eps_with_attention,
    embed=embed,
    encode_embeddings=encode_embeddings,
    vocab_size=VOCAB,
  )


def params(key):
  """Random ones, under which every prompt says something else."""
  keys = jax.random.split(key, 5)
  draw = lambda i, *shape: jax.random.normal(keys[i], shape)
  return {
    "text_encoder": {
      "token_embedding": draw(0, VOCAB, WIDTH),
      "mix": draw(1, WIDTH, WIDTH),
    },
    "denoiser": {
      "attn2": {
        "to_q": draw(2, 4, WIDTH),
        "to_k": draw(3, WIDTH, WIDTH),
        "to_v": draw(4, WIDTH, 4),
      },
      "gain": jnp.float32(0.3),
    },
  }


def shaken(params, seed, size=0.2):
  leaves, tree = jax.tree.flatten(params)
  keys = jax.random.split(jax.random.key(seed), len(leaves))
  return jax.tree.unflatten(
    tree,
    [p + size * jax.random.normal(k, p.shape) for p, k in zip(leaves, keys)],
  )
