"""A decoder that reads an image before a text: tower, projector, decoder.

    vlm = prefix_model(language.language_model(config), tower, num_tokens=4)
    lm = vlm.over(images)

An image is `num_tokens` further tokens of the vocabulary, which a text may begin
with and the model never says; `rows` puts them there. So `lm` is a
`LanguageModel` like any other: every method, metric and attack of the language
room takes it as it is, and rows without an image are plain text.

Params are {"tower", "projector": {"kernel" [F, D], "bias" [D]}, "decoder"}.
Source: LLaVA, Liu et al. (2023), arXiv:2304.08485, with its linear projector.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxunlearn.core import checks, keys
from jaxunlearn.core.shaped import shaped
from jaxunlearn.core.tasks import Model
from jaxunlearn.core.types import Losses, PyTree, Step, Variables
from jaxunlearn.core.views import View
from jaxunlearn.language.lora import LINEAR as OF_BLOCKS
from jaxunlearn.language.lora import lora
from jaxunlearn.language.model import assemble
from jaxunlearn.language.types import LanguageModel, Text

# For `ju.core.masked`: which params may change where the tower is frozen.
FROZEN_TOWER = {"tower": False, "projector": True, "decoder": True}
# For the views of the language room: the kernels of the decoder's blocks.
LINEAR = f"decoder/{OF_BLOCKS}"

Augment = Callable[[jax.Array, jax.Array], jax.Array]


class PrefixModel(NamedTuple):
  """Tower, projector and decoder; images are still to come.

  Attributes:
    decoder: of the language room.
    tower: of the core; images [B, H, W, C] to features [B, num_tokens, F].
    num_tokens: P, static; tokens that an image takes.
  """

  decoder: LanguageModel
  tower: Model
  num_tokens: int

  @property
  def vocab_size(self) -> int:
    """V, what the model can say; image i is the tokens from V + i P on."""
    return self.decoder.config.vocab_size

  def init(self, key: jax.Array, images: jax.Array) -> Variables:
    """Fresh weights; of images [M, H, W, C] shape and dtype alone matter."""
    nothing = Text(jnp.zeros((1, 1), jnp.int32), *jnp.ones((2, 1), jnp.int32))
    tower = self.tower.init(keys.derive(key, "tower"), images[:1])
    decoder = self.decoder.model.init(keys.derive(key, "decoder"), nothing)
    return self.join(tower, decoder, images, keys.derive(key, "join"))

  def join(
    self,
    tower: Variables,
    decoder: Variables,
    images: jax.Array,
    key: jax.Array,
  ) -> Variables:
    """Weights that were trained apart, and a fresh projector between them.

    Args:
      tower: its variables; its model state becomes the whole's.
      decoder: its variables.
      images: [M, H, W, C]; shape and dtype alone matter.
      key: of the projector.

    Raises:
      ValueError: a tower that makes another number of tokens of an image, a
        decoder of another width than it says.
    """
    one = jax.ShapeDtypeStruct((1, *images.shape[1:]), images.dtype)
    found = jax.eval_shape(self.tower.predict, tower, one).shape
    if len(found) != 3 or found[1] != self.num_tokens:
      raise ValueError(
        f"Expected a tower that makes [B, num_tokens={self.num_tokens}, F] of "
        f"images, got {found}."
      )
    width = decoder.params["embed"]["embedding"].shape[-1]
    if width != self.decoder.config.width:
      raise ValueError(
        f"Expected a decoder of width={self.decoder.config.width}, got {width}."
      )
    noise = jax.random.normal(key, (found[-1], width)) * found[-1] ** -0.5
    projector = {"kernel": noise, "bias": jnp.zeros(width)}
    parts = (tower.params, projector, decoder.params)
    return Variables(dict(zip(FROZEN_TOWER, parts)), tower.model_state)

  def over(
    self, images: jax.Array, augment: Augment | None = None
  ) -> LanguageModel:
    """The model as one of texts that may begin with one of these images.

    Args:
      images: [M, H, W, C], stored once; may be traced, so that other images of
        that shape compile nothing.
      augment: None, or `(key, image [H, W, C]) -> image`, applied to each row's
        image by `ju.train` and other training in training mode.

    Returns:
      A `LanguageModel`; its `config.vocab_size` counts the images' tokens, so
      that an index out of range is refused. `model.init` makes all weights.

    Raises:
      ValueError: images that are no [M, H, W, C], or none.
    """
    shaped("images [M > 0, H, W, C]", images)
    lm = self._looking(images, lambda index: images[index])
    if augment is None:
      return lm

    def loss(
      variables: Variables, step: Step, key: jax.Array, *, train: bool = False
    ) -> Losses:
      seen = lm
      if train:
        row_keys = step.keys(keys.derive(key, "augment"))
        look = lambda index: jax.vmap(augment)(row_keys, images[index])
        seen = self._looking(images, look)
      return seen.task.loss(variables, step, key)

    return lm._replace(task=lm.task._replace(loss=loss))

  def _looking(
    self, images: jax.Array, look: Callable[[jax.Array], jax.Array]
  ) -> LanguageModel:
    first, count = self.vocab_size, self.num_tokens
    inner, tower = self.decoder, self.tower

    def of_decoder(variables: Variables) -> Variables:
      return variables._replace(params=variables.params["decoder"])

    def embed(variables: Variables, tokens: jax.Array) -> jax.Array:
      words = jnp.where(tokens < first, tokens, 0)
      hidden = inner.embed(of_decoder(variables), words)
      if tokens.shape[1] < count:
        return hidden  # No room for an image: a token that is being said.
      there = tokens[:, 0] >= first
      index = jnp.where(there, (tokens[:, 0] - first) // count, 0)
      own = variables._replace(params=variables.params["tower"])
      features = tower.predict(own, look(index))
      part = variables.params["projector"]
      prefix = features @ part["kernel"]
      prefix = prefix + jnp.broadcast_to(part["bias"], prefix.shape)
      prefix = jnp.where(
        there[:, None, None], prefix.astype(hidden.dtype), hidden[:, :count]
      )
      return jnp.concatenate([prefix, hidden[:, count:]], axis=1)

    def blocks(variables: Variables, hidden: jax.Array, **options: Any) -> Any:
      return inner.blocks(of_decoder(variables), hidden, **options)

    def logits(variables: Variables, hidden: jax.Array) -> jax.Array:
      return inner.logits(of_decoder(variables), hidden)

    def init(key: jax.Array, inputs: PyTree) -> Variables:
      del inputs
      return self.init(key, images)

    size = first + count * len(images)
    config = dataclasses.replace(inner.config, vocab_size=size)
    return assemble(init, config, embed, blocks, logits, inner.chunk_size)


def prefix_model(
  decoder: LanguageModel, tower: Model, *, num_tokens: int
) -> PrefixModel:
  """A model of images and texts from two that know one of them each.

  Args:
    decoder: any of the language room, such as a pretrained one.
    tower: any `Model` of images; `ju.models.PatchTower` is a small one. It runs
      in evaluation mode.
    num_tokens: static; tokens that it makes of an image.

  Raises:
    ValueError: num_tokens < 1, or no room for a word beside them.

  Example:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import toy, vision_language
    >>> from jaxunlearn.adapters.functions import from_functions
    >>> tower = from_functions(
    ...   lambda key, x: {"scale": jnp.ones(())},
    ...   lambda params, x: params["scale"] * x.reshape(-1, 2, 4),
    ... )
    >>> decoder = toy.decoder().model
    >>> model = vision_language.prefix_model(decoder, tower, num_tokens=2)
    >>> images = jnp.ones((5, 2, 4, 1))
    >>> model.over(images).config.vocab_size  # 28 words, 5 images of 2 tokens.
    38
    >>> params = jax.jit(model.init)(jax.random.key(0), images).params
    >>> params["projector"]["kernel"].shape
    (4, 16)
  """
  checks.count(1, num_tokens=num_tokens)
  checks.model(tower, "tower")
  if num_tokens >= decoder.config.max_length:
    raise ValueError(
      f"Expected num_tokens < max_length={decoder.config.max_length}, got "
      f"num_tokens={num_tokens}."
    )
  return PrefixModel(decoder, tower, num_tokens)


def lora_and_projector(
  *, rank: int, targets: str = LINEAR, **more: Any
) -> View:
  """Adapters in the decoder and the projector as it is; the tower is frozen.

  Args:
    rank: static; see `language.lora`.
    targets: see there.
    **more: the other keyword arguments of `language.lora`.

  Example:
    >>> from jaxunlearn import toy, vision_language
    >>> problem = toy.vision_language()
    >>> view = vision_language.lora_and_projector(rank=2)
    >>> part, rest = view.split(*problem.arguments)
    >>> sorted(part), part["projector"]["kernel"].shape
    (['lora', 'projector'], (8, 16))
    >>> same = problem.variables._replace(params=view.join(part, rest))
    >>> toy.likelihoods(problem, same)  # It begins as the model itself.
    (0.93, 0.93)
  """
  inner = lora(rank=rank, targets=targets, **more)

  def split(variables, data, request, key):
    part, rest = inner.split(variables, data, request, key)
    return {"lora": part, "projector": rest["projector"]}, rest

  def join(part, rest):
    params = inner.join(part["lora"], rest)
    return {**params, "projector": part["projector"]}

  return View(split, join, inner.needs)
