"""What layers read out, edits of one kernel, and rules for answers."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conformance import worlds
from refusals import refused

import jaxunlearn as ju
from jaxunlearn import language, vision_language
from jaxunlearn.attacks import readout as attack
from jaxunlearn.attacks.language import FIUBENCH_WEIGHTS, weighted_lowest
from jaxunlearn.losses import readout
from jaxunlearn.metrics import answers

KEY = jax.random.key(0)
RNG = np.random.default_rng(3)
READ = jax.nn.softmax(jnp.asarray(RNG.normal(size=(6, 3, 10))), axis=-1)
TOKEN = jnp.arange(6)


def test_head_projection_against_a_sorted_array():
  for k in (1, 2, 5):
    found = readout.head_projection(READ, TOKEN, k)
    for i in range(6):
      ordered = np.sort(np.asarray(READ[i], np.float64), axis=-1)
      own = np.asarray(READ[i, :, i], np.float64)
      wanted = np.maximum(0, own - ordered[:, -k])
      wanted = (wanted + np.maximum(0, ordered[:, k - 1] - own)).mean()
      np.testing.assert_allclose(found[i], wanted, atol=1e-6)


def test_a_token_between_the_tails_costs_nothing_and_a_sure_one_all():
  flat = jnp.linspace(0.05, 0.15, 10)[None, None]
  assert readout.head_projection(flat, jnp.array([5]), 3)[0] == 0
  sure = jax.nn.one_hot(jnp.array([[4, 4]]), 10)
  assert readout.head_projection(sure, jnp.array([4]), 2)[0] == 1
  slope = jax.grad(lambda d: readout.head_projection(d, TOKEN, 2).sum())(READ)
  # A pair for each end: what is raised is also what another is lowered by.
  np.testing.assert_allclose(slope.sum(), 0, atol=1e-6)


def test_entropy_is_at_most_that_of_a_uniform_layer():
  uniform = jnp.full((1, 2, 10), 0.1)
  np.testing.assert_allclose(
    readout.negative_entropy(uniform), -np.log(10), rtol=1e-6
  )
  assert (readout.negative_entropy(READ) > -np.log(10)).all()
  sure = jax.nn.one_hot(jnp.array([[1, 2]]), 10)
  slope = jax.grad(lambda d: readout.negative_entropy(d).sum())(sure)
  assert jnp.isfinite(slope).all()
  assert readout.negative_entropy(sure)[0] == 0
  assert jnp.isnan(readout.negative_entropy(sure.at[0, 0, 3].set(jnp.nan)))


def test_an_attack_finds_more_with_a_larger_budget_and_all_at_half():
  hits = [attack.tail_hit(READ, TOKEN, k).sum() for k in range(1, 6)]
  assert (np.diff(hits) >= 0).all() and hits[-1] == 18
  ranks = np.asarray(READ).argsort(-1).argsort(-1)
  own = np.take_along_axis(ranks, np.arange(6)[:, None, None], -1)[..., 0]
  wanted = (own < 2) | (own >= 8)
  np.testing.assert_array_equal(attack.tail_hit(READ, TOKEN, 2), wanted)


def test_layers_that_change_nothing_tell_nothing():
  same = jnp.broadcast_to(READ[:, :1], READ.shape)
  for order in (1, 2):
    change = attack.probability_delta(same, order)
    assert change.shape[1] == 3 - order and (change == 0).all()
    assert not attack.tail_hit(change, TOKEN, 4).any()
  assert jnp.isnan(
    attack.tail_hit(READ.at[0, 0, 0].set(jnp.nan), TOKEN, 2)[0, 0]
  )
  chance = attack.tail_chance(4, 2, 128)
  np.testing.assert_allclose(chance, 1 - (1 - 8 / 128) ** 2)


@pytest.fixture(scope="module")
def edited():
  """Three facts edited at once, and one after the other."""
  world = worlds.pictures()
  lm, variables = world.subject, world.variables
  facts = jnp.array([0, 3, 7])

  @jax.jit
  def both(variables):
    run = lambda strategy: vision_language.edit_facts(
      lm,
      lambda part: language.gradient_ascent(
        part, ju.Fit(optax.sgd(0.5), 3, 4), retain="kl"
      ),
      variables,
      world.data,
      facts,
      KEY,
      keep=jnp.arange(36) >= 12,
      layers=(1, 2),
      strategy=strategy,
    )
    return run("vmap"), run("map")

  return world, *both(variables)


def test_facts_at_once_are_facts_one_by_one(edited):
  _, many, single = edited
  assert many.shape == (3, 24, 16)
  assert jnp.abs(many[0] - many[1]).max() > 1e-3
  np.testing.assert_allclose(many, single, atol=1e-5)


def test_dropping_an_edit_restores_every_bit(edited):
  world, many, _ = edited
  lm, x = world.subject, world.data["x"]
  predict = jax.jit(lm.model.predict)
  before = predict(world.variables, x)
  changed = vision_language.with_delta(world.variables, many[0])
  assert jnp.abs(predict(changed, x) - before).max() > 1e-3
  nothing = vision_language.with_delta(world.variables, 0 * many[0])
  assert (predict(nothing, x) == before).all()
  for path, leaf in jax.tree_util.tree_leaves_with_path(changed.params):
    old = world.variables.params
    for entry in path:
      old = old[entry.key]
    moved = bool((np.asarray(leaf) != np.asarray(old)).any())
    assert moved == ("down" in str(path) and "kernel" in str(path)), path


def test_the_last_layer_reads_what_the_model_says(edited):
  world, *_ = edited
  x = world.data["x"]
  read = jax.jit(
    lambda v: vision_language.lens(world.subject, v, x, (0, 1, 2))
  )(world.variables)
  assert read.shape == (36, 3, 32)
  logits = jax.jit(world.subject.model.predict)(world.variables, x)
  said = jax.nn.softmax(logits[jnp.arange(36), x.prompt - 1])
  np.testing.assert_allclose(read[:, 2], said, atol=1e-5)
  first = vision_language.first_token(x)
  assert (first == x.tokens[jnp.arange(36), x.prompt]).all()


SAID = jnp.array([[4, 5, 6, 0], [6, 6, 6, 1], [7, 8, 9, 4]])
LENGTH = jnp.array([3, 4, 3])
WORDS = jnp.array([[[5, 6], [4, -1]], [[1, -1], [9, -1]], [[4, -1], [-1, -1]]])
REFUSALS = jnp.array([[7, 8, -1], [6, 5, 1]])


def test_keywords_refusals_and_sense():
  found = jax.jit(answers.keyword_match)(SAID, LENGTH, WORDS)
  assert found.tolist() == [1, 0.5, 0]  # The last 4 is beyond what was said.
  is_refusal = jax.jit(answers.is_refusal)
  refused_rows = is_refusal(SAID, LENGTH, REFUSALS)
  assert refused_rows.tolist() == [False, False, True]
  short = is_refusal(SAID, jnp.array([1, 1, 1]), REFUSALS)
  assert not short.any()
  is_normal = jax.jit(answers.is_normal)
  normal = is_normal(SAID, LENGTH, WORDS, REFUSALS)
  assert normal.tolist() == [True, False, False]
  stuck = is_normal(SAID, LENGTH, WORDS[:, :1].at[1].set(6), REFUSALS)
  assert stuck.tolist() == [True, False, False]
  texts = answers.keywords_in_texts(["He lives in ROME"], [["rome", "paris"]])
  assert texts.tolist() == [0.5]


def test_a_model_that_always_refuses_and_one_that_never_does():
  refusing = jnp.tile(jnp.array([7, 8, 2]), (5, 1))
  length, words = jnp.full(5, 3), jnp.full((5, 1, 1), 3)
  is_refusal, is_normal = map(jax.jit, (answers.is_refusal, answers.is_normal))
  assert is_refusal(refusing, length, REFUSALS).all()
  assert not is_normal(refusing, length, words, REFUSALS).any()
  assert (jax.jit(answers.keyword_match)(refusing, length, words) == 0).all()
  right = np.full((5, 1), 3)
  ones = np.ones(5, int)
  assert is_normal(right, ones, words, REFUSALS).all()
  assert not is_refusal(right, ones, REFUSALS).any()


def test_the_membership_score_of_equal_tokens_is_their_probability():
  assert np.isclose(sum(w for _, w in FIUBENCH_WEIGHTS), 1)
  log_p = jnp.log(jnp.full((2, 7), 0.3))
  mask = jnp.arange(7)[None] < jnp.array([[7], [1]])
  np.testing.assert_allclose(weighted_lowest(log_p, mask), 0.3, rtol=1e-6)
  row = jnp.log(jnp.arange(1, 11) / 10)
  wanted = sum(
    w * np.exp(np.mean(np.log(np.arange(1, round(10 * r) + 1) / 10)))
    for r, w in FIUBENCH_WEIGHTS
  )
  np.testing.assert_allclose(weighted_lowest(row), wanted, rtol=1e-5)


def editing(facts=(0,), keep=36, layers=(1,), **more):
  def call():
    world = worlds.pictures()
    erase = lambda lm: vision_language.fact_erasure(
      lm, ju.Fit(optax.sgd(1.0), 1, 2)
    )
    vision_language.edit_facts(
      *(world.subject, erase, world.variables, world.data),
      *(jnp.array(facts), KEY),
      keep=jnp.ones(keep, bool),
      layers=layers,
      **more,
    )

  return call


SITE = vision_language.Site
BAD = {
  "layers >= 1, above the edited block 0": editing(layers=(0, 1)),
  r"layers >= 2, above the edited block 1": editing(
    layers=(1, 2), site=SITE(layer=1)
  ),
  "layers in 0 .. 2": editing(layers=(3,)),
  r"layers in 0 .. 2, got \(\)": editing(layers=()),
  "facts in 0 .. 35": editing(facts=(36,)),
  "a kernel 'decoder/none'": editing(site=SITE("decoder/none")),
  "site.layer in 0 .. 1": editing(layers=(2,), site=SITE(layer=-1)),
  "2 k <= 10 tokens": lambda: readout.head_projection(READ, TOKEN, 6),
  "k to be a whole number >= 1": lambda: attack.tail_hit(READ, TOKEN, 0),
  "order < 3 layers": lambda: attack.probability_delta(READ, 3),
  "a keyword in each row": lambda: answers.keyword_match(
    SAID, LENGTH, jnp.full((3, 1, 1), -1)
  ),
  "keywords for each of 1 texts": lambda: answers.keywords_in_texts(
    ["a"], [[]]
  ),
}


@pytest.mark.parametrize("said", BAD)
def test_bad_input(said):
  refused(said, BAD[said])
