"""Attaching networks of Stable Diffusion's shapes, with random weights."""

import dataclasses
import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from refusals import refused

import jaxunlearn as ju
from jaxunlearn import diffusion
from jaxunlearn.diffusion import schedules

VOCAB, LENGTH, WIDTH, SIDE = 50, 77, 8, 64
LEVELS = schedules.scaled_linear()


@dataclasses.dataclass
class Output:
  """What diffusers returns, as far as it is read."""

  sample: Any


jax.tree_util.register_dataclass(Output, ["sample"], [])


class Attention(nn.Module):
  """Keys and values of the prompt, one query a latent image."""

  @nn.compact
  def __call__(self, h, context):
    project = lambda name: nn.Dense(WIDTH, use_bias=False, name=name)
    q = project("to_q")(h)[:, None]
    scores = nn.softmax((q * project("to_k")(context)).sum(-1))
    return (scores[..., None] * project("to_v")(context)).sum(1)


class TinyUNet(nn.Module):
  """Takes latents [B, 4, 64, 64]."""

  @nn.compact
  def __call__(self, sample, timesteps, encoder_hidden_states):
    if sample.shape[1:] != (4, SIDE, SIDE):
      raise ValueError(f"Expected latents [B, 4, 64, 64], got {sample.shape}.")
    time = jnp.asarray(timesteps, jnp.float32)[:, None] / 1000
    h = sample.mean((2, 3)) + nn.Dense(4, name="time_embedding")(time)
    h = Attention(name="attn2")(nn.Dense(WIDTH)(h), encoder_hidden_states)
    shift = nn.Dense(4, name="conv_out")(h)
    return Output(0.5 * sample + shift[:, :, None, None])


class TinyText(nn.Module):
  @nn.compact
  def __call__(self, tokens):
    return nn.Embed(VOCAB, WIDTH, name="token_embedding")(tokens)


NULL = np.array([49, *[0] * (LENGTH - 1)])


@functools.cache
def params():
  x = jnp.zeros((1, 4, SIDE, SIDE))
  context = jnp.zeros((1, LENGTH, WIDTH))
  keys = jax.random.split(jax.random.key(0))
  return {
    "denoiser": TinyUNet().init(keys[0], x, jnp.zeros(1), context)["params"],
    "text_encoder": TinyText().init(keys[1], NULL[None])["params"],
  }


def unet(params, x, t, context):
  return TinyUNet().apply({"params": params}, x, t, context)


def text(params, tokens):
  return {"last_hidden_state": TinyText().apply({"params": params}, tokens)}


def attached(**options):
  return diffusion.attach(
    unet,
    text,
    **{
      "null_tokens": NULL,
      "alphas_bar": LEVELS,
      "vocab_size": VOCAB,
      **options,
    },
  )


def prompt(*words):
  return np.array([[49, *words, *[0] * (LENGTH - 1 - len(words))]])


def test_the_noise_is_the_networks_with_channels_last():
  x = jax.random.normal(jax.random.key(1), (2, SIDE, SIDE, 4))
  t, tokens = jnp.array([3, 900]), np.tile(prompt(5), (2, 1))
  model = attached()
  context = model.context_of(params(), tokens)
  assert context.shape == (2, LENGTH, WIDTH)
  found = model.eps(params(), x, t, context)
  wanted = unet(params()["denoiser"], x.transpose(0, 3, 1, 2), t, context)
  np.testing.assert_array_equal(found, wanted.sample.transpose(0, 2, 3, 1))


def test_a_v_prediction_becomes_noise():
  x = jax.random.normal(jax.random.key(1), (1, SIDE, SIDE, 4))
  t, tokens = jnp.array([400]), prompt(5)
  model, raw = attached(prediction="v"), attached()
  context = model.encode(params(), tokens)
  v = raw.eps(params(), x, t, context)
  level = float(LEVELS[400])
  wanted = np.sqrt(level) * v + np.sqrt(1 - level) * x
  np.testing.assert_allclose(
    model.eps(params(), x, t, context), wanted, atol=1e-5
  )


