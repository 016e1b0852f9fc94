"""What a text-to-image diffusion model is here: pure functions and a schedule."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxunlearn.core import checks
from jaxunlearn.core.shaped import shaped
from jaxunlearn.core.tasks import Task
from jaxunlearn.core.types import PyTree

TEXT = "text_encoder"
# Names that diffusers and this library give to cross- and self-attention.
_CROSS, _SELF, _KEY_VALUE = "attn2", "attn1", ("to_k", "to_v")
# The time embedding and the output layer with its normalisation, which ESD's
# "noxattn" leaves out. What each block makes of the embedded time is left in.
_ENDS = (
  *("time_embedding", "time_embed"),
  *("conv_norm_out", "norm_out", "conv_out", "output"),
)
_EMBEDDINGS = ("token_embedding", "position_embedding", "embeddings")


class Diffusion(NamedTuple):
  """A prompt-conditioned noise predictor as pure functions.

  `params` is one pytree, {"text_encoder": ..., "denoiser": ...}, for any
  epsilon-prediction network: `text_to_image` makes a small one,
  `from_linen` takes two networks of yours.

  Attributes:
    init: `key -> params`.
    eps: `(params, x [B, H, W, C], t int [B], context [B, L, D]) -> [B, H, W, C]`,
      the noise predicted in `x`.
    encode: `(params, tokens int [B, L]) -> context [B, L, D]`.
    null_tokens: int32 [L], the empty prompt.
    alphas_bar: float32 [T], the share of signal left (of variance) at t.
    image_shape: (H, W, C), static.
    clip: clean images are clipped to +-clip by the samplers; None for latents.
    eps_with_attention: None, or as `eps` but `-> (eps, maps)`, a tuple with the
      probabilities [B, heads, queries, L] of each cross-attention layer.
    embed: None, or `(params, tokens [B, L]) -> [B, L, E]`, the embeddings of the
      tokens, positions not yet added.
    encode_embeddings: None, or `(params, [B, L, E]) -> context [B, L, D]`; of
      `embed(params, tokens)` it is `encode(params, tokens)`.
    vocab_size: None, or V: tokens are then checked to be 0 .. V - 1.
  """

  init: Callable[[jax.Array], PyTree]
  eps: Callable[[PyTree, jax.Array, jax.Array, jax.Array], jax.Array]
  encode: Callable[[PyTree, jax.Array], jax.Array]
  null_tokens: jax.Array
  alphas_bar: jax.Array
  image_shape: tuple[int, int, int]
  clip: float | None = None
  eps_with_attention: Callable[..., tuple[jax.Array, Any]] | None = None
  embed: Callable[[PyTree, jax.Array], jax.Array] | None = None
  encode_embeddings: Callable[[PyTree, jax.Array], jax.Array] | None = None
  vocab_size: int | None = None

  @property
  def task(self) -> Task:
    """Training as the generic methods see it: `training.denoising_task`."""
    from jaxunlearn.diffusion.training import denoising_task

    return denoising_task(self)

  @property
  def num_train_steps(self) -> int:
    """T; times are 0 (nearly clean) .. T - 1 (nearly noise)."""
    return self.alphas_bar.shape[0]

  @property
  def length(self) -> int:
    """L, tokens per prompt."""
    return self.null_tokens.shape[0]

  def context_of(self, params: PyTree, tokens: jax.Array) -> jax.Array:
    """`encode` with its argument checked: context [B, L, D].

    Raises:
      ValueError: tokens that are no integers [B, L], or out of range.
    """
    check_tokens(self, tokens)
    return self.encode(params, jnp.asarray(tokens))

  def null_context(self, params: PyTree, batch_size: int) -> jax.Array:
    """The context of the empty prompt, [batch_size, L, D]."""
    one = self.encode(params, jnp.asarray(self.null_tokens)[None])
    return jnp.broadcast_to(one, (batch_size, *one.shape[1:]))


class Predictor(NamedTuple):
  """What a sampler asks for the noise: a guided model, or two, or a guard.

  Attributes:
    init: `x [B, H, W, C] -> state`, a pytree carried through the sampling.
    predict: `(state, x [B, H, W, C], t int32 [B], index int32 []) -> (eps,
      state)`; `index` counts the sampler's steps from 0.
  """

  init: Callable[[jax.Array], PyTree]
  predict: Callable[..., tuple[jax.Array, PyTree]]


def check_tokens(
  diffusion: Diffusion, tokens: Any, name: str = "tokens"
) -> None:
  """Prompts are integers [B, L] with the model's L, of its vocabulary.

  Raises:
    ValueError: they are not.

  Example:
    >>> from jaxunlearn import toy
    >>> from jaxunlearn.diffusion import types
    >>> types.check_tokens(toy.diffusion().model, [[1, 8, 0, 0, 0]])
    Traceback (most recent call last):
      ...
    ValueError: Expected tokens in 0 .. 7, got 0 .. 8.
  """
  shaped(f"{name} int [B, {diffusion.length}]", tokens)
  if diffusion.vocab_size is not None:
    checks.labels(tokens, diffusion.vocab_size, name)


def check_images(diffusion: Diffusion, x: Any, name: str = "x") -> None:
  """Images are floats [B, H, W, C] of the model's shape.

  Raises:
    ValueError: they are not.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import toy
    >>> from jaxunlearn.diffusion import types
    >>> types.check_images(toy.diffusion().model, jnp.zeros((4, 8, 8, 3)))
    Traceback (most recent call last):
      ...
    ValueError: Expected x float [B, 2, 2, 1], got float32 (4, 8, 8, 3).
  """
  sizes = ", ".join(map(str, diffusion.image_shape))
  shaped(f"{name} float [B, {sizes}]", x)


def parameter_groups(params: PyTree) -> dict[str, PyTree]:
  """Which parameters a method may move, by the field's names for the groups.

  Args:
    params: a pytree with the text encoder under "text_encoder", and cross- and
      self-attention under "attn2" and "attn1", as diffusers names them.

  Returns:
    By name, a pytree like `params` of bools, a `weight_mask` for `masked`:
    "xattn" cross-attention; "xattn-kv" its keys and values; "noxattn" the
    denoiser without cross-attention, time embedding and output layer;
    "selfattn"; "full" the whole denoiser; "text" the text encoder; "text-layers"
    the text encoder without its embeddings; "all" everything. A group that the
    model lacks is False everywhere.

  Example:
    >>> from jaxunlearn import diffusion, toy
    >>> groups = diffusion.parameter_groups(toy.diffusion().variables.params)
    >>> groups["xattn-kv"]["denoiser"]
    {'attn2': {'to_k': True, 'to_q': False, 'to_v': True}, 'gain': False}
  """

  def group(wanted: Callable[[tuple[str, ...]], bool]) -> PyTree:
    return jax.tree_util.tree_map_with_path(
      lambda path, _: wanted(_names(path)), params
    )

  def in_text(names: tuple[str, ...]) -> bool:
    return names[0] == TEXT

  def has(names: tuple[str, ...], some: tuple[str, ...]) -> bool:
    return not in_text(names) and any(n in some for n in names)

  return {
    "xattn": group(lambda n: has(n, (_CROSS,))),
    "xattn-kv": group(lambda n: has(n, (_CROSS,)) and has(n, _KEY_VALUE)),
    "noxattn": group(lambda n: not in_text(n) and not has(n, (_CROSS, *_ENDS))),
    "selfattn": group(lambda n: has(n, (_SELF,))),
    "full": group(lambda n: not in_text(n)),
    "text": group(in_text),
    "text-layers": group(
      lambda n: in_text(n) and not any(e in n for e in _EMBEDDINGS)
    ),
    "all": group(lambda n: True),
  }


def parameter_group(params: PyTree, name: str) -> PyTree:
  """One of `parameter_groups`.

  Raises:
    ValueError: there is no such group, or it has no parameters.

  Example:
    >>> import jax
    >>> from jaxunlearn import diffusion, toy
    >>> params = toy.diffusion().variables.params
    >>> sum(jax.tree.leaves(diffusion.parameter_group(params, "xattn")))
    3
  """
  groups = parameter_groups(params)
  checks.one_of(tuple(groups), group=name)
  if not any(jax.tree.leaves(groups[name])):
    raise ValueError(f"Expected parameters in the group {name!r}, got none.")
  return groups[name]


def _names(path: tuple[Any, ...]) -> tuple[str, ...]:
  return tuple(
    str(getattr(p, "key", getattr(p, "name", getattr(p, "idx", p))))
    for p in path
  )
