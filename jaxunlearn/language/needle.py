"""The needle: noise on one value vector of a decoder, and ascent by it alone.

Source: ConceptVectors, Hong et al. (2024), arXiv:2406.11614, and its released code.
Class: an edit without guarantee. Data access: none; forget rows for its steps.
Departure: the steps move the vector alone, where the code's decay shrinks the whole
matrix and the embedding.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxunlearn.core import checks
from jaxunlearn.core.combinators import chain
from jaxunlearn.core.links import edit
from jaxunlearn.core.tasks import Fit
from jaxunlearn.core.transform import Transform
from jaxunlearn.core.types import PyTree, Variables
from jaxunlearn.core.views import View, through
from jaxunlearn.language.ascent import gradient_ascent
from jaxunlearn.language.types import LanguageModel


class Place(NamedTuple):
  """Where a value vector is; ints, or int arrays of many.

  Attributes:
    layer: from 0 on.
    neuron: of the block's perceptron.
  """

  layer: jax.Array | int
  neuron: jax.Array | int


def value_vectors(variables: Variables) -> jax.Array:
  """All of them, [layers, M, D].

  Example:
    >>> from jaxunlearn import toy
    >>> from jaxunlearn.language.concept_vectors import value_vectors
    >>> value_vectors(toy.decoder().variables).shape
    (2, 12, 16)
  """
  return variables.params["blocks"]["mlp"]["down"]["kernel"]


def vector_at(variables: Variables, place: Place) -> jax.Array:
  """One, [D], or those of a stack of places.

  Example:
    >>> from jaxunlearn import toy
    >>> from jaxunlearn.language.concept_vectors import Place, vector_at
    >>> vector_at(toy.decoder().variables, Place(layer=1, neuron=3)).shape
    (16,)
  """
  return value_vectors(variables)[place.layer, place.neuron]


def needle(
  place: Place,
  *,
  std: float | jax.Array = 0.1,
  shape: tuple[int, int] | None = None,
  steps: tuple[LanguageModel, Fit] | None = None,
) -> Transform:
  """Adds noise to one value vector; every other number keeps its bits.

  Args:
    place: may be traced.
    std: >= 0, of each of its D numbers; published 0.1. May be traced.
    shape: None, or (layers, M), against which the place is checked.
    steps: None, or the model, and how the vector alone then ascends the loss of
      the forget rows; published rates are 0.1 to 0.5.

  Raises:
    ValueError: std < 0; (concrete) a place that is not there.

  Example:
    >>> import jaxunlearn as ju
    >>> import optax
    >>> from jaxunlearn import toy
    >>> from jaxunlearn.language import concept_vectors
    >>> problem, place = toy.decoder(), concept_vectors.Place(1, 3)
    >>> steps = problem.model, ju.Fit(optax.adamw(0.2), num_steps=3, batch_size=2)
    >>> method = concept_vectors.needle(place, std=0.1, steps=steps)
    >>> after, _ = method(*problem.arguments)
    >>> values = concept_vectors.value_vectors
    >>> moved = (values(after) != values(problem.variables)).any(axis=-1)
    >>> [place.tolist() for place in moved.nonzero()]  # Layer and neuron.
    [[1], [3]]
  """
  checks.non_negative(std=std)
  if shape is not None:
    for (name, value), most in zip(place._asdict().items(), shape):
      if checks.is_concrete(value):
        checks.labels(jnp.asarray(value)[None], most, name)

  def put(
    variables: Variables, data: PyTree, request: PyTree, key: jax.Array
  ) -> Variables:
    del data, request
    return noisy(variables, place, std, key)

  noise = edit(put, reads="nothing", name="needle")
  if steps is None:
    return noise
  lm, fit = steps
  ascent = through(_alone(place), lambda part: gradient_ascent(part, fit), lm)
  return chain(noise, ascent, name="needle")


def _alone(place: Place) -> View:
  """One value vector as all there is to train."""
  split = lambda variables, *_: (vector_at(variables, place), variables.params)
  return View(split, lambda vector, params: _put(params, place, vector))


def noisy(
  variables: Variables, place: Place, std: float | jax.Array, key: jax.Array
) -> Variables:
  """The variables with normal noise on a value vector.

  Example:
    >>> from jaxunlearn import toy
    >>> from jaxunlearn.language.concept_vectors import Place, noisy, vector_at
    >>> _, before, *_, key = toy.decoder()
    >>> place = Place(layer=1, neuron=3)
    >>> after = noisy(before, place, 0.1, key)
    >>> int((vector_at(after, place) != vector_at(before, place)).sum())
    16
  """
  kernel = value_vectors(variables)
  noise = std * jax.random.normal(key, kernel.shape[-1:], jnp.float32)
  moved = vector_at(variables, place) + noise.astype(kernel.dtype)
  return variables._replace(params=_put(variables.params, place, moved))


def _put(params: PyTree, place: Place, vector: jax.Array) -> PyTree:
  """Params with a vector at a place."""
  kernel = params["blocks"]["mlp"]["down"]["kernel"]
  return with_vectors(params, kernel.at[place.layer, place.neuron].set(vector))


def with_vectors(params: PyTree, kernel: jax.Array) -> PyTree:
  """Params with other value vectors [layers, M, D].

  Example:
    >>> from jaxunlearn import toy
    >>> from jaxunlearn.language.needle import value_vectors, with_vectors
    >>> before = toy.decoder().variables
    >>> half = with_vectors(before.params, 0.5 * value_vectors(before))
    >>> after = value_vectors(before._replace(params=half))
    >>> bool((after == 0.5 * value_vectors(before)).all())
    True
  """
  blocks = params["blocks"]
  down = {**blocks["mlp"]["down"], "kernel": kernel}
  mlp = {**blocks["mlp"], "down": down}
  return {**params, "blocks": {**blocks, "mlp": mlp}}
