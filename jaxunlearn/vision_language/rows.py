"""Texts with an image before them, as rows of tokens; see `prefix_model`."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxunlearn.core.shaped import shaped
from jaxunlearn.language.types import Text
from jaxunlearn.vision_language.prefix_model import PrefixModel


def with_images(
  x: Text, image: Any, num_images: int, model: PrefixModel
) -> Text:
  """Texts with an image before each.

  Args:
    x: texts [N, L] of words.
    image: int [N], of `num_images`; -1: none, the row stays as it is.
    num_images: M.
    model: says what an image's tokens are.

  Returns:
    `Text` [N, L + P].

  Raises:
    ValueError: an index out of range, or not one for each row.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import language, toy, vision_language
    >>> words = language.Text(
    ...   jnp.array([[5, 6], [7, 8]]), jnp.array([2, 2]), jnp.array([1, 1])
    ... )
    >>> model = toy.prefix_model()  # Image i is tokens 28 + 2 i and 29 + 2 i.
    >>> x = vision_language.with_images(words, [3, -1], 8, model)
    >>> x.tokens.tolist(), x.length.tolist()
    ([[34, 35, 5, 6], [7, 8, 0, 0]], [4, 2])
  """
  image = np.asarray(image)
  rows, count = x.tokens.shape[0], model.num_tokens
  shaped(f"image int [{rows}]", image)
  if rows and not (image.min() >= -1 and image.max() < num_images):
    raise ValueError(
      f"Expected image in -1 .. {num_images - 1}, got {image.min()} .. "
      f"{image.max()}."
    )
  there = jnp.asarray(image >= 0)
  tokens = look_at(jnp.asarray(image), model)
  pad = jnp.zeros_like(tokens)
  seen = jnp.concatenate([tokens, x.tokens], axis=1)
  plain = jnp.concatenate([x.tokens, pad], axis=1)
  more = jnp.where(there, count, 0).astype(x.length.dtype)
  return Text(
    jnp.where(there[:, None], seen, plain), x.length + more, x.prompt + more
  )


def look_at(image: jax.Array, model: PrefixModel) -> jax.Array:
  """The tokens of images [...]: int32 [..., P]; for rows that look elsewhere."""
  first = model.vocab_size + jnp.asarray(image, jnp.int32) * model.num_tokens
  return jnp.stack([first + i for i in range(model.num_tokens)], axis=-1)


def seeing(x: Text, image: jax.Array, model: PrefixModel) -> Text:
  """The same texts before other images, int [N]; of rows that have one.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import toy, vision_language
    >>> x = toy.vision_language().data["x"]
    >>> others = jnp.arange(8)[::-1]
    >>> x = vision_language.seeing(x, others, toy.prefix_model())
    >>> x.tokens[:2].tolist()  # The names stay.
    [[42, 43, 12, 20], [40, 41, 13, 21]]
  """
  count = model.num_tokens
  has = x.tokens[:, :1] >= model.vocab_size
  new = jnp.where(has, look_at(image, model), x.tokens[:, :count])
  return x._replace(tokens=x.tokens.at[:, :count].set(new))


def image_of(x: Text, model: PrefixModel) -> jax.Array:
  """Which image a row begins with, int32 [N]; -1: none.

  Example:
    >>> from jaxunlearn import toy, vision_language
    >>> model = toy.prefix_model()
    >>> x, words = toy.vision_language().data["x"], toy.decoder().data["x"]
    >>> vision_language.image_of(x, model).tolist()
    [0, 1, 2, 3, 4, 5, 6, 7]
    >>> vision_language.image_of(words, model).tolist()
    [-1, -1, -1, -1, -1, -1, -1, -1]
  """
  first = x.tokens[:, 0] - model.vocab_size
  return jnp.where(first >= 0, first // model.num_tokens, -1)
