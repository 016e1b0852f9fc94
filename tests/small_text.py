"""Tiny decoders of several layouts, their texts, and a forward pass in NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from jaxunlearn.language.model import language_model
from jaxunlearn.language.types import Text
from jaxunlearn.models.decoder import DecoderConfig, RopeScaling

SIZES = {
  "vocab_size": 19,
  "width": 8,
  "num_layers": 3,
  "num_heads": 4,
  "mlp_width": 12,
  "max_length": 16,
}
CONFIGS = {
  "llama": DecoderConfig(**SIZES, num_kv_heads=2, norm_eps=1e-5),
  "llama 3": DecoderConfig(
    **SIZES,
    num_kv_heads=1,
    head_dim=6,
    rope_theta=50.0,
    rope_scaling=RopeScaling(8.0, 1.0, 4.0, 24),
    tied_embeddings=False,
  ),
  "gpt2": DecoderConfig(
    **SIZES,
    norm="layer",
    positions="learned",
    activation="gelu",
    qkv_bias=True,
    out_bias=True,
    mlp_bias=True,
  ),
  "mistral": DecoderConfig(**SIZES, window=3, tied_embeddings=False),
  "qwen2": DecoderConfig(**SIZES, num_kv_heads=2, qkv_bias=True),
  "qwen3": DecoderConfig(**SIZES, num_kv_heads=2, qk_norm=True, head_dim=4),
}


def filled(lm, seed=0):
  """Variables of a usual size; biases and scales are not what they start as."""
  shapes = jax.eval_shape(lm.model.init, jax.random.key(0), texts(2, 4, 5))
  rng = np.random.default_rng(seed)

  def fill(path, leaf):
    noise = rng.standard_normal(leaf.shape)
    if path[-1].key == "scale":
      noise = 1 + 0.2 * noise
    elif path[-1].key == "kernel":
      noise = 1.5 * noise / np.sqrt(leaf.shape[-2])
    return jnp.asarray(noise, leaf.dtype)

  return jax.tree_util.tree_map_with_path(fill, shapes)


@functools.cache
def small(name, **options):
  lm = language_model(CONFIGS[name], **options)
  # One program of each, where a test calls it by itself, and not one an operation.
  parts = {"blocks": jax.jit(lm.blocks, static_argnames="layers")}
  parts |= {part: jax.jit(getattr(lm, part)) for part in ("embed", "logits")}
  return lm._replace(**parts), filled(lm)


def texts(num, length, vocab_size, seed=0):
  """Rows of all lengths, with prompts and noise in the padding."""
  rng = np.random.default_rng(seed)
  tokens = rng.integers(0, vocab_size, (num, length))
  lengths = rng.integers(2, length + 1, num)
  lengths[0] = length
  prompt = rng.integers(1, lengths)
  made = (tokens, lengths, prompt)
  return Text(*(jnp.asarray(a, jnp.int32) for a in made))


def forward(config, params, tokens):
  """Logits [T, V] of one row, in float64, a layer and a head at a time."""
  c = config
  p = jax.tree.map(lambda a: np.asarray(a, np.float64), params)

  def norm(x, w, kind):
    if kind == "layer":
      mean, var = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
      return (x - mean) / np.sqrt(var + c.norm_eps) * w["scale"] + w["bias"]
    rms = np.sqrt((x**2).mean(-1, keepdims=True) + c.norm_eps)
    return x / rms * w["scale"]

  def dense(x, w):
    return x @ w["kernel"] + w.get("bias", 0)

  def turned(x, t):
    """Each pair (i, i + E / 2) of a head as a complex number."""
    half = c.head_dim // 2
    out = np.empty_like(x)
    for i in range(half):
      speed = c.rope_theta ** (-2 * i / c.head_dim)
      if c.rope_scaling is not None:
        s = c.rope_scaling
        wave = 2 * np.pi / speed
        if wave > s.original_length / s.low_frequency:
          speed = speed / s.factor
        elif wave > s.original_length / s.high_frequency:
          smooth = (s.original_length / wave - s.low_frequency) / (
            s.high_frequency - s.low_frequency
          )
          speed = (1 - smooth) * speed / s.factor + smooth * speed
      z = (x[i] + 1j * x[i + half]) * np.exp(1j * speed * t)
      out[i], out[i + half] = z.real, z.imag
    return out

  x = p["embed"]["embedding"][tokens]
  if c.positions == "learned":
    x = x + p["positions"]["embedding"][: len(tokens)]
  size, group = len(tokens), c.num_heads // c.num_kv_heads
  for layer in range(c.num_layers):
    w = jax.tree.map(lambda a, i=layer: a[i], p["blocks"])
    a, y = w["attention"], norm(x, w["norm_1"], c.norm)
    q, k, v = (
      dense(y, a[n]).reshape(size, -1, c.head_dim) for n in ("q", "k", "v")
    )
    if c.qk_norm:
      q, k = norm(q, a["q_norm"], "rms"), norm(k, a["k_norm"], "rms")
    if c.positions == "rope":
      q, k = (
        np.array([[turned(h, t) for h in row] for t, row in enumerate(m)])
        for m in (q, k)
      )
    out = np.zeros((size, c.num_heads, c.head_dim))
    for t in range(size):
      first = 0 if c.window is None else max(0, t - c.window + 1)
      for h in range(c.num_heads):
        seen = k[first : t + 1, h // group] @ q[t, h] / np.sqrt(c.head_dim)
        weights = np.exp(seen - seen.max())
        out[t, h] = weights / weights.sum() @ v[first : t + 1, h // group]
    x = x + dense(out.reshape(size, -1), a["o"])
    y, m = norm(x, w["norm_2"], c.norm), w["mlp"]
    up = dense(y, m["up"])
    if c.activation == "silu_gated":
      gate = dense(y, m["gate"])
      up = gate / (1 + np.exp(-gate)) * up
    else:
      inner = np.sqrt(2 / np.pi) * (up + 0.044715 * up**3)
      up = 0.5 * up * (1 + np.tanh(inner))
    x = x + dense(up, m["down"])
  x = norm(x, p["norm"], c.norm)
  tied = c.tied_embeddings
  return x @ (p["embed"]["embedding"].T if tied else p["head"]["kernel"])
