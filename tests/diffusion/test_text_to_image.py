"""The small model, its parameter groups, and training it under a mask."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from refusals import refused

from jaxunlearn import diffusion
from jaxunlearn.core.types import Variables, as_step
from jaxunlearn.diffusion import schedules, training
from jaxunlearn.diffusion.types import parameter_group, parameter_groups

SHAPE, LENGTH, VOCAB = (2, 2, 3), 4, 7
NULL = (1, 0, 0, 0)
LEVELS = schedules.linear(20, 1e-3, 0.3)


@functools.cache
def model(**options):
  return diffusion.text_to_image(
    image_shape=SHAPE,
    vocab_size=VOCAB,
    null_tokens=NULL,
    alphas_bar=LEVELS,
    denoiser=diffusion.Denoiser(16, num_blocks=2, num_heads=2),
    text_width=8,
    **options,
  )


@functools.cache
def params():
  """Away from the start, where the network's last layer is zero."""

  @jax.jit
  def make(first, second):
    leaves, tree = jax.tree.flatten(model().init(first))
    keys = jax.random.split(second, len(leaves))
    noisy = lambda p, k: p + 0.1 * jax.random.normal(k, p.shape)
    return jax.tree.unflatten(tree, [*map(noisy, leaves, keys)])

  return make(jax.random.key(0), jax.random.key(1))


def rows(n=24, seed=0):
  rng = np.random.default_rng(seed)
  kind = np.arange(n) % 3
  tokens = np.zeros((n, LENGTH), np.int32)
  tokens[:, 0], tokens[:, 1] = 1, 2 + kind
  x = np.clip(rng.normal(kind[:, None] - 1, 0.1, (n, 12)), -1, 1)
  return {
    "x": jnp.asarray(x.reshape(n, *SHAPE), jnp.float32),
    "tokens": jnp.asarray(tokens),
    "object": jnp.asarray(kind, jnp.int32),
  }


@pytest.mark.slow
def test_the_noise_and_the_attention_have_the_stated_shapes():
  m, data = model(), rows(6)
  t = jnp.arange(6)
  context = m.context_of(params(), data["tokens"])
  assert context.shape == (6, LENGTH, 8)
  args = params(), data["x"], t, context
  eps, maps = jax.jit(m.eps_with_attention)(*args)
  np.testing.assert_allclose(eps, jax.jit(m.eps)(*args), atol=1e-6)
  assert [a.shape for a in maps] == [(6, 2, 1, LENGTH)] * 2
  for a in maps:
    np.testing.assert_allclose(a.sum(-1), np.ones((6, 2, 1)), rtol=1e-5)


def test_the_attention_is_softmax_of_queries_and_keys():
  """One block's map from its own projections, in float64."""
  from jaxunlearn.models.text_to_image import CrossAttention

  layer = CrossAttention(width=6, num_heads=2)
  rng = np.random.default_rng(0)
  x, context = rng.normal(size=(3, 6)), rng.normal(size=(3, 4, 5))
  args = jnp.asarray(x, jnp.float32), jnp.asarray(context, jnp.float32)
  values = layer.init(jax.random.key(0), *args)["params"]
  out, sown = layer.apply({"params": values}, *args, mutable=["intermediates"])
  w = {k: np.asarray(v["kernel"], np.float64) for k, v in values.items()}
  q = (x @ w["to_q"]).reshape(3, 2, 3)
  k = (context @ w["to_k"]).reshape(3, 4, 2, 3)
  v = (context @ w["to_v"]).reshape(3, 4, 2, 3)
  scores = np.einsum("bhd,blhd->bhl", q, k) / np.sqrt(3)
  a = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
  mixed = np.einsum("bhl,blhd->bhd", a, v).reshape(3, 6)
  bias = np.asarray(values["to_out"]["bias"])
  np.testing.assert_allclose(out, mixed @ w["to_out"] + bias, atol=1e-5)
  found = sown["intermediates"]["attention"][0]
  np.testing.assert_allclose(found[:, :, 0], a, atol=1e-5)


def test_embeddings_encode_as_their_tokens_do():
  m, tokens = model(), rows(3)["tokens"]
  embedded = jax.jit(m.embed)(params(), tokens)
  np.testing.assert_allclose(
    jax.jit(m.encode_embeddings)(params(), embedded),
    jax.jit(m.encode)(params(), tokens),
    atol=1e-6,
  )


def test_the_text_encoder_looks_back_only():
  m = model()
  tokens = jnp.array([[1, 2, 3, 4], [1, 2, 5, 6]])
  context = jax.jit(m.encode)(params(), tokens)
  np.testing.assert_allclose(context[0, :2], context[1, :2], atol=1e-6)
  assert float(abs(context[0, 2:] - context[1, 2:]).max()) > 1e-3


