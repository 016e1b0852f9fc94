"""The dual masked divergence, SIU's targets, and the term of prompt decoupling."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from closeness import change
from conformance import worlds
from refusals import refused

import jaxunlearn as ju
from jaxunlearn import language, vision_language
from jaxunlearn.language import Text
from jaxunlearn.losses.sequences import dual_masked_kl

KEY = jax.random.key(0)
RNG = np.random.default_rng(2)
NOW, BEFORE = RNG.normal(size=(2, 5, 7))


def log_p(logits):
  logits = np.asarray(logits, np.float64)
  return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def test_the_divergence_is_the_sum_over_words_that_a_mask_leaves():
  mask = np.array([1, 0, 1, 1, 0, 1, 1.0])
  p, q = log_p(BEFORE), log_p(NOW)
  each = np.exp(p) * (p - q)
  found = dual_masked_kl(jnp.asarray(NOW), jnp.asarray(BEFORE), mask)
  np.testing.assert_allclose(found, (mask * each).sum(-1), rtol=1e-5)
  plain = dual_masked_kl(jnp.asarray(NOW), jnp.asarray(BEFORE), np.ones(7))
  kl = ju.losses.kl_to_teacher(jnp.asarray(NOW), jnp.asarray(BEFORE))
  np.testing.assert_allclose(plain, kl, rtol=1e-4)


def test_what_is_masked_or_the_same_is_nothing():
  same = dual_masked_kl(jnp.asarray(NOW), jnp.asarray(NOW), np.ones(7))
  np.testing.assert_allclose(same, 0, atol=1e-6)
  none = dual_masked_kl(jnp.asarray(NOW), jnp.asarray(BEFORE), np.zeros(7))
  assert (none == 0).all()
  hidden = jnp.asarray(NOW).at[:, 3].set(-jnp.inf)
  mask = np.ones(7)
  mask[3] = 0
  assert jnp.isfinite(dual_masked_kl(hidden, jnp.asarray(BEFORE), mask)).all()


def test_mass_may_move_among_masked_words():
  mask = np.array([0, 0, 0, 1, 1, 1, 1.0])
  p = np.exp(log_p(NOW))
  moved = p.copy()
  moved[:, :3] = p[:, :3].sum(-1, keepdims=True) * [0.7, 0.2, 0.1]
  values = [
    dual_masked_kl(jnp.log(a), jnp.asarray(BEFORE), mask) for a in (p, moved)
  ]
  np.testing.assert_allclose(*values, atol=1e-5)


def texts(tokens, prompt, length):
  make = lambda value: jnp.full(len(tokens), value, jnp.int32)
  return Text(jnp.asarray(tokens, jnp.int32), make(length), make(prompt))


ROW = texts([[9, 8, 5, 6, 1]], 2, 5)


def targets(**changes):
  options = {"new_name": [[5, 6]], "true_name": [3], "vocab_size": 12}
  return vision_language.four_targets(
    ROW, ROW, ROW, ROW, **{**options, **changes}
  )


def test_the_original_is_asked_where_it_is_still_right():
  made = targets()
  assert made.agrees.astype(int).tolist() == [
    [1, 1, 0, 0, 1],  # The invented name only.
    [1, 1, 0, 0, 0],  # All of a description under it.
    [1, 1, 1, 1, 1],
    [1, 1, 1, 1, 1],
  ]
  assert np.flatnonzero(made.vocab_mask == 0).tolist() == [3]
  assert made.unmasked.agrees.all() and made.unmasked.vocab_mask.all()
  assert made.rows.tokens.shape == (4, 5)


def test_siu_takes_a_step_along_both_losses():
  """One step of descent on all rows, its gradient written out."""
  world = worlds.concepts()
  concept = jax.tree.map(lambda leaf: leaf[0], world.requests.concept)
  lm, rate = world.subject, 0.1
  fit = ju.Fit(optax.sgd(rate), 1, 8)
  siu = vision_language.siu(lm, fit, ce_weight=0.9, kl_weight=0.75)
  variables = world.variables
  shifted = variables._replace(
    params=jax.tree.map(lambda p: np.asarray(p) + 0.01, variables.params)
  )
  # From the original the divergence has no slope yet: begin beside it.
  beside = ju.chain(ju.edit(lambda *arguments: shifted, reads="nothing"), siu)
  request = ju.Request(concept=concept)
  made, _ = jax.jit(beside)(variables, None, request, KEY)
  x = concept.rows
  place = jnp.arange(1, x.tokens.shape[1])[None]
  counts = (place >= x.prompt[:, None]) & (place < x.length[:, None])

  def total(params):
    read = lambda v: lm.model.predict(v, x)[:, :-1]
    now = jax.nn.log_softmax(read(ju.Variables(params)))
    then = jax.nn.log_softmax(read(variables))
    target = jnp.where(counts, x.tokens[:, 1:], 0)
    own = jnp.take_along_axis(now, target[..., None], -1)[..., 0]
    ce = -jnp.where(counts, own, 0).sum() / counts.sum()
    each = jnp.exp(then) * (then - now)
    each = (concept.vocab_mask[None, None] * each).sum(-1)
    there = counts & concept.agrees[:, 1:]
    kl = jnp.where(there, each, 0).sum() / there.sum()
    return 0.9 * ce + 0.75 * kl

  slope = jax.jit(jax.grad(total))(shifted.params)
  step = jax.tree.map(lambda g: rate * np.asarray(g), slope)
  wanted = jax.tree.map(np.subtract, shifted.params, step)
  assert change(made.params, wanted) < 2e-5
  assert max(np.abs(s).max() for s in jax.tree.leaves(step)) > 1e-3


@pytest.fixture(scope="module")
def pictures():
  return worlds.pictures()


def ascent(lm, weight=None, batch=12):
  """A step of ascent on all rows of an owner, with the term or without."""
  method = language.gradient_ascent(lm, ju.Fit(optax.sgd(0.1), 1, batch))
  if weight is None:
    return method
  return vision_language.prompt_decoupling(lm, method, weight)


def test_the_term_adds_its_gradient_and_weight_zero_nothing(pictures):
  lm, data = pictures.subject, dict(pictures.data)
  # Pairs that are other rows, of other lengths.
  data["decoupled"] = jax.tree.map(lambda leaf: leaf[::-1], data["x"])
  run = jax.jit(
    lambda w: (
      ascent(lm, w)(pictures.variables, data, pictures.requests[0], KEY)[
        0
      ].params
    )
  )
  plain = jax.jit(ascent(lm))(
    pictures.variables, data, pictures.requests[0], KEY
  )[0].params
  assert change(run(0.0), plain) < 1e-7

  def loss(params):
    pairs = jax.tree.map(lambda leaf: leaf[:12], data["decoupled"])
    out = language.token_nll(lm, ju.Variables(params), pairs)
    return out.value.sum() / out.weight.sum()

  slope = jax.jit(jax.grad(loss))(pictures.variables.params)
  step = jax.tree.map(
    lambda p, g: np.asarray(p) - 0.05 * np.asarray(g), plain, slope
  )
  assert change(run(0.5), step) < 1e-5


def with_refusals(pictures):
  """The rows with the other way round for pairs, and a word of it to refuse."""
  other = jax.tree.map(lambda leaf: leaf[::-1], pictures.data["x"])
  short = other._replace(length=other.prompt + 1)
  return {**pictures.data, "decoupled": other, "alternative": short}


WORN = {
  "gd": lambda lm, fit: language.gradient_ascent(
    lm, fit, retain="nll", retain_weight=0.5
  ),
  "po": language.idk,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", WORN)
def test_without_weight_the_term_changes_no_method(pictures, name):
  """GD with the term has half of its retain loss, as published, also at 0."""
  lm, data = pictures.subject, with_refusals(pictures)
  plain = WORN[name](lm, ju.Fit(optax.sgd(0.1), 2, 6))

  @jax.jit
  def both(variables):
    made = (plain, vision_language.prompt_decoupling(lm, plain, 0.0))
    of = (variables, data, pictures.requests[0], KEY)
    return [method(*of)[0].params for method in made]

  alone, worn = both(pictures.variables)
  assert change(alone, pictures.variables.params) > 1e-4
  # Two programs, which round apart in the last place.
  assert change(alone, worn) < 5e-7


@pytest.mark.slow
def test_refusals_and_retain_rows_can_be_one_mean_over_their_tokens(pictures):
  """FIUBench's PO is a mean over 2 B rows; here each kind has its own weight."""
  lm, data = pictures.subject, with_refusals(pictures)
  gone = np.arange(36) < 18  # As many of each kind, and all in every step.
  refused_rows = jax.tree.map(lambda leaf: leaf[gone], data["alternative"])
  rest = jax.tree.map(lambda leaf: leaf[~gone], data["x"])
  tokens = [float((x.length - x.prompt).sum()) for x in (refused_rows, rest)]
  shares = np.array(tokens) / sum(tokens)
  method = language.idk(
    lm,
    ju.Fit(optax.sgd(0.1), 1, 18),
    forget_weight=shares[0],
    retain_weight=shares[1],
  )

  def pooled(params):
    parts = [
      language.token_nll(lm, ju.Variables(params), x)
      for x in (refused_rows, rest)
    ]
    return sum(p.value.sum() for p in parts) / sum(tokens)

  @jax.jit
  def step(variables):
    made, _ = method(variables, data, jnp.asarray(gone), KEY)
    slope = jax.grad(pooled)(variables.params)
    wanted = jax.tree.map(lambda p, g: p - 0.1 * g, variables.params, slope)
    return made.params, wanted

  assert abs(shares[0] - 0.5) > 0.01  # Two plain means would be another.
  assert change(*step(pictures.variables)) < 1e-6


