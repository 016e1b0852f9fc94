"""Pretrained models, Stable Diffusion's U-Net and text encoder among them.

Methods and attacks ask a model for its noise, its prompts' encoding and its
schedule, so that any apply functions will do. With the Flax port of Stable
Diffusion 1.x (releases of diffusers and transformers that still have one):

    unet, unet_params = FlaxUNet2DConditionModel.from_pretrained(
      name, subfolder="unet", from_pt=True)
    clip = FlaxCLIPTextModel.from_pretrained(name, subfolder="text_encoder")
    tokenizer = CLIPTokenizer.from_pretrained(name, subfolder="tokenizer")
    tokens = lambda texts: tokenizer(
      texts, padding="max_length", truncation=True, return_tensors="np"
    ).input_ids

    model = diffusion.attach(
      lambda params, x, t, context: unet.apply({"params": params}, x, t, context),
      lambda params, tokens: clip(tokens, params=params).last_hidden_state,
      null_tokens=tokens([""])[0],
      alphas_bar=diffusion.schedules.scaled_linear(),
      vocab_size=tokenizer.vocab_size,
    )
    params = {"denoiser": unet_params, "text_encoder": clip.params}
    latents = diffusion.sample(
      model, params, tokens(["a church"]), key, num_steps=50, guidance=7.5)
    images = vae.apply({"params": vae_params}, latents.transpose(0, 3, 1, 2)
      / 0.18215, method=vae.decode).sample

Latents are images to this library, [B, 64, 64, 4], the autoencoder is not part
of the model, and `clip` stays None. The names of parameters are already those
that `parameter_group` knows ("attn2", "to_k", ...). Where weights are large, take
bfloat16 ones and methods that move one `group`: their optimisers keep state for
it only. `forget_me_not` needs attention maps, which that U-Net does not return:
`model._replace(eps_with_attention=...)` of one that does.

`embed` and `encode_embeddings` are wanted by attacks and methods that optimise
prompts: the token table's rows, and the encoder from there on, positions added
(CLIP: its `text_model.encoder` with the causal mask and `final_layer_norm`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxunlearn.core import checks
from jaxunlearn.core.legacy import old_fields
from jaxunlearn.core.shaped import shaped
from jaxunlearn.core.types import PyTree
from jaxunlearn.diffusion.models import DENOISER, check_levels, check_null
from jaxunlearn.diffusion.schedules import eps_from_v
from jaxunlearn.diffusion.types import TEXT, Diffusion

# What text encoders call the hidden vectors of all tokens.
_HIDDEN, _SAMPLE = "last_hidden_state", "sample"


class Latents(NamedTuple):
  """What the network of a latent diffusion model takes.

  Attributes:
    shape: (H, W, C), as this library has images.
    channels_first: static; whether it takes [B, C, H, W], as diffusers' does.
  """

  shape: tuple[int, int, int] = (64, 64, 4)
  channels_first: bool = True


LATENTS = Latents()


class Embeddings(NamedTuple):
  """The halves of a text encoder, given its params only; both, or none.

  Attributes:
    embed: see `Diffusion`.
    encode: see `Diffusion.encode_embeddings`.
  """

  embed: Callable[[PyTree, jax.Array], jax.Array] | None = None
  encode: Callable[[PyTree, jax.Array], jax.Array] | None = None


NO_EMBEDDINGS = Embeddings()


@old_fields(
  latents={"latent_shape": "shape", "channels_first": "channels_first"},
  embeddings={"embed": "embed", "encode_embeddings": "encode"},
)
def attach(
  unet: Callable[..., Any],
  text_encoder: Callable[[PyTree, jax.Array], Any],
  *,
  null_tokens: Sequence[int] | np.ndarray,
  alphas_bar: jax.Array,
  latents: Latents = LATENTS,
  prediction: str = "eps",
  clip: float | None = None,
  vocab_size: int | None = None,
  init: Callable[[jax.Array], PyTree] | None = None,
  embeddings: Embeddings = NO_EMBEDDINGS,
) -> Diffusion:
  """A `Diffusion` of two apply functions; see above for Stable Diffusion.

  Params are {"text_encoder": ..., "denoiser": ...}, the two functions' own.

  Args:
    unet: `(params, latents, t int32 [B], context [B, L, D]) -> out`, an array of
      the latents' shape, or an object or a mapping with it as `sample`.
    text_encoder: `(params, tokens int [B, L]) -> context [B, L, D]`, or an
      object or a mapping with it as `last_hidden_state`.
    null_tokens: the empty prompt, L integers.
    alphas_bar: float32 [T], falling, in (0, 1).
    latents: shape and order of what `unet` takes.
    prediction: what `unet` returns, "eps" or "v" (Stable Diffusion 2).
    clip: see `Diffusion`; None for latents.
    vocab_size: None, or V: tokens are then checked.
    init: None, or `key -> params`, where there is something to train anew.
    embeddings: the halves of the text encoder, where there are any.

  Returns:
    The model. Its `init` raises a ValueError where none was given. What the two
    functions return is checked when they are traced.

  Raises:
    ValueError: null tokens or alphas_bar out of range, a latent shape of other
      than 3 sizes, an unknown prediction; one half of `embeddings` alone.

  Example:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import diffusion
    >>> model = diffusion.attach(
    ...   lambda params, latents, t, context: params * latents,
    ...   lambda params, tokens: params[tokens],
    ...   null_tokens=[1, 0, 0],
    ...   alphas_bar=diffusion.schedules.scaled_linear(),
    ...   latents=diffusion.Latents((4, 4, 2)),
    ... )
    >>> table = jnp.ones((8, 3))
    >>> params = {"denoiser": jnp.float32(0.5), "text_encoder": table}
    >>> tokens = jnp.array([[1, 2, 0]])
    >>> key = jax.random.key(0)
    >>> diffusion.sample(model, params, tokens, key, num_steps=2).shape
    (1, 4, 4, 2)
  """
  checks.one_of(("eps", "v"), prediction=prediction)
  levels = jnp.asarray(alphas_bar, jnp.float32)
  check_levels(levels)
  null = check_null(null_tokens, vocab_size)
  latent_shape, channels_first = latents
  if len(latent_shape) != 3:
    raise ValueError(f"Expected latent_shape (H, W, C), got {latent_shape}.")
  embed, encode_embeddings = embeddings
  if (embed is None) != (encode_embeddings is None):
    raise ValueError(
      "Expected embed and encode of embeddings together, got one of them."
    )

  def eps(params, x, t, context):
    given = jnp.moveaxis(x, -1, 1) if channels_first else x
    out = _field(unet(params[DENOISER], given, t, context), _SAMPLE)
    shaped(f"unet to return {list(given.shape)}", out)
    out = jnp.moveaxis(out, 1, -1) if channels_first else out
    return out if prediction == "eps" else eps_from_v(levels, x, out, t)

  def encode(params, tokens):
    context = _field(text_encoder(params[TEXT], tokens), _HIDDEN)
    rows, length = tokens.shape
    shaped(f"text_encoder to return [{rows}, {length}, D]", context)
    return context

  def no_init(key: jax.Array) -> PyTree:
    del key
    raise ValueError(
      "Expected the params of a pretrained model, got none to start from; give "
      "attach an init to train anew."
    )

  def on_text(fn):
    return fn and (lambda params, values: fn(params[TEXT], values))

  return Diffusion(
    init=init or no_init,
    eps=eps,
    encode=encode,
    null_tokens=null,
    alphas_bar=levels,
    image_shape=latent_shape,
    clip=clip,
    embed=on_text(embed),
    encode_embeddings=on_text(encode_embeddings),
    vocab_size=vocab_size,
  )


def _field(out: Any, name: str) -> Any:
  """An array, or the one that an output object holds."""
  if isinstance(out, Mapping):
    if name not in out:
      raise ValueError(f"Expected {name!r} in an output, got {sorted(out)}.")
    return out[name]
  return getattr(out, name, out)