def test_the_prompt_reaches_the_noise_through_cross_attention_only():
  m, data = model(), rows(6)
  t = jnp.full(6, 10)
  cut = jax.tree_util.tree_map_with_path(
    lambda path, p: 0 * np.asarray(p) if "to_v" in str(path) else p, params()
  )
  x = data["x"][:1].repeat(6, 0)
  noise = jax.jit(lambda p: m.eps(p, x, t, m.encode(p, data["tokens"])))
  assert float(jnp.ptp(noise(params()), axis=0).max()) > 1e-4
  assert float(jnp.ptp(noise(cut), axis=0).max()) < 1e-6


@pytest.mark.slow
def test_v_prediction_is_turned_into_noise():
  v, eps = model(prediction="v"), model(prediction="eps")
  data = rows(4)
  t = jnp.array([0, 3, 10, 19])
  context = v.encode(params(), data["tokens"])
  raw = np.asarray(eps.eps(params(), data["x"], t, context), np.float64)
  level = np.asarray(LEVELS, np.float64)[np.asarray(t)].reshape(4, 1, 1, 1)
  wanted = np.sqrt(level) * raw + np.sqrt(1 - level) * np.asarray(data["x"])
  found = v.eps(params(), data["x"], t, context)
  np.testing.assert_allclose(found, wanted, atol=1e-5)
  with_maps, _ = v.eps_with_attention(params(), data["x"], t, context)
  np.testing.assert_allclose(with_maps, wanted, atol=1e-5)


def test_groups_hold_the_parameters_of_their_names():
  groups = parameter_groups(params())

  def paths(name):
    found = jax.tree_util.tree_leaves_with_path(groups[name])
    return {jax.tree_util.keystr(p) for p, chosen in found if chosen}

  everything = paths("all")
  assert len(everything) == len(jax.tree.leaves(params()))
  assert paths("full") | paths("text") == everything
  assert not paths("full") & paths("text")
  kv = {
    f"['denoiser']['block_{i}']['attn2']['to_{n}']['kernel']"
    for i in range(2)
    for n in "kv"
  }
  assert paths("xattn-kv") == kv
  assert paths("xattn") - kv == {
    p for p in everything if "'to_q'" in p or "'to_out'" in p
  }
  left_out = paths("full") - paths("noxattn") - paths("xattn")
  ends = ("time_embedding", "norm_out", "conv_out")
  assert left_out and all(any(e in p for e in ends) for p in left_out)
  assert not paths("noxattn") & paths("xattn")
  assert not paths("selfattn")
  embeddings = paths("text") - paths("text-layers")
  assert len(embeddings) == 2 and all("embedding" in p for p in embeddings)


def losses(m, step, key, q=None, train=True, **options):
  task = diffusion.denoising_task(m, **options)
  q = params() if q is None else q
  loss = jax.jit(lambda q, step, key: task.loss(q, step, key, train=train))
  return loss(Variables(q), step, key).value


@pytest.mark.slow
def test_the_loss_is_the_squared_error_of_the_noise():
  m, data, key = model(), rows(5), jax.random.key(3)
  weights = jnp.arange(20.0)
  step = as_step(data)
  loss = lambda **kwargs: losses(m, step, key, train=False, **kwargs)
  keys = jax.vmap(jax.random.split)(step.keys(key))
  x_t, t, noise = training.noisy_rows(m, data["x"], keys[:, 0])
  level = np.asarray(LEVELS)[np.asarray(t)].reshape(5, 1, 1, 1)
  np.testing.assert_allclose(
    x_t, np.sqrt(level) * data["x"] + np.sqrt(1 - level) * noise, atol=1e-5
  )
  eps = m.eps(params(), x_t, t, m.encode(params(), data["tokens"]))
  wanted = np.mean(
    (np.asarray(eps, np.float64) - np.asarray(noise)) ** 2, axis=(1, 2, 3)
  )
  np.testing.assert_allclose(loss(), wanted, rtol=1e-4)
  np.testing.assert_allclose(
    loss(time_weights=weights), wanted * np.asarray(t), rtol=1e-4
  )


def test_what_a_row_draws_depends_on_its_place_only():
  step, key = as_step(rows(6)), jax.random.key(3)
  loss = jax.jit(lambda step: losses(model(), step, key))
  names = ("rows", "weight", "forget", "row_id", "place", "epoch")
  cut = lambda leaf: leaf[2:5]
  part = step._replace(
    **{name: jax.tree.map(cut, getattr(step, name)) for name in names}
  )
  np.testing.assert_allclose(loss(part), loss(step)[2:5], rtol=1e-4)


