"""Diffusion models to start from: two small ones, any pair of Flax modules."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxunlearn.core import checks
from jaxunlearn.core.legacy import old_fields
from jaxunlearn.core.shaped import shaped
from jaxunlearn.diffusion.schedules import eps_from_v
from jaxunlearn.diffusion.types import TEXT, Diffusion

DENOISER = "denoiser"


class Denoiser(NamedTuple):
  """Sizes of the denoiser of `text_to_image`.

  Attributes:
    width: of the hidden vector.
    num_blocks: of it.
    num_heads: of cross-attention, a divisor of `width`.
  """

  width: int = 256
  num_blocks: int = 3
  num_heads: int = 8


SIZES = Denoiser()


class UNet(NamedTuple):
  """Sizes of a `models.unet.PromptUNet`.

  Attributes:
    channels: of each level.
    num_blocks: residual blocks of a level.
    attention_levels: the levels that see the prompt.
    num_heads: of attention, a divisor of the channels there.
    groups: of the normalisations, a divisor of all channels.
  """

  channels: Sequence[int] = (128, 256, 256)
  num_blocks: int = 2
  attention_levels: Sequence[int] = (1, 2)
  num_heads: int = 4
  groups: int = 32


UNET = UNet()


@old_fields(denoiser=Denoiser)
def text_to_image(
  *,
  image_shape: tuple[int, int, int],
  vocab_size: int,
  null_tokens: Sequence[int],
  alphas_bar: jax.Array,
  clip: float | None = 1.5,
  prediction: str = "v",
  denoiser: Denoiser = SIZES,
  text_width: int = 32,
  text_layers: int = 1,
  dtype: Any = None,
) -> Diffusion:
  """A small text-to-image model: `models.text_to_image` as a `Diffusion`.

  Args:
    image_shape: (H, W, C); its product is the width of the first layer.
    vocab_size: V, tokens are 0 .. V - 1.
    null_tokens: the empty prompt, L integers.
    alphas_bar: float32 [T], falling, in (0, 1): from `schedules`.
    clip: see `Diffusion`.
    prediction: see `from_linen`. With "v" the noise need not pass through the
      network, which then learns sooner what prompts say.
    denoiser: its sizes.
    text_width: D, of the context.
    text_layers: of the text encoder.
    dtype: of the computation; None infers it.

  Raises:
    ValueError: a size that is not positive; as `from_linen`.

  Example:
    >>> import jax
    >>> from jaxunlearn import diffusion
    >>> model = diffusion.text_to_image(
    ...   image_shape=(2, 2, 1),
    ...   vocab_size=8,
    ...   null_tokens=[1, 0, 0],
    ...   alphas_bar=diffusion.schedules.linear(20, 1e-3, 0.3),
    ...   denoiser=diffusion.Denoiser(8, num_blocks=1, num_heads=2),
    ... )
    >>> sorted(jax.eval_shape(model.init, jax.random.key(0)))
    ['denoiser', 'text_encoder']
  """
  from jaxunlearn.models import text_to_image as modules

  checks.counts(**denoiser._asdict(), text_width=text_width)
  encoder = modules.TextEncoder(
    vocab_size, len(null_tokens), text_width, text_layers, dtype
  )
  return from_linen(
    encoder,
    modules.PromptDenoiser(*denoiser, dtype=dtype),
    image_shape=image_shape,
    vocab_size=vocab_size,
    null_tokens=null_tokens,
    alphas_bar=alphas_bar,
    clip=clip,
    prediction=prediction,
  )


@old_fields(unet=UNet)
def text_to_image_unet(
  *,
  image_shape: tuple[int, int, int],
  vocab_size: int,
  null_tokens: Sequence[int],
  alphas_bar: jax.Array,
  clip: float | None = 1.0,
  prediction: str = "eps",
  unet: UNet = UNET,
  text_width: int = 64,
  text_layers: int = 2,
  dtype: Any = None,
) -> Diffusion:
  """A convolutional text-to-image model: `models.unet.PromptUNet`.

  Args:
    image_shape: (H, W, C); H and W can be halved once less than there are
      levels.
    vocab_size: V, tokens are 0 .. V - 1.
    null_tokens: the empty prompt, L integers.
    alphas_bar: float32 [T], falling, in (0, 1): from `schedules`.
    clip: see `Diffusion`.
    prediction: see `from_linen`.
    unet: its sizes.
    text_width: D, of the context.
    text_layers: of the text encoder.
    dtype: of the computation; None infers it.

  Raises:
    ValueError: a size that is not positive, no level with attention, or one
      that does not exist; as `from_linen` and, from `init`, as `PromptUNet`.

  Example:
    >>> import jax
    >>> from jaxunlearn import diffusion
    >>> model = diffusion.text_to_image_unet(
    ...   image_shape=(4, 4, 1),
    ...   vocab_size=8,
    ...   null_tokens=[1, 0, 0],
    ...   alphas_bar=diffusion.schedules.linear(20, 1e-3, 0.3),
    ...   unet=diffusion.UNet((4, 8), 1, (1,), num_heads=2, groups=2),
    ... )
    >>> sorted(jax.eval_shape(model.init, jax.random.key(0)))
    ['denoiser', 'text_encoder']
  """
  from jaxunlearn.models import text_to_image as modules
  from jaxunlearn.models.unet import PromptUNet

  channels, num_blocks, attention_levels, num_heads, groups = unet
  checks.counts(
    num_blocks=num_blocks,
    num_heads=num_heads,
    groups=groups,
    text_width=text_width,
    lowest_channels=min(channels, default=0),
  )
  levels = range(len(channels))
  if not attention_levels or not set(attention_levels) <= set(levels):
    raise ValueError(
      f"Expected attention_levels among {list(levels)}, got "
      f"{list(attention_levels)}."
    )
  return from_linen(
    modules.TextEncoder(
      vocab_size, len(null_tokens), text_width, text_layers, dtype
    ),
    PromptUNet(
      tuple(channels),
      num_blocks,
      tuple(attention_levels),
      num_heads,
      groups,
      dtype,
    ),
    image_shape=image_shape,
    vocab_size=vocab_size,
    null_tokens=null_tokens,
    alphas_bar=alphas_bar,
    clip=clip,
    prediction=prediction,
  )


def from_linen(
  encoder: Any,
  denoiser: Any,
  *,
  image_shape: tuple[int, int, int],
  vocab_size: int,
  null_tokens: Sequence[int],
  alphas_bar: jax.Array,
  clip: float | None = None,
  prediction: str = "eps",
) -> Diffusion:
  """A `Diffusion` of two linen modules.

  Args:
    encoder: called on tokens [B, L], returns a context [B, L, D]; methods
      `embed` and `encode_embeddings` are used if it has them.
    denoiser: called on images [B, H, W, C], times [B] and a context. What it
      sows as `attention` are the attention maps.
    image_shape: (H, W, C).
    vocab_size: V.
    null_tokens: the empty prompt, L integers.
    alphas_bar: float32 [T], falling, in (0, 1).
    clip: see `Diffusion`.
    prediction: what the denoiser returns, "eps" or "v"; `eps` of the result is
      the noise in either case.

  Raises:
    ValueError: null tokens or alphas_bar out of range, an image shape of other
      than 3 sizes, an unknown prediction.

  Example:
    >>> import flax.linen as nn
    >>> import jax
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import diffusion
    >>> class Denoiser(nn.Module):
    ...   @nn.compact
    ...   def __call__(self, x, t, context):
    ...     said = nn.Dense(1, name="attn2")(context.mean(axis=1))
    ...     return x + said[:, None, None]
    >>> model = diffusion.from_linen(
    ...   nn.Embed(8, 4),
    ...   Denoiser(),
    ...   image_shape=(2, 2, 1),
    ...   vocab_size=8,
    ...   null_tokens=[1, 0, 0],
    ...   alphas_bar=diffusion.schedules.linear(20, 1e-3, 0.3),
    ... )
    >>> params = jax.eval_shape(model.init, jax.random.key(0))
    >>> params["denoiser"]["attn2"]["kernel"].shape
    (4, 1)
  """
  checks.one_of(("eps", "v"), prediction=prediction)
  levels = jnp.asarray(alphas_bar, jnp.float32)
  check_levels(levels)
  null = check_null(null_tokens, vocab_size)
  if len(image_shape) != 3:
    raise ValueError(f"Expected image_shape (H, W, C), got {image_shape}.")

  def init(key: jax.Array) -> Any:
    text_key, image_key = jax.random.split(key)
    text = encoder.init(text_key, null[None])
    context = encoder.apply(text, null[None])
    image = jnp.zeros((1, *image_shape))
    made = denoiser.init(image_key, image, jnp.zeros(1, jnp.int32), context)
    return {TEXT: text["params"], DENOISER: made["params"]}

  def noise_of(out, x, t):
    return out if prediction == "eps" else eps_from_v(levels, x, out, t)

  def eps(params, x, t, context):
    out = denoiser.apply({"params": params[DENOISER]}, x, t, context)
    return noise_of(out, x, t)

  def eps_with_attention(params, x, t, context):
    out, sown = denoiser.apply(
      {"params": params[DENOISER]}, x, t, context, mutable=["intermediates"]
    )
    flat = jax.tree_util.tree_leaves_with_path(sown.get("intermediates", {}))
    maps = [leaf for path, leaf in flat if "attention" in _names(path)]
    return noise_of(out, x, t), tuple(maps)

  def encode(params, tokens):
    return encoder.apply({"params": params[TEXT]}, tokens)

  def embed(params, tokens):
    return encoder.apply({"params": params[TEXT]}, tokens, method="embed")

  def encode_embeddings(params, embeddings):
    return encoder.apply(
      {"params": params[TEXT]}, embeddings, method="encode_embeddings"
    )

  takes_embeddings = hasattr(encoder, "encode_embeddings")
  return Diffusion(
    init=init,
    eps=eps,
    encode=encode,
    null_tokens=null,
    alphas_bar=levels,
    image_shape=image_shape,
    clip=clip,
    eps_with_attention=eps_with_attention,
    embed=embed if takes_embeddings else None,
    encode_embeddings=encode_embeddings if takes_embeddings else None,
    vocab_size=vocab_size,
  )


def check_null(null_tokens: Any, vocab_size: int | None) -> jax.Array:
  """The empty prompt, int32 [L].

  Raises:
    ValueError: it is no vector of integers, or out of range.

  Example:
    >>> from jaxunlearn.diffusion import models
    >>> models.check_null([1, 0, 0], vocab_size=8).tolist()
    [1, 0, 0]
    >>> models.check_null([1, 0, 9], vocab_size=8)
    Traceback (most recent call last):
      ...
    ValueError: Expected null_tokens in 0 .. 7, got 0 .. 9.
  """
  found = np.asarray(null_tokens)
  shaped("null_tokens [L > 0]", found)
  most = np.iinfo(np.int32).max if vocab_size is None else vocab_size
  checks.labels(found, int(most), "null_tokens")
  return jnp.asarray(found, jnp.int32)


def check_levels(levels: jax.Array) -> None:
  """A noise schedule [T] falls between 1 and 0, both excluded.

  Raises:
    ValueError: it does not.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn.diffusion import models
    >>> models.check_levels(jnp.array([0.1, 0.9]))
    Traceback (most recent call last):
      ...
    ValueError: Expected alphas_bar to fall between 1 and 0, both excluded,
    got 0.1 .. 0.9.
  """
  shaped("alphas_bar [T > 0]", levels)
  if not checks.is_concrete(levels):
    return
  found = np.asarray(levels)
  # At 0 nothing is left to divide by, at 1 there is no noise to predict.
  if not ((found > 0) & (found < 1)).all() or (np.diff(found) > 0).any():
    raise ValueError(
      "Expected alphas_bar to fall between 1 and 0, both excluded, got "
      f"{found[0]:g} .. {found[-1]:g}."
    )


def _names(path: tuple[Any, ...]) -> tuple[str, ...]:
  return tuple(str(getattr(p, "key", p)) for p in path)
