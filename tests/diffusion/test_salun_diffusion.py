"""SalUn for diffusion against float64 references and its limits."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxunlearn.core.phase import phase
from jaxunlearn.core.types import ALL, Batch, Draw, Variables
from jaxunlearn.diffusion import schedules
from jaxunlearn.diffusion.salun import (
  relabelling,
  replace_words,
  saliency_mask,
  salun,
)
from jaxunlearn.diffusion.steps import restricted
from jaxunlearn.diffusion.training import noisy_rows, row_keys
from jaxunlearn.diffusion.types import Diffusion

SHAPE, LENGTH, VOCAB = (2, 2, 3), 4, 6
NULL = (1, 0, 0, 0)
LEVELS = schedules.linear(20, 1e-3, 0.3)
TABLE = jnp.array([0, 1, 3, 3, 4, 5])  # The concept is word 2, to be word 3.
KEY = jax.random.key(4)


def small_model():
  """One hidden layer that the second word of the prompt shifts; 50 weights."""

  def init(key):
    keys = jax.random.split(key, 4)
    draw = lambda i, *shape: jax.random.normal(keys[i], shape) / 2
    return {
      "denoiser": {
        "first": draw(0, 3, 5),
        "word": draw(1, 4, 5),
        "last": draw(2, 5, 3),
      },
      "text_encoder": {"embedding": draw(3, VOCAB, 4)},
    }

  def eps(p, x, t, c):
    layers = p["denoiser"]
    shift = (c[:, 1] @ layers["word"])[:, None, None]
    hidden = jnp.tanh(x @ layers["first"] + shift)
    return hidden @ layers["last"] * (1 + t / 20)[:, None, None, None]

  return Diffusion(
    init=init,
    eps=eps,
    encode=lambda p, tokens: p["text_encoder"]["embedding"][tokens],
    null_tokens=jnp.array(NULL),
    alphas_bar=LEVELS,
    image_shape=SHAPE,
    vocab_size=VOCAB,
  )


MODEL = small_model()


@functools.cache
def params(seed=0):
  return MODEL.init(jax.random.key(seed))


def rows(n=12, seed=0):
  rng = np.random.default_rng(seed)
  kind = np.arange(n) % 3
  tokens = np.zeros((n, LENGTH), np.int32)
  tokens[:, 0], tokens[:, 1] = 1, 2 + kind
  return {
    "x": jnp.asarray(
      np.clip(rng.normal(0, 1, (n, *SHAPE)), -1, 1), jnp.float32
    ),
    "tokens": jnp.asarray(tokens),
    "kind": jnp.asarray(kind),
  }


def method(table=TABLE, **options):
  given = {"optimizer": optax.adam(1e-2), "num_steps": 3, "batch_size": 4}
  return salun(MODEL, replace_words(table), **{**given, **options})


@jax.jit
def fit(q, data, forget, key, keep):
  """One program for many tests."""
  return method(keep=keep)(q, data, forget, key)


def leaves(tree):
  return [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]


def flat(tree):
  return np.concatenate([leaf.ravel() for leaf in leaves(tree)])


def linear_model():
  """eps = params (x + prompt): its losses can be written down."""
  return Diffusion(
    init=lambda key: jnp.float32(0),
    eps=lambda p, x, t, c: p["denoiser"] * (x + c[:, 1, :, None, None]),
    encode=lambda p, tokens: tokens[..., None].astype(jnp.float32),
    null_tokens=jnp.array(NULL),
    alphas_bar=LEVELS,
    image_shape=SHAPE,
  )


def test_the_losses_are_those_of_the_paper():
  data, slot = rows(4), jnp.arange(4)
  forget = jnp.array([True, True, False, False])
  batch = Batch(data, jnp.ones(4), forget, slot, slot, slot)
  weights = jnp.linspace(0.5, 2, 20)
  p = {"denoiser": jnp.float32(0.7)}
  found = relabelling(
    linear_model(), replace_words(TABLE), null_rate=0.0, time_weights=weights
  )(Variables(p), batch, KEY)
  # The draws are the module's own; the losses are not.
  keys = jax.vmap(jax.random.split)(row_keys(KEY, slot))[:, 0]
  x_t, t, noise = map(np.asarray, noisy_rows(linear_model(), data["x"], keys))
  word = np.asarray(data["tokens"])[:, 1, None, None, None]
  other = np.asarray(TABLE)[word]
  predicted = 0.7 * (x_t + word)
  wanted = np.where(
    np.asarray(forget)[:, None, None, None], 0.7 * (x_t + other), noise
  )
  losses = ((predicted - wanted) ** 2).mean(axis=(1, 2, 3))
  np.testing.assert_allclose(
    found, losses * np.asarray(weights)[t], rtol=1e-5, atol=1e-6
  )
  assert float(found[0]) > 0.01
  # A word that stays itself teaches nothing, and the target is a constant.
  assert float(found[1]) == 0.0
  loss = lambda q: relabelling(
    linear_model(), replace_words(TABLE), null_rate=0.0
  )(Variables({"denoiser": q}), batch, KEY)[0]
  gap = (word - other)[0]
  slope = 2 * (0.7 * gap * (x_t[0] + word[0])).mean()
  np.testing.assert_allclose(jax.grad(loss)(0.7), slope, rtol=1e-4)


def test_both_prompts_are_dropped_together():
  """With the empty prompt for all, forget rows have no loss."""
  data, slot = rows(4), jnp.arange(4)
  forget = jnp.array([True, False, True, False])
  batch = Batch(data, jnp.ones(4), forget, slot, slot, slot)
  objective = relabelling(MODEL, replace_words(TABLE), null_rate=1.0)
  found = objective(Variables(params()), batch, KEY)
  np.testing.assert_array_equal(found < 1e-10, forget)
  assert float(found[~forget].min()) > 0.01


def test_the_mask_has_exactly_the_stated_number_of_weights():
  data = rows()
  forget = data["kind"] == 0

  @jax.jit
  def masks(variables, keep):
    given = variables, data, forget, KEY
    full = saliency_mask(MODEL, keep)(*given)
    return full, saliency_mask(MODEL, keep, group="text")(*given)

  for keep in (0.0, 0.3, 0.5, 1.0):
    full, text = masks(_variables(), keep)
    assert flat(full["denoiser"]).sum() == int(np.floor(keep * 50))
    assert not flat(full["text_encoder"]).any()
    assert flat(text["text_encoder"]).sum() == int(np.floor(keep * 24))
    assert not flat(text["denoiser"]).any()


def _variables(seed=0):
  return Variables(params(seed))


def test_the_mask_marks_the_steepest_weights_of_the_guided_loss():
  data, chunk = rows(), 4
  forget = data["kind"] == 0
  guidance = 3.0
  mark = saliency_mask(MODEL, 0.25, guidance=guidance, chunk_size=chunk)
  mask = jax.jit(mark)(_variables(), data, forget, KEY)
  keys = row_keys(KEY, jnp.arange(12))
  x_t, t, noise = noisy_rows(MODEL, data["x"], keys)

  def loss(q):
    null = MODEL.eps(q, x_t, t, MODEL.null_context(q, 12))
    own = MODEL.eps(q, x_t, t, MODEL.encode(q, data["tokens"]))
    # (1 + s) eps(c) - s eps(null), as the released code has it.
    error = guidance * own - (guidance - 1) * null - noise
    return jnp.where(forget, (error**2).mean(axis=(1, 2, 3)), 0).sum()

  grad = abs(flat(jax.jit(jax.grad(loss))(params())["denoiser"]))
  marked = flat(mask["denoiser"])
  assert marked.sum() == int(0.25 * marked.size)
  # Rounding may swap neighbours at the edge.
  edge = np.sort(grad)[::-1][marked.sum() - 1]
  assert grad[marked].min() >= edge * (1 - 1e-4)
  assert grad[~marked].max() <= edge * (1 + 1e-4)


def test_weights_outside_the_mask_keep_their_bits_with_decay_and_clipping():
  data = rows()
  forget = data["kind"] == 0
  optimizer = optax.chain(
    optax.clip_by_global_norm(1.0), optax.adamw(1e-2, weight_decay=0.5)
  )
  out, info = jax.jit(method(optimizer=optimizer))(params(), data, forget, KEY)
  mask_key = jax.random.fold_in(KEY, 0x6D61736B)  # As `masked` makes it.
  mask = jax.jit(saliency_mask(MODEL, 0.5))(
    _variables(), data, forget, mask_key
  )
  moved = flat(out) != flat(params())
  assert not moved[~flat(mask)].any()
  assert moved[flat(mask)].mean() > 0.9
  assert info.loss.shape == (3,) and bool(info.is_finite)


@pytest.mark.slow
def test_all_weights_is_plain_relabelling():
  data = rows()
  forget = data["kind"] == 0
  unmasked = jax.jit(method(keep=1.0))
  found, _ = unmasked(params(), data, forget, KEY)
  plain = phase(
    relabelling(MODEL, replace_words(TABLE)),
    restricted(optax.adam(1e-2), "full"),
    3,
    draw=Draw(forget=4, retain=4),
    retain_weight=0.5,
  )
  wanted, _ = jax.jit(plain)(params(), data, forget, KEY)
  jax.tree.map(np.testing.assert_array_equal, found, wanted)
  masked, _ = fit(params(), data, forget, KEY, 1.0)
  np.testing.assert_allclose(flat(masked), flat(wanted), atol=1e-5)
  # It has no mask: without forget rows it fine-tunes.
  tuned, _ = unmasked(params(), data, jnp.zeros(12, bool), KEY)
  assert (flat(tuned) != flat(params())).any()


@pytest.mark.slow
def test_vmap_over_requests_concepts_and_models_equals_the_loop():
  data = rows()

  @jax.jit
  def one(q, table, forget, key, keep):
    transform = method(table, optimizer=optax.sgd(1e-2), num_steps=2, keep=keep)
    return transform(q, data, forget, key)[0]

  tables = jnp.stack([TABLE, jnp.array([0, 1, 2, 4, 4, 5])])
  masks = jnp.stack([data["kind"] == 0, data["kind"] == 1])
  keys, keeps = jax.random.split(KEY), jnp.array([0.5, 0.25])
  models = jax.tree.map(lambda a, b: jnp.stack([a, b]), params(), params(1))
  alone = [
    one(params(i), tables[i], masks[i], keys[i], keeps[i]) for i in range(2)
  ]
  assert one._cache_size() == 1
  many = jax.jit(jax.vmap(one))(models, tables, masks, keys, keeps)
  for i in range(2):
    lane = jax.tree.map(lambda leaf, i=i: leaf[i], many)
    np.testing.assert_allclose(flat(lane), flat(alone[i]), atol=1e-5)
    assert abs(flat(alone[i]) - flat(params(i))).max() > 1e-4


def test_the_same_key_gives_the_same_bits_and_rows_of_no_weight_do_not_count():
  data = rows()
  forget = data["kind"] == 0
  run = lambda key: fit(params(), data, forget, key, 0.5)[0]
  first, again = run(KEY), run(KEY)
  jax.tree.map(np.testing.assert_array_equal, first, again)
  other = run(jax.random.key(9))
  assert (flat(other) != flat(first)).any()
  # Soft: rows of weight 0 are nowhere in the gradient of the mask.
  broken = {
    **data,
    "x": jnp.where(
      (data["kind"] == 2)[:, None, None, None], jnp.nan, data["x"]
    ),
  }
  mask = jax.jit(saliency_mask(MODEL, 0.5))
  for a, b in zip(
    leaves(mask(_variables(), data, forget, KEY)),
    leaves(mask(_variables(), broken, forget, KEY)),
  ):
    np.testing.assert_array_equal(a, b)


def test_an_empty_request_changes_nothing_and_one_of_all_rows_is_finite():
  data = rows()
  none, every = jnp.zeros(12, bool), jnp.ones(12, bool)
  for keep in (0.5, 1.0):
    out, info = fit(params(), data, none, KEY, keep)
    jax.tree.map(np.testing.assert_array_equal, out, params())
    assert int(info.forget_count) == 0 and bool(info.is_finite)
  # Nor does a share of 0, whatever the request.
  out, _ = fit(params(), data, data["kind"] == 0, KEY, 0.0)
  jax.tree.map(np.testing.assert_array_equal, out, params())
  out, info = fit(params(), data, every, KEY, 0.5)
  assert int(info.retain_count) == 0 and bool(info.is_finite)
  assert (flat(out) != flat(params())).any()


def test_words_are_replaced_and_those_beyond_the_table_stay():
  augment = replace_words(jnp.array([0, 1, 3, 2]))
  tokens = jnp.array([1, 2, 3, 5, 4], jnp.int16)
  out = augment(tokens, KEY)
  assert out.tolist() == [1, 3, 2, 5, 4] and out.dtype == jnp.int16


def test_it_says_what_it_needs_and_keeps_dtypes():
  assert method().needs.sizes == (ALL, 4, 0)
  assert method(keep=1.0).needs.sizes == (4, 4, 0)
  data = rows()
  half = jax.tree.map(lambda p: p.astype(jnp.bfloat16), params())
  out = jax.eval_shape(method(), half, data, data["kind"] == 0, KEY)[0]
  assert {leaf.dtype for leaf in jax.tree.leaves(out)} == {
    jnp.dtype(jnp.bfloat16)
  }


@pytest.mark.parametrize(
  "options, match",
  [
    ({"keep": 1.5}, "keep in"),
    ({"batch_size": 0}, "batch_size > 0"),
    ({"num_steps": -1}, "num_steps >= 0"),
    ({"retain_weight": -1.0}, "retain_weight >= 0"),
    ({"null_rate": 2.0}, "null_rate in"),
    ({"chunk_size": 0}, "chunk_size > 0"),
    ({"group": "everything"}, "group to be one of"),
    ({"time_weights": jnp.ones(3)}, "time_weights of shape"),
    ({"table": TABLE[None]}, "table of shape"),
    ({"table": TABLE + 1}, "table in 0 .. 5"),
    ({"table": TABLE * 1.0}, "table of integer"),
  ],
)
def test_options_out_of_range_are_refused(options, match):
  with pytest.raises(ValueError, match=match):
    method(**options)


def test_rows_that_do_not_fit_are_refused():
  data = rows()
  forget = data["kind"] == 0
  for bad, match in (
    ({"x": data["x"]}, 'data with "x" and "tokens"'),
    ({**data, "x": data["x"][:, :1]}, 'data\\["x"\\] of shape'),
    ({**data, "tokens": data["tokens"] + 9}, "tokens"),
  ):
    with pytest.raises(ValueError, match=match):
      method()(params(), bad, forget, KEY)
  with pytest.raises(ValueError, match='data\\["x"\\] of shape'):
    method(keep=1.0)(params(), {**data, "x": data["x"][:, :1]}, forget, KEY)
  with pytest.raises(ValueError, match='data with "x" and "tokens"'):
    method(keep=1.0)(params(), {"x": data["x"]}, forget, KEY)
  with pytest.raises(ValueError, match="forget_mask of shape"):
    method()(params(), data, forget[:3], KEY)