def test_it_samples_attacks_and_is_edited_as_any_model():
  model, tokens, key = attached(), prompt(5, 6), jax.random.key(2)
  options = {"num_steps": 3, "guidance": 7.5}
  sample = jax.jit(lambda p: diffusion.sample(model, p, tokens, key, **options))
  original = sample(params())
  assert original.shape == (1, SIDE, SIDE, 4)
  assert bool(jnp.isfinite(original).all())
  kv = diffusion.parameter_group(params(), "xattn-kv")
  assert sum(jax.tree.leaves(kv)) == 2
  edited = jax.tree.map(lambda p, m: p + m * 1.0, params(), kv)
  assert float(abs(sample(edited) - original).max()) > 1e-3
  attack = jax.jit(
    lambda psi: diffusion.partial_diffusion(
      model, params(), edited, tokens, psi, key, **options
    )
  )
  np.testing.assert_allclose(attack(0.0), sample(edited), atol=1e-4)
  np.testing.assert_allclose(attack(1.0), original, atol=1e-4)


def test_it_is_fitted_on_latents():
  model = attached()
  data = {
    "x": jax.random.normal(jax.random.key(3), (4, SIDE, SIDE, 4)),
    "tokens": np.tile(prompt(7), (4, 1)),
  }
  fit = diffusion.fitting(
    model, optimizer=optax.sgd(1e-2), num_steps=2, batch_size=2
  )
  mask = jnp.array([True, False, False, False])
  unlearned, info = jax.jit(fit)(
    ju.Variables(params()), data, mask, jax.random.key(4)
  )
  assert np.isfinite(info.loss).all()
  moved = jax.tree.map(
    lambda a, b: float(abs(a - b).max()), params(), unlearned.params
  )
  assert moved["denoiser"]["conv_out"]["bias"] > 0


def test_channels_last_arrays_and_plain_contexts_are_taken_too():
  model = diffusion.attach(
    lambda p, x, t, c: x * p + c.mean(),
    lambda p, tokens: p * tokens[..., None],
    null_tokens=[1, 0],
    alphas_bar=LEVELS,
    latents=diffusion.Latents((2, 2, 1), channels_first=False),
    embeddings=diffusion.Embeddings(
      lambda p, tokens: p * tokens[..., None], lambda p, e: e
    ),
  )
  both = {"denoiser": 2.0, "text_encoder": 0.5}
  x, tokens = jnp.ones((1, 2, 2, 1)), jnp.array([[1, 1]])
  context = model.encode(both, tokens)
  np.testing.assert_allclose(
    model.eps(both, x, jnp.array([0]), context), 2.5 * x
  )
  embedded = model.embed(both, tokens)
  np.testing.assert_array_equal(
    model.encode_embeddings(both, embedded), context
  )


def test_what_does_not_fit_is_refused():
  for change, message in (
    ({"null_tokens": [[1]]}, r"null_tokens \[L > 0\]"),
    ({"null_tokens": [50]}, r"null_tokens in 0 \.\. 49"),
    ({"alphas_bar": jnp.ones(3)}, "alphas_bar to fall"),
    ({"latents": diffusion.Latents((4, 64))}, r"latent_shape \(H, W, C\)"),
    ({"prediction": "x"}, "prediction to be one of"),
    (
      {"embeddings": diffusion.Embeddings(lambda p, tokens: tokens)},
      "embed and encode of embeddings together",
    ),
  ):
    refused(message, attached, **change)
  with pytest.raises(ValueError, match="params of a pretrained model"):
    attached().init(jax.random.key(0))
  assert attached(init=lambda key: 5).init(jax.random.key(0)) == 5


def test_what_the_functions_return_is_checked():
  options = {
    "null_tokens": [1, 0],
    "alphas_bar": LEVELS,
    "latents": diffusion.Latents((2, 2, 1)),
  }
  x, both = jnp.ones((1, 2, 2, 1)), {"denoiser": 1.0, "text_encoder": 1.0}
  context = jnp.ones((1, 2, 3))
  for out, message in (
    (lambda x: x[..., 0], "unet to return "),
    (lambda x: {"noise": x}, "'sample' in an output"),
  ):
    model = diffusion.attach(
      lambda p, x, t, c, out=out: out(x), lambda p, k: k, **options
    )
    refused(message, model.eps, both, x, jnp.array([0]), context)
  refused("text_encoder to return", model.encode, both, jnp.array([[1, 0]]))