@pytest.mark.slow
def test_the_term_is_the_same_in_parts(pictures):
  lm = pictures.subject
  fit = ju.Fit(optax.sgd(0.1), 1, 12)
  arguments = (
    pictures.variables,
    pictures.data,
    pictures.requests[0],
    KEY,
  )
  whole = jax.jit(ascent(lm, 0.5))(*arguments)[0].params
  parted = vision_language.prompt_decoupling(
    lm, language.gradient_ascent(lm, fit._replace(microbatches=3)), 0.5
  )
  parts = jax.jit(parted)(*arguments)[0].params
  assert change(whole, parts) < 1e-5


def refuse_pairs():
  data = {**worlds.pictures().data}
  pairs = vision_language.decoupled(data["x"], np.full(36, -1))
  world = worlds.pictures()
  ascent(world.subject, 0.5)(
    world.variables, {**data, "decoupled": pairs}, world.requests[0], KEY
  )


BAD = {
  "a pair for each forget row, got none .partner -1. for row 0": refuse_pairs,
  "partner in -1 .. 35": lambda: vision_language.decoupled(
    worlds.pictures().data["x"], [36]
  ),
  "true_name .C > 0.": lambda: targets(true_name=[]),
  "true_name in 0 .. 11": lambda: targets(true_name=[12]),
  "phrases of a token": lambda: targets(new_name=[[-1, -1]]),
  "rows in described": lambda: vision_language.four_targets(
    *(ROW, jax.tree.map(lambda leaf: leaf[:0], ROW), ROW, ROW),
    **{"new_name": [[5]], "true_name": [3], "vocab_size": 12},
  ),
  "Targets in a request of a concept": lambda: vision_language.siu(
    worlds.pictures().subject, ju.Fit(optax.sgd(1.0), 1, 4)
  )(worlds.pictures().variables, None, ju.Request(concept={}), KEY),
  "of to be one of 'forget', 'retain'": lambda: ju.core.with_term(
    ascent(worlds.pictures().subject), lambda *a: 0.0, of="mixed"
  ),
}


@pytest.mark.parametrize("said", BAD)
def test_bad_input(said):
  refused(said, BAD[said])
