"""A decoder that knows eight facts, and one that knows images by their names."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxunlearn.core.types import Variables
from jaxunlearn.toy.problem import Problem


def decoder(*, seed: int = 0) -> Problem:
  """A decoder that knows eight facts; forget those of owner 0.

  Fact i is the prompt [1, 4 + i] with the answer [12 + i, 20 + i]; token 2 stands
  for a refusal. Owner o has the facts 2 o and 2 o + 1.

  Args:
    seed: of the weights and of the key.

  Returns:
    Data {"x": `Text` [8, 4], "alternative": `Text` [8, 4] that answers 2,
    "owner": int32 [8]}; a `LanguageModel` of 28 tokens, width 16 and two blocks,
    whose head was fitted to the facts by least squares.

  Example:
    >>> from jaxunlearn import toy
    >>> problem = toy.decoder()
    >>> problem.data["x"].tokens[0].tolist(), problem.request[:3].tolist()
    ([1, 4, 12, 20], [True, True, False])
    >>> toy.likelihoods(problem, problem.variables)
    (0.92, 0.93)
  """
  from jaxunlearn.language import Text

  rng = np.random.default_rng(seed)
  normal = lambda *shape: rng.normal(size=shape) / shape[-2] ** 0.5
  scale = lambda *shape: {"scale": np.ones(shape)}
  kernels = lambda names, *shape: {
    name: {"kernel": normal(2, *shape) / 4} for name in names
  }
  embedding = 4 * normal(28, 16)
  fact, ones = np.arange(8), np.ones(8)
  # What is said after what; blocks add little to the embeddings.
  state = embedding[4 + np.arange(16)]
  state = state / np.sqrt((state**2).mean(axis=1, keepdims=True))
  said = 6.0 * np.eye(28)[12 + np.arange(16)]
  params = {
    "embed": {"embedding": embedding},
    "blocks": {
      "norm_1": scale(2, 16),
      "norm_2": scale(2, 16),
      "attention": kernels("qkvo", 16, 16),
      "mlp": {**kernels(("gate", "up"), 16, 12), **kernels(["down"], 12, 16)},
    },
    "norm": scale(16),
    "head": {"kernel": np.linalg.lstsq(state, said, rcond=None)[0]},
  }
  tokens = np.stack([ones, 4 + fact, 12 + fact, 20 + fact], axis=1)
  refusal = np.where(np.arange(4) == 2, 2, tokens) * (np.arange(4) < 3)
  text = lambda rows, length: Text(
    *(jnp.asarray(a, jnp.int32) for a in (rows, length * ones, 2 * ones))
  )
  owner = jnp.asarray(fact // 2, jnp.int32)
  return Problem(
    _language_model(),
    Variables(jax.tree.map(jnp.float32, params)),
    {"x": text(tokens, 4), "alternative": text(refusal, 3), "owner": owner},
    owner == 0,
    jax.random.key(seed),
  )


@functools.cache
def _language_model() -> Any:
  """One for all, so that what was compiled for it serves again."""
  from jaxunlearn.language import DecoderConfig, language_model

  sizes = (28, 16, 2, 2, 12, 12)
  return language_model(DecoderConfig(*sizes, tied_embeddings=False))


def likelihoods(problem: Problem, variables: Variables) -> tuple[float, float]:
  """Mean probability of a counted token of the forget and of the retain rows.

  Args:
    problem: of a `LanguageModel`.
    variables: of its model: the original ones, or unlearned.

  Returns:
    Forgotten first, each in [0, 1], rounded to two digits.

  Example:
    >>> import jax
    >>> from jaxunlearn import toy
    >>> problem = toy.decoder()
    >>> zeros = jax.tree.map(jax.numpy.zeros_like, problem.variables)
    >>> toy.likelihoods(problem, zeros)  # Each of 28 tokens is as likely.
    (0.04, 0.04)
  """
  from jaxunlearn.language import token_scores

  score = jax.jit(token_scores, static_argnums=0)
  found = score(problem.model, variables, problem.data["x"])
  p, counts = np.exp(found.log_prob), np.asarray(found.mask)
  forget = np.asarray(problem.request)[:, None]
  share = lambda rows: round(float(p[counts & rows].mean()), 2)
  return share(forget), share(~forget)


@functools.cache
def prefix_model() -> Any:
  """The decoder of `decoder` behind a tower: see `vision_language`.

  Returns:
    A `PrefixModel` of images [M, 2, 4, 1], each of which becomes two tokens.

  Example:
    >>> from jaxunlearn import toy
    >>> model = toy.prefix_model()
    >>> model.vocab_size, model.num_tokens
    (28, 2)
  """
  from jaxunlearn import vision_language
  from jaxunlearn.adapters.functions import from_functions

  def init(key, x):
    return {"kernel": jax.random.normal(key, (8, 16)) / 8**0.5}

  def apply(params, x):
    return (x.reshape(-1, 8) @ params["kernel"]).reshape(-1, 2, 8)

  tower = from_functions(init, apply)
  return vision_language.prefix_model(_language_model(), tower, num_tokens=2)


def vision_language(*, seed: int = 0) -> Problem:
  """Eight images of which the model knows the names; forget owner 0's.

  Image i has the answer that the facts of `decoder` have: the projector, fitted by
  least squares, makes of it what stands for fact i there.

  Args:
    seed: of the weights and of the key; images are always the same.

  Returns:
    Data {"x": `Text` [8, 4] of an image, two tokens, and a name of two, "image":
    int32 [8], "alternative", "owner"}; `prefix_model` over the images.

  Example:
    >>> from jaxunlearn import toy
    >>> problem = toy.vision_language()
    >>> problem.data["x"].tokens[:2].tolist()  # Image 0 is tokens 28 and 29.
    [[28, 29, 12, 20], [30, 31, 13, 21]]
    >>> toy.likelihoods(problem, problem.variables)
    (0.93, 0.93)
  """
  from jaxunlearn.vision_language.rows import seeing

  words, model = decoder(seed=seed), prefix_model()
  lm, images = _pictures()
  kernel = np.random.default_rng(seed).normal(size=(8, 16))
  last = images.reshape(8, 8) @ kernel[:, 8:]
  wanted = np.asarray(words.variables.params["embed"]["embedding"])[4:12]
  projector = {
    "kernel": np.linalg.lstsq(last, wanted, rcond=None)[0],
    "bias": np.zeros(16),
  }
  params = {
    "tower": {"kernel": kernel},
    "projector": projector,
    "decoder": words.variables.params,
  }
  image = jnp.arange(8, dtype=jnp.int32)
  # The place of the prompt's two tokens is the image's.
  look = lambda x: seeing(
    x._replace(tokens=x.tokens.at[:, 0].set(model.vocab_size)), image, model
  )
  columns = {name: look(words.data[name]) for name in ("x", "alternative")}
  return words._replace(
    model=lm,
    variables=Variables(jax.tree.map(jnp.float32, params)),
    data={**words.data, **columns, "image": image},
  )


@functools.cache
def _pictures() -> tuple[Any, np.ndarray]:
  images = np.random.default_rng(8).normal(size=(8, 2, 4, 1))
  lm = prefix_model().over(jnp.asarray(images, jnp.float32))
  return lm, images
