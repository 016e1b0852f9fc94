"""Sizes and switches of a decoder."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

from jaxunlearn.core import checks


class RopeScaling(NamedTuple):
  """How Llama 3.1 and later stretch the slow rotations.

  Attributes:
    factor: by how much the slowest are slowed.
    low_frequency: waves longer than original_length / low_frequency are.
    high_frequency: shorter than original_length / high_frequency are left.
    original_length: positions that the model was first trained on.
  """

  factor: float
  low_frequency: float
  high_frequency: float
  original_length: int


@dataclasses.dataclass(frozen=True)
class DecoderConfig:
  """Sizes and switches of a decoder; static.

  Attributes:
    vocab_size: V.
    width: D, of the residual stream.
    num_layers: blocks.
    num_heads: heads of queries.
    mlp_width: M.
    max_length: the longest text; learned positions are as many.
    num_kv_heads: heads of keys and values, divides num_heads; 0: as many.
    head_dim: size of a head; 0: width // num_heads.
    norm: "rms" or "layer".
    norm_eps: added to the mean square or the variance.
    positions: "rope" or "learned".
    rope_theta: base of the wave lengths of rotations.
    rope_scaling: None, or Llama 3's.
    activation: "silu_gated", or "gelu", its tanh form, without a gate.
    qkv_bias: biases of q, k and v.
    out_bias: bias of o.
    mlp_bias: biases of the perceptron.
    qk_norm: RMSNorm of each head's queries and keys.
    tied_embeddings: the head is the embedding.
    window: None, or to how many tokens, itself included, one attends.
    dtype: of the computation; None is that of the weights.
    embedding_std: of a fresh embedding.
    remat: blocks are computed again for the gradient, not kept.
  """

  vocab_size: int
  width: int
  num_layers: int
  num_heads: int
  mlp_width: int
  max_length: int
  num_kv_heads: int = 0
  head_dim: int = 0
  norm: str = "rms"
  norm_eps: float = 1e-5
  positions: str = "rope"
  rope_theta: float = 10_000.0
  rope_scaling: RopeScaling | None = None
  activation: str = "silu_gated"
  qkv_bias: bool = False
  out_bias: bool = False
  mlp_bias: bool = False
  qk_norm: bool = False
  tied_embeddings: bool = True
  window: int | None = None
  dtype: Any = None
  embedding_std: float = 0.02
  remat: bool = False

  def __post_init__(self) -> None:
    sizes = ("vocab_size", "width", "num_layers", "num_heads", "mlp_width")
    checks.count(1, **{n: getattr(self, n) for n in (*sizes, "max_length")})
    if self.window is not None:
      checks.count(1, window=self.window)
    kv_heads = self.num_kv_heads or self.num_heads
    object.__setattr__(self, "num_kv_heads", kv_heads)
    if self.num_heads % kv_heads:
      raise ValueError(
        f"Expected num_kv_heads to divide num_heads={self.num_heads}, got "
        f"num_kv_heads={kv_heads}."
      )
    if not self.head_dim and self.width % self.num_heads:
      raise ValueError(
        f"Expected num_heads to divide width={self.width}, or a head_dim, got "
        f"num_heads={self.num_heads}."
      )
    head_dim = self.head_dim or self.width // self.num_heads
    object.__setattr__(self, "head_dim", head_dim)
    checks.one_of(("rms", "layer"), norm=self.norm)
    checks.one_of(("rope", "learned"), positions=self.positions)
    checks.one_of(("silu_gated", "gelu"), activation=self.activation)
    if self.positions == "rope" and head_dim % 2:
      raise ValueError(
        f"Expected an even head_dim for rotations, got head_dim={head_dim}."
      )
