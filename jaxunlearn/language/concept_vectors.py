"""Concept vectors: where a decoder keeps a concept, and whether unlearning got there.

A value vector is what a neuron of a block's perceptron adds to the stream, a row
of `mlp.down`'s kernel. One that stands for a concept has the concept's words at the
top of its projection on the vocabulary, and noise on it harms what the model says
of the concept and little else. Behaviour may be unlearned with the vector intact.

Source: ConceptVectors, Hong et al. (2024), arXiv:2406.11614, and its released code.
Class: an audit; the `needle` is an edit. Data access: rows on the concept and
others, to find and to validate; none for the rest.
Departures: candidates are found by the gradient of the concept's loss and the
words given for it, where the paper has a language model and people judge tokens;
validation measures losses, where it has the text overlap of answers; tokens are
compared by number.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxunlearn.core import checks
from jaxunlearn.core.types import Variables
from jaxunlearn.language.needle import Place as Place
from jaxunlearn.language.needle import needle as needle
from jaxunlearn.language.needle import noisy as noisy
from jaxunlearn.language.needle import value_vectors as value_vectors
from jaxunlearn.language.needle import vector_at as vector_at
from jaxunlearn.language.needle import with_vectors
from jaxunlearn.language.scores import token_nll
from jaxunlearn.language.types import LanguageModel, Text


class Change(NamedTuple):
  """What became of a value vector; float32.

  Attributes:
    cosine: of the vectors before and after; nan of a vector of zeros.
    distance: between them, L2.
    jaccard: of the two sets of top tokens.
    ratio: related tokens at the top after over those before; nan of none.
    survival: share of the related tokens at the top that still are; nan of none.
  """

  cosine: jax.Array
  distance: jax.Array
  jaccard: jax.Array
  ratio: jax.Array
  survival: jax.Array


def unembedding(variables: Variables) -> jax.Array:
  """What hidden states are held against, [V, D]; the norm is not in it.

  Example:
    >>> from jaxunlearn import toy
    >>> from jaxunlearn.language.concept_vectors import unembedding
    >>> unembedding(toy.decoder().variables).shape
    (28, 16)
  """
  params = variables.params
  if "head" in params:
    return params["head"]["kernel"].T
  return params["embed"]["embedding"]


def top_tokens(vectors: jax.Array, table: jax.Array, k: int) -> jax.Array:
  """The tokens that vectors [..., D] speak for most: int [..., k].

  Raises:
    ValueError: k < 1 or > V; another width.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn.language.concept_vectors import top_tokens
    >>> table = jnp.array([[1.0, 0.0], [0.0, 1.0], [2.0, 2.0]])
    >>> top_tokens(jnp.array([[3.0, 0.0], [0.0, -1.0]]), table, 2).tolist()
    [[2, 0], [0, 1]]
  """
  checks.count(1, k=k)
  if k > table.shape[0] or table.shape[1] != vectors.shape[-1]:
    raise ValueError(
      f"Expected k <= V and vectors [..., D] of a table [V, D], got k={k}, "
      f"{vectors.shape} and {table.shape}."
    )
  return jax.lax.top_k(vectors @ table.T, k)[1]


def change(
  before: Variables,
  after: Variables,
  place: Place,
  related: jax.Array,
  *,
  k: int = 200,
  shared_table: bool = False,
) -> Change:
  """The intrinsic scores of a place; `vmap` over places, models, concepts.

  Args:
    before: the original's values.
    after: the unlearned model's.
    place: may be traced.
    related: bool [V], tokens that belong to the concept.
    k: static; how many top tokens, published 200.
    shared_table: static; whether both vectors are projected by the original's
      table, where the released code has each model's own.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import toy
    >>> from jaxunlearn.language import concept_vectors
    >>> problem = toy.decoder()
    >>> place, related = concept_vectors.Place(1, 3), jnp.arange(28) >= 12
    >>> noise = concept_vectors.needle(place, std=1.0)
    >>> after, _ = noise(*problem.arguments)
    >>> before = problem.variables
    >>> found = concept_vectors.change(before, after, place, related, k=8)
    >>> round(float(found.cosine), 2), round(float(found.survival), 2)
    (0.12, 0.5)
  """
  v, w = (vector_at(m, place).astype(jnp.float32) for m in (before, after))
  table = unembedding(before)
  sets = [
    _members(top_tokens(x, t, k), table.shape[0])
    for x, t in ((v, table), (w, table if shared_table else unembedding(after)))
  ]
  both, either = (sets[0] & sets[1]).sum(), (sets[0] | sets[1]).sum()
  first, second = ((s & related).sum() for s in sets)
  still = (sets[0] & sets[1] & related).sum()
  share = lambda a, b: jnp.where(b > 0, a / jnp.maximum(b, 1), jnp.nan)
  norms = jnp.linalg.norm(v) * jnp.linalg.norm(w)
  cosine = jnp.where(norms > 0, v @ w / jnp.where(norms > 0, norms, 1), jnp.nan)
  return Change(
    jnp.clip(cosine, -1, 1),
    jnp.linalg.norm(v - w),
    share(both, either),
    share(second, first),
    share(still, first),
  )


def _members(tokens: jax.Array, size: int) -> jax.Array:
  return jnp.zeros(size, bool).at[tokens].set(True)


def candidates(
  lm: LanguageModel,
  variables: Variables,
  concept: Text,
  others: Text,
  related: jax.Array,
  *,
  count: int,
  k: int = 50,
) -> tuple[Place, jax.Array]:
  """Places that the concept's loss leans on and that speak for its words.

  A place scores (g - h) s: g and h are the lengths of the gradients of the mean
  losses on the concept's rows and on others', by its vector, and s is the share of
  related tokens among its top k. Two passes forward and back find them all.

  Args:
    lm: the model.
    variables: its values.
    concept: rows on the concept.
    others: rows on other things.
    related: bool [V].
    count: static; how many are returned.
    k: static.

  Returns:
    `Place` of int [count] and their scores, the best first.

  Raises:
    ValueError: no related token; count < 1.

  Example:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import toy
    >>> from jaxunlearn.language.concept_vectors import candidates
    >>> lm, variables, data, *_ = toy.decoder()
    >>> related = jnp.arange(28) >= 12
    >>> find = jax.jit(lambda *x: candidates(lm, *x, related, count=3, k=8))
    >>> place, score = find(variables, data["x"], data["alternative"])
    >>> place.layer.shape, place.neuron.shape, score.shape
    ((3,), (3,), (3,))
  """
  checks.count(1, count=count)
  if checks.is_concrete(related) and not np.asarray(related).any():
    raise ValueError("Expected related tokens of the concept, got none.")
  kernel = value_vectors(variables)

  def loss(kernel: jax.Array, x: Text) -> jax.Array:
    params = with_vectors(variables.params, kernel)
    return mean_nll(lm, variables._replace(params=params), x)

  g, h = (
    jnp.linalg.norm(jax.grad(loss)(kernel, x).astype(jnp.float32), axis=-1)
    for x in (concept, others)
  )
  table = unembedding(variables)
  spoken = jax.lax.map(
    lambda layer: related[top_tokens(layer, table, k)].mean(axis=-1), kernel
  )
  score = (g - h) * spoken
  best, flat = jax.lax.top_k(score.reshape(-1), count)
  layer, neuron = jnp.divmod(flat, kernel.shape[1])
  return Place(layer, neuron), best


def mean_nll(lm: LanguageModel, variables: Variables, x: Text) -> jax.Array:
  """-log p of a token, over all that count.

  Example:
    >>> from jaxunlearn import toy
    >>> from jaxunlearn.language.concept_vectors import mean_nll
    >>> lm, variables, data, *_ = toy.decoder()
    >>> round(float(mean_nll(lm, variables, data["x"])), 2)
    0.08
  """
  out = token_nll(lm, variables, x)
  assert out.weight is not None
  return out.value.sum() / out.weight.sum()


def validate(
  lm: LanguageModel,
  variables: Variables,
  places: Place,
  rows: tuple[Text, Text],
  keys: jax.Array,
  *,
  std: float | jax.Array = 0.1,
) -> tuple[jax.Array, jax.Array]:
  """How much noise on each place adds to the losses, on the concept and elsewhere.

  Args:
    lm: the model.
    variables: its values.
    places: int [C].
    rows: on the concept, and on other things.
    keys: PRNG keys [S], of noise; the same for all places.
    std: see `needle`.

  Returns:
    Mean rises of -log p of a token, [C] each.

  Example:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import toy
    >>> from jaxunlearn.language.concept_vectors import Place, is_causal, validate
    >>> lm, variables, data, _, key = toy.decoder()
    >>> rows = data["x"], data["alternative"]
    >>> places = Place(jnp.array([0, 1]), jnp.array([3, 5]))
    >>> rises = validate(lm, variables, places, rows, jax.random.split(key, 2))
    >>> is_causal(*rises).tolist()  # Neither stands for the answers.
    [False, False]
  """
  before = [mean_nll(lm, variables, x) for x in rows]

  def one(place: Place) -> tuple[jax.Array, jax.Array]:
    def rise(key: jax.Array) -> tuple[jax.Array, jax.Array]:
      made = noisy(variables, place, std, key)
      first, second = (mean_nll(lm, made, x) - b for x, b in zip(rows, before))
      return first, second

    first, second = jax.lax.map(rise, keys)
    return first.mean(), second.mean()

  return jax.lax.map(one, places)


def is_causal(
  concept: jax.Array, others: jax.Array, least: float = 0.05
) -> jax.Array:
  """Whether noise harms the concept, by `least` nats, and thrice as much as others.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn.language.concept_vectors import is_causal
    >>> concept = jnp.array([0.20, 0.20, 0.01])
    >>> is_causal(concept, jnp.array([0.02, 0.10, 0.0])).tolist()
    [True, False, False]
  """
  return (concept > least) & (concept > 3 * others)