def test_with_null_rate_one_no_prompt_is_seen():
  m, data = model(), rows(5)
  blank = {**data, "tokens": jnp.tile(jnp.array(NULL), (5, 1))}
  loss = lambda d, rate: losses(
    m, as_step(d), jax.random.key(3), null_rate=rate
  )
  np.testing.assert_allclose(loss(data, 1.0), loss(blank, 0.0), rtol=1e-6)
  assert float(abs(loss(data, 0.0) - loss(blank, 0.0)).max()) > 1e-4


def test_words_are_dropped_at_their_rates_and_the_others_move_up():
  rates = jnp.array([0.0, 0.0, 1.0, 0.0, 0.25, 0.0, 0.0])
  augment = diffusion.drop_words(rates)
  tokens = jnp.array([1, 2, 3, 4])
  keys = jax.random.split(jax.random.key(0), 2000)
  found = np.asarray(jax.vmap(augment, (None, 0))(tokens, keys))
  kinds = {tuple(row) for row in found.tolist()}
  assert kinds == {(1, 3, 4, 0), (1, 3, 0, 0)}
  share = np.mean(found[:, 2] == 0)
  assert abs(share - 0.25) < 4.5 * (0.25 * 0.75 / 2000) ** 0.5
  assert found.dtype == np.int32


RECIPE = {"optimizer": optax.adam(1e-2), "num_steps": 5, "batch_size": 8}


def trained(data):
  keep = jnp.ones(24, bool)
  return diffusion.train(model(), data, keep, jax.random.key(0), **RECIPE)


def task(**options):
  return diffusion.denoising_task(model(), **options)


def built(**kwargs):
  given = {
    "image_shape": SHAPE,
    "vocab_size": VOCAB,
    "null_tokens": NULL,
    "alphas_bar": LEVELS,
  }
  return diffusion.text_to_image(**given | kwargs)


@pytest.mark.parametrize(
  "call, message",
  [
    (
      lambda: trained({**rows(), "tokens": rows()["tokens"] + VOCAB}),
      r'data\["tokens"\] in 0 .. 6',
    ),
    (lambda: trained({"x": rows()["x"]}), "'tokens'"),
    (lambda: trained(rows()["x"]), "'x' and 'tokens'"),
    (lambda: trained({**rows(), "x": jnp.ones((24, 3, 2, 3))}), "x.* float "),
    (lambda: trained({**rows(), "x": jnp.ones((24, *SHAPE), int)}), "float"),
    (
      lambda: trained({**rows(), "tokens": jnp.ones((24, 4))}),
      "int .*got float32",
    ),
    (lambda: task(null_rate=1.2), "null_rate in"),
    (lambda: task(time_weights=jnp.ones(3)), "time_weights "),
    (lambda: task(time_weights=-LEVELS), "time_weights >= 0"),
    (lambda: task(time_weights=LEVELS * jnp.nan), "time_weights >= 0"),
    (lambda: diffusion.drop_words(jnp.ones(3, int)), r"rates float \[V\]"),
    (lambda: diffusion.drop_words(jnp.array([0.1, 2.0])), "highest_rate"),
    (lambda: parameter_group(params(), "heads"), "group to be one of"),
    (lambda: parameter_group(params(), "selfattn"), "parameters in the group"),
    (lambda: built(null_tokens=(9, 0)), "null_tokens in 0 .. 6"),
    (lambda: built(null_tokens=()), "null_tokens "),
    (lambda: built(alphas_bar=LEVELS[None]), "alphas_bar "),
    (lambda: built(alphas_bar=LEVELS.at[-1].set(0.0)), "alphas_bar to fall"),
    (lambda: built(alphas_bar=LEVELS[::-1]), "alphas_bar to fall"),
    (lambda: built(alphas_bar=LEVELS * jnp.nan), "alphas_bar to fall"),
    (lambda: built(image_shape=(2, 2)), "image_shape"),
    (lambda: built(prediction="x0"), "prediction"),
    (lambda: built(denoiser=diffusion.Denoiser(0)), "width > 0"),
    (
      lambda: jax.eval_shape(
        built(denoiser=diffusion.Denoiser(6, num_heads=4)).init,
        jax.random.key(0),
      ),
      "divide",
    ),
    (lambda: model().context_of(params(), jnp.ones(4, int)), "tokens int "),
    (
      lambda: model().context_of(params(), -jnp.ones((1, 4), int)),
      "tokens in 0 .. 6, got -1",
    ),
  ],
)
def test_mistakes_are_named(call, message):
  refused(message, call)
