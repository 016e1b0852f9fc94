"""SalUn for diffusion against float64 references and its limits."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxunlearn.core.keys import derive
from jaxunlearn.core.phase import phase
from jaxunlearn.core.types import Draw, Request, Variables, as_step
from jaxunlearn.diffusion import schedules
from jaxunlearn.diffusion.requests import Concept
from jaxunlearn.diffusion.salun import (
  guided_task,
  mask_within,
  relabelling,
  replace_words,
  salun,
  to_anchors,
)
from jaxunlearn.diffusion.steps import restricted
from jaxunlearn.diffusion.training import noisy_rows
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


def swap(step):
  return replace_words(TABLE)


def method(table=TABLE, **options):
  given = {"optimizer": optax.adam(1e-2), "num_steps": 3, "batch_size": 4}
  return salun(MODEL, replace_words(table), **{**given, **options})


@jax.jit
def fit(q, data, forget, key, keep):
  """One program for many tests."""
  return method(keep=keep)(q, data, forget, key)


def masks_of(keep, group="full", guidance=8.5, chunk_size=256):
  task = guided_task(MODEL, guidance)
  return mask_within(task, keep, group=group, chunk_size=chunk_size)


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
  forget = jnp.array([True, True, False, False])
  step = as_step(data := rows(4))._replace(forget=forget)
  weights = jnp.linspace(0.5, 2, 20)
  p = {"denoiser": jnp.float32(0.7)}
  found = relabelling(linear_model(), swap, 0.0, None, weights)(
    Variables(p), step, KEY
  )
  # The draws are the module's own; the losses are not.
  keys = jax.vmap(jax.random.split)(step.keys(KEY))[:, 0]
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
  loss = lambda q: relabelling(linear_model(), swap, 0.0)(
    Variables({"denoiser": q}), step, KEY
  )[0]
  gap = (word - other)[0]
  slope = 2 * (0.7 * gap * (x_t[0] + word[0])).mean()
  np.testing.assert_allclose(jax.grad(loss)(0.7), slope, rtol=1e-4)


def test_both_prompts_are_dropped_together():
  """With the empty prompt for all, forget rows have no loss."""
  forget = jnp.array([True, False, True, False])
  step = as_step(rows(4))._replace(forget=forget)
  objective = relabelling(MODEL, swap, 1.0)
  found = objective(Variables(params()), step, KEY)
  np.testing.assert_array_equal(found < 1e-10, forget)
  assert float(found[~forget].min()) > 0.01


def test_the_mask_has_exactly_the_stated_number_of_weights():
  data = rows()
  forget = data["kind"] == 0

  @jax.jit
  def masks(variables, keep):
    given = variables, data, Request(forget, ~forget), KEY
    return masks_of(keep)(*given), masks_of(keep, group="text")(*given)

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
  mark = masks_of(0.25, guidance=guidance, chunk_size=chunk)
  mask = jax.jit(mark)(_variables(), data, Request(forget, ~forget), KEY)
  keys = as_step(data).keys(KEY)
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
  mask = jax.jit(masks_of(0.5))(
    _variables(), data, Request(forget, ~forget), derive(KEY, "mask")
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
    relabelling(MODEL, swap),
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


def test_a_prompt_of_the_concept_becomes_its_anchor_and_others_any():
  prompts = jnp.array([[1, 2, 0, 0], [1, 3, 0, 0]])
  augment = to_anchors(Concept(prompts, anchors=prompts + 2))
  keys = jax.random.split(KEY, 50)
  for i in range(2):
    found = jax.vmap(lambda k, i=i: augment(prompts[i], k))(keys)
    assert (found == prompts[None, i] + 2).all()
  other = jax.vmap(lambda k: augment(prompts[0] + 3, k))(keys)
  assert {tuple(row) for row in other.tolist()} == {
    tuple(row) for row in (prompts + 2).tolist()
  }
