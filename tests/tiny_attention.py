"""The toy of `jaxunlearn.toy.diffusion` by its parts, for tests that compile a lot.

It has what the methods reach for by name: token embeddings, a layer of the text
encoder, and one head of cross-attention whose queries are the image's.
"""

import jax

from jaxunlearn import toy

_TOY = toy.diffusion()
SHAPE, WIDTH = _TOY.model.image_shape, 4
# Two prompts of a concept (2), of its anchor or another (4), and others.
CONCEPT, OTHER, RETAIN, _ = _TOY.request.concept
params = _TOY.model.init  # Random ones, under which prompts differ.


def model():
  return toy.diffusion().model


def shaken(params, seed, size=0.2):
  leaves, tree = jax.tree.flatten(params)
  keys = jax.random.split(jax.random.key(seed), len(leaves))
  return jax.tree.unflatten(
    tree,
    [p + size * jax.random.normal(k, p.shape) for p, k in zip(leaves, keys)],
  )
