"""Which weight of `models.decoder` has which name at Hugging Face."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxunlearn.models.decoder import DecoderConfig, RopeScaling

KINDS = ("gpt2", "llama", "mistral", "qwen2", "qwen3")


class Entry(NamedTuple):
  """A weight of a folder, and the parameters that are in it.

  Attributes:
    name: with a {} for the layer.
    paths: several where q, k and v are one matrix, side by side.
    transposed: [out, in], as PyTorch's linear layers have it.
  """

  name: str
  paths: tuple[str, ...]
  transposed: bool = False

  @property
  def stacked(self) -> bool:
    return "{}" in self.name

  def names(self, config: DecoderConfig) -> Iterator[str]:
    for layer in range(config.num_layers if self.stacked else 1):
      yield self.name.format(layer)

  def split(self, leaf: np.ndarray, config: DecoderConfig) -> list[np.ndarray]:
    leaf = leaf.T if self.transposed else leaf
    if len(self.paths) == 1:
      return [leaf]
    heads = (config.num_heads, config.num_kv_heads)
    ends = np.cumsum([n * config.head_dim for n in heads])
    return np.split(leaf, ends, axis=-1)

  def join(self, parts: Sequence[np.ndarray]) -> np.ndarray:
    leaf = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=-1)
    return leaf.T if self.transposed else leaf


def entries(config: DecoderConfig) -> list[Entry]:
  """All weights of a decoder, in the order of the model.

  Example:
    >>> from jaxunlearn.adapters import huggingface_layouts as layouts
    >>> from jaxunlearn.language import DecoderConfig
    >>> found = layouts.entries(DecoderConfig(28, 16, 2, 2, 12, 12))
    >>> found[1].name, found[1].paths
    ('model.layers.{}.input_layernorm.weight', ('blocks/norm_1/scale',))
  """
  made = _gpt2(config) if config.positions == "learned" else _llama(config)
  return list(made)


def _gpt2(config: DecoderConfig) -> Iterator[Entry]:
  """Its layers keep [in, out], and have biases throughout."""
  yield Entry("transformer.wte.weight", ("embed/embedding",))
  yield Entry("transformer.wpe.weight", ("positions/embedding",))
  layer, block = "transformer.h.{}.", "blocks/"
  for side in (1, 2):
    yield from _norm(f"{layer}ln_{side}", f"{block}norm_{side}")
  for name, paths in (
    ("attn.c_attn", ("attention/q", "attention/k", "attention/v")),
    ("attn.c_proj", ("attention/o",)),
    ("mlp.c_fc", ("mlp/up",)),
    ("mlp.c_proj", ("mlp/down",)),
  ):
    for theirs, ours in (("weight", "kernel"), ("bias", "bias")):
      own = tuple(f"{block}{path}/{ours}" for path in paths)
      yield Entry(f"{layer}{name}.{theirs}", own)
  yield from _norm("transformer.ln_f", "norm")
  yield from _head(config)


def _llama(config: DecoderConfig) -> Iterator[Entry]:
  yield Entry("model.embed_tokens.weight", ("embed/embedding",))
  layer, block = "model.layers.{}.", "blocks/"
  names = {"norm_1": "input_layernorm", "norm_2": "post_attention_layernorm"}
  for ours, theirs in names.items():
    yield Entry(f"{layer}{theirs}.weight", (f"{block}{ours}/scale",))
  biases = {"q": config.qkv_bias, "k": config.qkv_bias, "v": config.qkv_bias}
  biases["o"] = config.out_bias
  for ours, has_bias in biases.items():
    name = f"{layer}self_attn.{ours}_proj"
    yield from _linear(name, f"{block}attention/{ours}", has_bias)
  for ours in ("q_norm", "k_norm") if config.qk_norm else ():
    name = f"{layer}self_attn.{ours}.weight"
    yield Entry(name, (f"{block}attention/{ours}/scale",))
  for ours in ("gate", "up", "down"):
    name = f"{layer}mlp.{ours}_proj"
    yield from _linear(name, f"{block}mlp/{ours}", config.mlp_bias)
  yield Entry("model.norm.weight", ("norm/scale",))
  yield from _head(config)


def _head(config: DecoderConfig) -> Iterator[Entry]:
  if not config.tied_embeddings:
    yield Entry("lm_head.weight", ("head/kernel",), True)


def _norm(name: str, path: str) -> Iterator[Entry]:
  yield Entry(f"{name}.weight", (f"{path}/scale",))
  yield Entry(f"{name}.bias", (f"{path}/bias",))


def _linear(name: str, path: str, has_bias: bool) -> Iterator[Entry]:
  yield Entry(f"{name}.weight", (f"{path}/kernel",), True)
  if has_bias:
    yield Entry(f"{name}.bias", (f"{path}/bias",))


def is_ignored(name: str, config: DecoderConfig) -> bool:
  """Buffers that old folders have, and a head that is the embedding.

  Example:
    >>> from jaxunlearn.adapters import huggingface_layouts as layouts
    >>> from jaxunlearn.language import DecoderConfig
    >>> config = DecoderConfig(28, 16, 2, 2, 12, 12)  # The head is embeddings.
    >>> names = ("lm_head.weight", "model.norm.weight")
    >>> [layouts.is_ignored(name, config) for name in names]
    [True, False]
  """
  if re.search(r"(^|\.)(attn\.(masked_)?bias|rotary_emb\.inv_freq)$", name):
    return True
  return config.tied_embeddings and name == "lm_head.weight"


def config_of(settings: Mapping[str, Any]) -> DecoderConfig:
  """The decoder that a config.json describes.

  Raises:
    ValueError: a kind, an activation or rotations that are not known; a number
      that is missing.

  Example:
    >>> from jaxunlearn.adapters import huggingface_layouts as layouts
    >>> from jaxunlearn.language import DecoderConfig
    >>> settings = layouts.settings_of(DecoderConfig(28, 16, 2, 2, 12, 12))
    >>> config = layouts.config_of({**settings, "num_hidden_layers": 5})
    >>> config.width, config.num_layers
    (16, 5)
  """
  kind = settings.get("model_type")
  if kind not in KINDS:
    raise ValueError(
      f"Expected model_type to be one of {', '.join(KINDS)}, got {kind!r}."
    )
  try:
    return _gpt2_config(settings) if kind == "gpt2" else _llama_config(settings)
  except KeyError as error:
    raise ValueError(
      f"Expected config.json to have {error}, got none."
    ) from None
  except (TypeError, AttributeError, OverflowError) as error:
    raise ValueError(
      f"Expected config.json as transformers writes it, got {error}."
    ) from error


def _gpt2_config(s: Mapping[str, Any]) -> DecoderConfig:
  _only(s, "activation_function", ("gelu_new", "gelu_pytorch_tanh"), "gelu_new")
  _only(s, "scale_attn_weights", (True,), True)
  _only(s, "scale_attn_by_inverse_layer_idx", (False,), False)
  return DecoderConfig(
    vocab_size=s["vocab_size"],
    width=s["n_embd"],
    num_layers=s["n_layer"],
    num_heads=s["n_head"],
    mlp_width=s.get("n_inner") or 4 * s["n_embd"],
    max_length=s["n_positions"],
    norm="layer",
    norm_eps=s.get("layer_norm_epsilon", 1e-5),
    positions="learned",
    activation="gelu",
    qkv_bias=True,
    out_bias=True,
    mlp_bias=True,
    tied_embeddings=bool(s.get("tie_word_embeddings", True)),
  )


def _llama_config(s: Mapping[str, Any]) -> DecoderConfig:
  kind = s["model_type"]
  _only(s, "hidden_act", ("silu",), "silu")
  windowed = kind == "mistral" or s.get("use_sliding_window", False)
  if windowed and len(set(s.get("layer_types") or [0])) > 1:
    raise ValueError("Expected all layers to attend alike, got two kinds.")
  theta, scaling = _rotations(s)
  has_bias = bool(s.get("attention_bias", False))
  return DecoderConfig(
    vocab_size=s["vocab_size"],
    width=s["hidden_size"],
    num_layers=s["num_hidden_layers"],
    num_heads=s["num_attention_heads"],
    mlp_width=s["intermediate_size"],
    max_length=s["max_position_embeddings"],
    num_kv_heads=s.get("num_key_value_heads") or 0,
    head_dim=s.get("head_dim") or 0,
    norm_eps=s.get("rms_norm_eps", 1e-6),
    rope_theta=theta,
    rope_scaling=scaling,
    qkv_bias=kind == "qwen2" or has_bias,
    out_bias=has_bias and kind != "qwen2",
    mlp_bias=bool(s.get("mlp_bias", False)),
    qk_norm=kind == "qwen3",
    tied_embeddings=bool(s.get("tie_word_embeddings", False)),
    window=(s.get("sliding_window") if windowed else None),
  )


def _rotations(s: Mapping[str, Any]) -> tuple[float, RopeScaling | None]:
  # Since version 5 both are in one place.
  given = s.get("rope_parameters") or s.get("rope_scaling") or {}
  theta = given.get("rope_theta") or s.get("rope_theta") or 1e4
  if isinstance(theta, str):
    raise ValueError(f"Expected rope_theta to be a number, got {theta!r}.")
  theta = float(theta)
  kind = given.get("rope_type", given.get("type", "default"))
  if kind not in ("default", "llama3") or given.get("partial_rotary_factor"):
    raise ValueError(
      f"Expected rotations of the kinds default or llama3, got {kind!r}."
    )
  if kind == "default":
    return theta, None
  return theta, RopeScaling(
    float(given["factor"]),
    float(given["low_freq_factor"]),
    float(given["high_freq_factor"]),
    int(given["original_max_position_embeddings"]),
  )


def _only(
  s: Mapping[str, Any], name: str, known: tuple[Any, ...], default: Any
) -> None:
  if s.get(name, default) not in known:
    wanted = " or ".join(map(repr, known))
    raise ValueError(f"Expected {name} {wanted}, got {s[name]!r}.")


def settings_of(config: DecoderConfig) -> dict[str, Any]:
  """A config.json of a decoder; `config_of` reads it back.

  Raises:
    ValueError: none of the kinds has these switches.

  Example:
    >>> from jaxunlearn.adapters import huggingface_layouts as layouts
    >>> from jaxunlearn.language import DecoderConfig
    >>> settings = layouts.settings_of(DecoderConfig(28, 16, 2, 2, 12, 12))
    >>> settings["model_type"], settings["hidden_size"]
    ('llama', 16)
  """
  c = config
  common = {
    "vocab_size": c.vocab_size,
    "tie_word_embeddings": c.tied_embeddings,
  }
  if c.positions == "learned":
    made = common | {
      "model_type": "gpt2",
      "architectures": ["GPT2LMHeadModel"],
      "activation_function": "gelu_new",
      "n_embd": c.width,
      "n_layer": c.num_layers,
      "n_head": c.num_heads,
      "n_inner": c.mlp_width,
      "n_positions": c.max_length,
      "layer_norm_epsilon": c.norm_eps,
    }
  else:
    made = common | _llama_settings(c)
  read = config_of(made)
  differs = [
    name
    for name in vars(read)
    if name not in ("dtype", "embedding_std", "remat")
    and getattr(read, name) != getattr(c, name)
  ]
  if differs:
    raise ValueError(
      f"Expected a decoder of the kinds {', '.join(KINDS)}, got "
      f"{differs[0]}={getattr(c, differs[0])!r} with {made['model_type']}."
    )
  return made


def _llama_settings(c: DecoderConfig) -> dict[str, Any]:
  qwen2 = c.qkv_bias and not c.out_bias
  kind = "qwen3" if c.qk_norm else "qwen2" if qwen2 else "llama"
  if kind == "llama" and c.window is not None:
    kind = "mistral"
  made = {
    "model_type": kind,
    "architectures": [f"{kind.capitalize()}ForCausalLM"],
    "hidden_act": "silu",
    "hidden_size": c.width,
    "num_hidden_layers": c.num_layers,
    "num_attention_heads": c.num_heads,
    "num_key_value_heads": c.num_kv_heads,
    "head_dim": c.head_dim,
    "intermediate_size": c.mlp_width,
    "max_position_embeddings": c.max_length,
    "rms_norm_eps": c.norm_eps,
    "rope_theta": c.rope_theta,
    "attention_bias": c.out_bias,
    "mlp_bias": c.mlp_bias,
    "sliding_window": c.window,
    "use_sliding_window": c.window is not None,
  }
  if c.rope_scaling is not None:
    s = c.rope_scaling
    made["rope_scaling"] = {
      "rope_type": "llama3",
      "factor": s.factor,
      "low_freq_factor": s.low_frequency,
      "high_freq_factor": s.high_frequency,
      "original_max_position_embeddings": s.original_length,
    }
  return made
