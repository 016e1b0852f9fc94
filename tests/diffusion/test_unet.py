"""The convolutional model: shapes, prompts, groups, and one step of training."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_diffusion import filled

from jaxunlearn import diffusion
from jaxunlearn.diffusion import schedules
from jaxunlearn.models.unet import PromptAttention

UNET = diffusion.UNet((4, 8), 1, (1,), num_heads=2, groups=2)
OPTIONS = {
  "image_shape": (8, 8, 3),
  "vocab_size": 5,
  "null_tokens": (1, 0, 0),
  "alphas_bar": schedules.linear(10, 1e-3, 0.3),
  "unet": UNET,
  "text_width": 6,
  "text_layers": 1,
}


@functools.cache
def model():
  return diffusion.text_to_image_unet(**OPTIONS)


@functools.cache
def params():
  return filled(model().init)


@functools.cache
def predict():
  """`(params, t, tokens) -> (eps, maps)` for the images of `batch`."""
  return jax.jit(
    lambda p, t, tokens: model().eps_with_attention(
      p, batch()[0], t, model().encode(p, tokens)
    )
  )


def batch():
  x = jax.random.normal(jax.random.key(2), (2, 8, 8, 3))
  return x, jnp.array([0, 7]), jnp.array([[1, 2, 0], [1, 3, 4]])


@pytest.mark.slow
def test_the_noise_and_the_attention_have_the_stated_shapes():
  x, t, tokens = batch()
  eps, maps = predict()(params(), t, tokens)
  assert eps.shape == x.shape
  # One on the way down, one in the middle, two on the way up, all at 4x4.
  assert [a.shape for a in maps] == [(2, 2, 16, 3)] * 4
  for a in maps:
    np.testing.assert_allclose(a.sum(-1), np.ones((2, 2, 16)), rtol=1e-5)
  other = predict()(params(), t.at[0].set(3), tokens.at[0].set(4))[0]
  np.testing.assert_allclose(eps[1], other[1], atol=1e-5)
  assert float(abs(eps[0] - other[0]).max()) > 1e-3


@pytest.mark.slow
def test_the_first_prediction_is_no_noise():
  _, t, tokens = batch()
  fresh = jax.jit(model().init)(jax.random.key(0))
  np.testing.assert_array_equal(predict()(fresh, t, tokens)[0], 0)


def test_prompt_and_time_reach_the_noise():
  _, t, tokens = batch()
  eps = lambda *args: predict()(*args)[0]
  first = eps(params(), t, tokens)
  assert float(abs(first - eps(params(), t, tokens[::-1])).max()) > 1e-3
  assert float(abs(first - eps(params(), t + 2, tokens)).max()) > 1e-3
  prompted = lambda path: {"attn2", "to_v"} <= {k.key for k in path}
  cut = jax.tree_util.tree_map_with_path(
    lambda path, p: 0 * p if prompted(path) else p, params()
  )
  np.testing.assert_array_equal(eps(cut, t, tokens), eps(cut, t, tokens[::-1]))


def test_attention_is_softmax_of_queries_and_keys():
  layer = PromptAttention(num_heads=2)
  rng = np.random.default_rng(0)
  x, context = rng.normal(size=(2, 3, 4)), rng.normal(size=(2, 5, 6))
  args = jnp.asarray(x, jnp.float32), jnp.asarray(context, jnp.float32)
  values = layer.init(jax.random.key(0), *args)["params"]
  w = {k: np.asarray(v["kernel"], np.float64) for k, v in values.items()}
  split = lambda a: a.reshape(*a.shape[:2], 2, 2)
  q, k, v = (
    split(s @ w[n])
    for s, n in ((x, "to_q"), (context, "to_k"), (context, "to_v"))
  )
  scores = np.exp(np.einsum("bnhd,blhd->bhnl", q, k) / np.sqrt(2))
  scores /= scores.sum(-1, keepdims=True)
  mixed = np.einsum("bhnl,blhd->bnhd", scores, v).reshape(2, 3, 4)
  wanted = mixed @ w["to_out"] + np.asarray(values["to_out"]["bias"])
  found = layer.apply({"params": values}, *args)
  np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_groups_have_their_parameters():
  sizes = {
    name: sum(jax.tree.leaves(group))
    for name, group in diffusion.parameter_groups(params()).items()
  }
  # Four transformers, of five leaves an attention.
  assert sizes["xattn"] == sizes["selfattn"] == 20
  assert sizes["xattn-kv"] == 8
  # Two dense layers of the time, the last normalisation and convolution.
  ends = 4 + 2 + 2
  assert sizes["full"] - sizes["noxattn"] == 20 + ends


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"unet": UNET._replace(num_blocks=0)}, "num_blocks > 0"),
    ({"unet": UNET._replace(channels=())}, "lowest_channels > 0"),
    ({"unet": UNET._replace(attention_levels=(2,))}, "attention_levels among"),
    ({"unet": UNET._replace(attention_levels=())}, "attention_levels among"),
    ({"prediction": "x"}, "prediction to be one of"),
    ({"unet": UNET._replace(num_heads=3)}, "num_heads to divide"),
    ({"unet": UNET._replace(groups=3)}, "groups to divide"),
    ({"image_shape": (7, 8, 3)}, "divisible by 2, got 7x8"),
    ({"image_shape": (8, 8)}, r"image_shape \(H, W, C\)"),
  ],
)
def test_what_does_not_fit_is_refused(change, message):
  with pytest.raises(ValueError, match=message):
    made = diffusion.text_to_image_unet(**{**OPTIONS, **change})
    jax.eval_shape(made.init, jax.random.key(0))
