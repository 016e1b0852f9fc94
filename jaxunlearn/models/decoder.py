"""A decoder of text: one block, scanned over stacked weights.

Switches of one block make GPT-2 (LayerNorm, learned positions, biases), Llama 1
to 3, SmolLM2 and Mistral (RMSNorm, rotations, a gated perceptron), Qwen2
(biases of q, k and v) and Qwen3 (norms of q and k). Nothing is dropped out.

The parameters, D the width, H and K heads of queries and of keys of size E, M
the perceptron's width, V tokens, P positions; "layers" is a leading axis:

    embed/embedding [V, D]        positions/embedding [P, D], if learned
    blocks/norm_1, norm_2         scale [layers, D], bias of LayerNorm
    blocks/attention/q            kernel [layers, D, H * E], bias
    blocks/attention/k, v         kernel [layers, D, K * E], bias
    blocks/attention/o            kernel [layers, H * E, D], bias
    blocks/attention/q_norm       scale [layers, E], as k_norm, if there
    blocks/mlp/gate, up           kernel [layers, D, M], bias; gate if gated
    blocks/mlp/down               kernel [layers, M, D], bias
    norm                          scale [D], bias of LayerNorm
    head                          kernel [D, V], if not tied to the embedding

Heads lie one after the other in the columns of q, k and v. Rotations pair the
first half of a head with the second, as Hugging Face's weights have it.

Source: Vaswani et al. (2017), arXiv:1706.03762; see also `attention`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxunlearn.models.attention import attend, rotate, rotations
from jaxunlearn.models.decoder_config import DecoderConfig as DecoderConfig
from jaxunlearn.models.decoder_config import RopeScaling as RopeScaling


class States(NamedTuple):
  """What blocks pass on, or something for each of it.

  Attributes:
    attention: [layers, B, T, D], what attention adds to the stream.
    mlp: [layers, B, T, D], what the perceptron adds.
    residual: [layers, B, T, D], the stream after each block.
    inner: [layers, B, T, M], what the perceptron's last matrix reads; its
      neurons.
  """

  attention: Any = None
  mlp: Any = None
  residual: Any = None
  inner: Any = None


class Adapters(NamedTuple):
  """Low-rank changes beside the weights, which count as much as each row says.

  Attributes:
    factors: {"attention": {"q": {"a" [layers, in, r], "b" [layers, r, out]}},
      "mlp": {...}}, of the matrices that have any.
    weight: [B]; a row of 0 has the bits of the decoder without.
  """

  factors: Any
  weight: jax.Array


class Edits(NamedTuple):
  """Numbers put into a running model: tracing, steering, editing.

  Attributes:
    where: `States` of bool [layers, T] or [layers, B, T]; None: nowhere.
    values: `States` of [layers, D], [layers, T, D] or [layers, B, T, D] (of
      neurons M in the place of D), what is put there; the states of another run, for example.
    add: bool [], whether values are added to what is there; may be traced.
  """

  where: States
  values: States
  add: Any = False


class Cache(NamedTuple):
  """Keys and values of the tokens so far, in slots that rows share.

  Attributes:
    key: [layers, B, S, K, E].
    value: [layers, B, S, K, E].
    position: int32 [B, S], of the token in a slot; -1: none is there.
    used: int32 [], slots taken; the next token's slot.
  """

  key: jax.Array
  value: jax.Array
  position: jax.Array
  used: jax.Array


class Blocks(NamedTuple):
  """What the blocks return.

  Attributes:
    hidden: [B, T, D], the stream after the last block, not yet normalised.
    cache: None, or the `Cache` with these tokens in it.
    states: `States`; what is not used of it is not kept by the compiler.
  """

  hidden: jax.Array
  cache: Cache | None
  states: States


def empty_cache(
  config: DecoderConfig, batch: int, slots: int, dtype: Any
) -> Cache:
  """A `Cache` without tokens.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn.models import decoder
    >>> config = decoder.DecoderConfig(28, 16, 2, 2, 12, 12)
    >>> cache = decoder.empty_cache(config, batch=3, slots=5, dtype=jnp.float32)
    >>> cache[0].shape  # [layers, batch, slots, heads, size of a head]
    (2, 3, 5, 2, 8)
  """
  heads = (config.num_kv_heads, config.head_dim)
  zeros = jnp.zeros((config.num_layers, batch, slots, *heads), dtype)
  nowhere = jnp.full((batch, slots), -1, jnp.int32)
  return Cache(zeros, zeros, nowhere, jnp.zeros((), jnp.int32))


class Norm(nn.Module):
  """RMSNorm or LayerNorm over the last axis, in float32 or wider."""

  kind: str
  eps: float

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    shape = (x.shape[-1],)
    scale = self.param("scale", nn.initializers.ones, shape)
    wide = x.astype(jnp.promote_types(jnp.float32, x.dtype))
    if self.kind == "layer":
      wide = wide - wide.mean(axis=-1, keepdims=True)
    square = (wide**2).mean(axis=-1, keepdims=True)
    out = wide * jax.lax.rsqrt(square + self.eps)
    out = out * jnp.broadcast_to(scale, out.shape)
    if self.kind == "layer":
      bias = self.param("bias", nn.initializers.zeros, shape)
      out = out + jnp.broadcast_to(bias, out.shape)
    return out.astype(x.dtype)


class Attention(nn.Module):
  """Causal attention of grouped heads."""

  config: DecoderConfig

  @nn.compact
  def __call__(
    self, x: jax.Array, shared: Shared, kept: Any, factors: Any
  ) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    c = self.config
    adapt = lambda out, x, name: _adapted(out, x, factors, name, shared.weight)

    def project(name: str, heads: int) -> jax.Array:
      dense = nn.Dense(heads * c.head_dim, c.qkv_bias, c.dtype, name=name)
      out = adapt(dense(x), x, name)
      return out.reshape(*x.shape[:2], heads, c.head_dim)

    q = project("q", c.num_heads)
    k, v = project("k", c.num_kv_heads), project("v", c.num_kv_heads)
    if c.qk_norm:
      q = Norm("rms", c.norm_eps, name="q_norm")(q)
      k = Norm("rms", c.norm_eps, name="k_norm")(k)
    if shared.rotation is not None:
      q, k = rotate(q, shared.rotation), rotate(k, shared.rotation)
    new = k, v
    if kept is not None:
      write = lambda old, x: jax.lax.dynamic_update_slice_in_dim(
        old, x.astype(old.dtype), shared.slot, axis=1
      )
      k, v = write(kept[0], k), write(kept[1], v)
    q, k, v = nn.dtypes.promote_dtype(q, k, v)
    out = attend(q, k, v, shared.visible)
    out = out.reshape(*x.shape[:2], c.num_heads * c.head_dim)
    dense = nn.Dense(c.width, c.out_bias, c.dtype, name="o")
    return adapt(dense(out), out, "o"), new


class MLP(nn.Module):
  """The perceptron of a block."""

  config: DecoderConfig

  @nn.compact
  def __call__(
    self, x: jax.Array, edits: Edits | None, factors: Any, weight: Any
  ) -> tuple[jax.Array, jax.Array]:
    """What it adds, and its neurons."""
    c = self.config

    def dense(size: int, name: str, x: jax.Array) -> jax.Array:
      out = nn.Dense(size, c.mlp_bias, c.dtype, name=name)(x)
      return _adapted(out, x, factors, name, weight)

    up = dense(c.mlp_width, "up", x)
    if c.activation == "silu_gated":
      up = nn.silu(dense(c.mlp_width, "gate", x)) * up
    else:
      up = nn.gelu(up)
    up = _edited(up, edits, "inner")
    return dense(c.width, "down", up), up


class Shared(NamedTuple):
  """What all blocks are told: masks, rotations, the slot to write to."""

  visible: jax.Array  # bool [B, T, S]
  rotation: Any  # None, or cosine and sine [B, T, E / 2]
  slot: Any  # int32 [], or None
  weight: Any = None  # [B], of adapters; or None


class Block(nn.Module):
  """Attention and a perceptron, each after a norm, each residual."""

  config: DecoderConfig

  @nn.compact
  def __call__(
    self,
    x: jax.Array,
    shared: Shared,
    kept: Any,
    edits: Edits | None,
    factors: Any = None,
  ) -> tuple[jax.Array, tuple[Any, States]]:
    c, factors = self.config, factors or {}
    norm = lambda name: Norm(c.norm, c.norm_eps, name=name)
    added, new = Attention(c, name="attention")(
      norm("norm_1")(x), shared, kept, factors.get("attention")
    )
    attention = _edited(added, edits, "attention")
    x = x + attention
    out, inner = MLP(c, name="mlp")(
      norm("norm_2")(x), edits, factors.get("mlp"), shared.weight
    )
    mlp = _edited(out, edits, "mlp")
    x = _edited(x + mlp, edits, "residual")
    return x, (new, States(attention, mlp, x, inner))


class Decoder(nn.Module):
  """Embedding, blocks, norm and head; see the module's docstring.

  Attributes:
    config: a `DecoderConfig`.
  """

  config: DecoderConfig

  def setup(self) -> None:
    c = self.config
    init = nn.initializers.normal(c.embedding_std)
    self.embed = nn.Embed(c.vocab_size, c.width, c.dtype, embedding_init=init)
    if c.positions == "learned":
      self.positions = nn.Embed(
        c.max_length, c.width, c.dtype, embedding_init=init
      )
    block = nn.remat(Block, prevent_cse=False) if c.remat else Block
    self.blocks = nn.scan(
      block,
      variable_axes={"params": 0},
      split_rngs={"params": True},
      in_axes=(nn.broadcast, 0, 0, 0),
      length=c.num_layers,
      # A CPU takes a third more for the gradient of a loop over two layers.
      unroll=c.num_layers if c.num_layers <= 2 else 1,
    )(c)
    self.norm = Norm(c.norm, c.norm_eps)
    if not c.tied_embeddings:
      self.head = nn.Dense(c.vocab_size, use_bias=False, dtype=c.dtype)

  def embed_tokens(self, tokens: jax.Array) -> jax.Array:
    """Embeddings [B, T, D] of tokens [B, T]; positions are not yet added."""
    return self.embed(tokens)

  def run_blocks(
    self,
    hidden: jax.Array,
    positions: jax.Array | None = None,
    mask: jax.Array | None = None,
    cache: Cache | None = None,
    edits: Edits | None = None,
    adapters: Adapters | None = None,
  ) -> Blocks:
    """The blocks on embeddings [B, T, D]; see `LanguageModel.blocks`."""
    c, (batch, length) = self.config, hidden.shape[:2]
    if positions is None:
      positions = jnp.arange(length, dtype=jnp.int32)[None]
    positions = jnp.broadcast_to(positions, (batch, length))
    if c.positions == "learned":
      hidden = hidden + self.positions(positions)
    there = positions if mask is None else jnp.where(mask, positions, -1)
    slot = None
    if cache is not None:
      slot = cache.used
      there = jax.lax.dynamic_update_slice_in_dim(
        cache.position, there, slot, axis=1
      )
    ahead = positions[:, :, None] - there[:, None, :]
    visible = (ahead >= 0) & (there >= 0)[:, None, :]
    if c.window is not None:
      visible &= ahead < c.window
    rotation = rotations(c, positions) if c.positions == "rope" else None
    if edits is not None:
      every = jnp.broadcast_to(jnp.asarray(edits.add), (c.num_layers,))
      edits = edits._replace(add=every)
    kept = None if cache is None else (cache.key, cache.value)
    factors, weight = (None, None) if adapters is None else adapters
    shared = Shared(visible, rotation, slot, weight)
    hidden, (new, states) = self.blocks(hidden, shared, kept, edits, factors)
    if cache is not None and slot is not None:
      key, value = (
        jax.lax.dynamic_update_slice_in_dim(
          old, x.astype(old.dtype), slot, axis=2
        )
        for old, x in zip((cache.key, cache.value), new)
      )
      cache = Cache(key, value, there, slot + length)
    return Blocks(hidden, cache, states)

  def to_logits(self, hidden: jax.Array) -> jax.Array:
    """Logits [..., V] of the last block's output [..., D], float32 or wider."""
    hidden = self.norm(hidden)
    tied = self.config.tied_embeddings
    logits = self.embed.attend(hidden) if tied else self.head(hidden)
    return logits.astype(jnp.promote_types(jnp.float32, logits.dtype))

  def __call__(self, tokens: jax.Array) -> jax.Array:
    """Logits [B, T, V] of tokens [B, T]."""
    return self.to_logits(self.run_blocks(self.embed_tokens(tokens)).hidden)


def _adapted(
  out: jax.Array, x: jax.Array, factors: Any, name: str, weight: Any
) -> jax.Array:
  """What a matrix returns for x [B, T, in], with its adapter's change."""
  if not factors or name not in factors:
    return out
  change = (x @ factors[name]["a"]) @ factors[name]["b"]
  weight = weight[:, None, None]
  return jnp.where(weight == 0, out, out + (weight * change).astype(out.dtype))


def _edited(x: jax.Array, edits: Edits | None, kind: str) -> jax.Array:
  """x [B, T, D] with one layer's values put in where asked."""
  where = None if edits is None else getattr(edits.where, kind)
  if edits is None or where is None:
    return x
  value = getattr(edits.values, kind).astype(x.dtype)
  value = jnp.broadcast_to(value, x.shape)
  value = jnp.where(edits.add, x + value, value)
  return jnp.where(jnp.broadcast_to(where[..., None], x.shape), value, x)
