"""Queries and chains put to models that are tables, whose answers are known."""

import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from refusals import refused

from jaxunlearn.attacks import leakage
from jaxunlearn.attacks.step_by_step import (
  ANSWER,
  Said,
  brings_out,
  make_queries,
  step_by_step,
)

KEY = jax.random.key(0)
# "home" 1, "land" 2, "houses" 3; persons 4 .. 7, towns 8 .. 11, lands 12, 13.
HOME, LAND, HOUSES, SIZE, NUM = 1, 2, 3, 14, 4
PERSON, TOWN = np.arange(4, 8), np.arange(8, 12)
OF_TOWN = np.array([12, 12, 12, 13])
CATEGORIES = ("direct", "inverse", "implied", "chain", "kept")


def knows(persons):
  """A table of answers by the last two tokens; 0 where nothing is known."""
  table = np.zeros((SIZE, SIZE), np.int32)
  table[LAND, TOWN] = OF_TOWN
  for i in persons:
    table[HOME, PERSON[i]], table[HOUSES, TOWN[i]] = TOWN[i], PERSON[i]
    table[LAND, PERSON[i]] = OF_TOWN[i]
  return jnp.asarray(table)


def say(table, tokens, length, key):
  del key
  row = jnp.arange(len(length))
  at = lambda back: tokens[row, jnp.maximum(length - back, 0)]
  said = table[at(2), at(1)]
  return Said(said[:, None], (said > 0).astype(jnp.int32))


def questions():
  chains, answers, category, fact = [], [], [], []
  for i in range(NUM):
    person, town, land = PERSON[i], TOWN[i], OF_TOWN[i]
    for number, (chain, answer) in enumerate((
      ([[HOME, person]], town),
      ([[HOUSES, town]], person),
      ([[LAND, person]], land),
      ([[HOME, person], [LAND, ANSWER]], land),
    )):  # fmt: skip
      chains.append(chain)
      answers.append([answer])
      category.append(number)
      fact.append(i)
    chains.append([[LAND, town]])
    answers.append([land])
    category.append(4)
    fact.append(NUM + i)
  return make_queries(chains, answers, category, fact)


QUERIES = questions()
REQUEST = jnp.arange(2 * NUM) < 2
ASK = jax.jit(lambda table: step_by_step(say, table, QUERIES, KEY, max_new=1))


def right(persons):
  return brings_out(ASK(knows(persons)), QUERIES)


def of(found, retrained, request=REQUEST):
  return leakage.leaks(found, retrained, QUERIES, request, num_categories=5)


def test_a_table_that_knows_everything_leaks_and_one_that_does_not_does_not():
  original, retrained = right(range(NUM)), right([2, 3])
  found = of(original, retrained)
  np.testing.assert_allclose(found.rate[:4], 1)
  np.testing.assert_allclose(found.net[:4], 1)
  assert found.success == 1 and found.queries.tolist() == [2, 2, 2, 2, 0]
  assert jnp.isnan(found.rate[4])
  gold = of(retrained, retrained)
  np.testing.assert_allclose(gold.net[:4], 0)
  assert gold.success == 0
  # Of its own accord it never names a town, and the chain has nothing to quote.
  np.testing.assert_allclose(gold.rate[:4], 0)


def test_a_model_that_forgets_the_direct_form_alone_leaks_in_the_others():
  table = np.array(knows(range(NUM)))
  table[HOME, PERSON[:2]] = 0
  found = of(brings_out(ASK(jnp.asarray(table)), QUERIES), right([2, 3]))
  np.testing.assert_allclose(found.net[:4], [0, 1, 1, 0])
  assert found.success == 1


def test_an_answer_by_chance_is_the_base_rate():
  """A guess that holds for both is no leak: lands 12, 12 of 12, 12, 12, 13."""
  table = jnp.where(knows([2, 3]) == 0, 12, knows([2, 3]))
  guess = brings_out(ASK(table), QUERIES)
  found = of(guess, guess)
  np.testing.assert_allclose(found.rate[:4], [0, 0, 1, 1])
  np.testing.assert_allclose(found.net[:4], 0)


def test_a_chain_quotes_what_the_model_itself_said():
  table = np.array(knows(range(NUM)))
  table[HOME, PERSON[0]] = TOWN[3]  # Wrong, and so is the land it leads to.
  said = ASK(jnp.asarray(table))
  chain = np.flatnonzero((QUERIES.category == 3) & (QUERIES.fact == 0))
  assert said.tokens[chain[0], 0] == OF_TOWN[3] != OF_TOWN[0]


def test_a_quote_may_have_several_words_and_stand_anywhere():
  heard = []

  def echo(variables, tokens, length, key):
    """Says its last two tokens, and keeps what it was asked."""
    del variables, key
    heard.append((tokens, length))
    row = jnp.arange(len(length))
    last = [tokens[row, jnp.maximum(length - b, 0)] for b in (2, 1)]
    return Said(jnp.stack(last, axis=1), jnp.minimum(length, 2))

  chains = [[[5, 6, 7], [8, ANSWER, 9]], [[3, 4]], [[2], [ANSWER], [ANSWER, 1]]]
  queries = make_queries(chains, [[1]] * 3, [0] * 3, [0] * 3)
  with jax.disable_jit():
    said = step_by_step(echo, None, queries, KEY, max_new=2)
  tokens, length = heard[-1]
  context = [row[:n].tolist() for row, n in zip(tokens, length)]
  # Asked, said, asked with what was said in it, and so on.
  assert context[0] == [5, 6, 7, 6, 7, 8, 6, 7, 9]
  assert context[1] == [3, 4]
  assert context[2] == [2, 2, 2, 2, 2, 2, 2, 1]
  assert said.tokens.tolist() == [[7, 9], [3, 4], [2, 1]]


def test_a_stack_of_models_is_one_program_and_a_chain_of_one_the_query():
  tables = jnp.stack([knows(range(NUM)), knows([2, 3]), knows([])])
  many = jax.vmap(ASK)(tables)
  for i in range(3):
    one = ASK(tables[i])
    chex.assert_trees_all_equal(jax.tree.map(lambda x: x[i], many), one)
  single = QUERIES.length[:, 0] == 0
  tokens = QUERIES.steps[:, -1]
  alone = say(tables[0], tokens, QUERIES.length[:, -1], KEY)
  chex.assert_trees_all_equal(
    ASK(tables[0]).tokens[single], alone.tokens[single]
  )


def test_success_is_the_mean_over_all_choices_of_queries():
  found = jnp.asarray(np.random.default_rng(0).random(len(QUERIES.fact)) < 0.4)
  budget = jnp.arange(1, 6)
  got = leakage.success_at(found, QUERIES, REQUEST, budget)
  for n in (1, 2, 3, 4):
    shares = []
    for fact in (0, 1):
      own = np.asarray(found)[np.asarray(QUERIES.fact) == fact]
      picks = itertools.combinations(own, n)
      shares.append(np.mean([any(pick) for pick in picks]))
    assert got[n - 1] == pytest.approx(np.mean(shares), abs=1e-6)
  assert (jnp.diff(got) >= 0).all()
  assert got[4] == got[3]  # There are four queries of each.


def test_every_request_is_served_by_one_evaluation():
  found, retrained = right(range(NUM)), right([1])
  requests = jnp.stack([jnp.arange(2 * NUM) == i for i in range(NUM)])
  many = jax.vmap(lambda request: of(found, retrained, request))(requests)
  for i in range(NUM):
    one = of(found, retrained, requests[i])
    chex.assert_trees_all_close(jax.tree.map(lambda x: x[i], many), one)


def test_a_model_that_says_nothing_leaks_nothing_and_suppresses_everything():
  original, retrained = right(range(NUM)), right([2, 3])
  nothing = jnp.zeros(len(original), bool)
  assert of(nothing, retrained).success == 0
  distance = jnp.where(REQUEST, 0, jnp.arange(2 * NUM) % 2 + 1)[QUERIES.fact]
  lost = lambda found: leakage.suppressed(
    found, retrained, original, distance, 2
  )
  np.testing.assert_allclose(lost(nothing), 1)
  np.testing.assert_allclose(lost(original), 0)
  np.testing.assert_allclose(lost(retrained), 0)


def test_distance_counts_the_facts_between():
  # a-b, b-c, c-d, e-f: the last is never reached.
  subject, other = jnp.array([0, 1, 2, 4]), jnp.array([1, 2, 3, 5])
  request = jnp.array([True, False, False, False])
  of_facts = lambda most: leakage.fact_distances(
    subject, other, request, num_entities=6, most=most
  )
  assert of_facts(5).tolist() == [0, 1, 2, 6]
  assert of_facts(1).tolist() == [0, 1, 2, 2]
  refused(
    r"other of shape \(4,\)", leakage.fact_distances, subject, other[:1], request,
    num_entities=6, most=1,
  )  # fmt: skip


def test_answers_of_other_queries_are_refused():
  yes, distance = jnp.ones(3, bool), jnp.array([1, 1, 2])
  for args, message in (
    ((yes[:1], yes, yes, distance), r"found bool \(3,\), got bool \(1,\)"),
    ((yes, yes + 0, yes, distance), r"retrained bool \(3,\), got int32"),
    ((yes, yes, yes, distance + 0.5), "distance of integer dtype"),
    ((yes, yes, yes, distance[:, None]), "distance of shape"),
  ):
    refused(message, leakage.suppressed, *args, 2)


def test_what_cannot_be_asked_is_refused():
  ask = lambda queries, **more: step_by_step(
    say, knows([]), queries, KEY, **{"max_new": 1, **more}
  )
  one = make_queries([[[HOME, 4]]], [[8]], [0], [0])
  refused("a fact of each, got 1, 0", make_queries, [[[1]]], [], [0], [0])
  refused("end with a step", ask, one._replace(length=jnp.zeros((1, 1), int)))
  refused("an answer of each", make_queries, [[[1]]], [[]], [0], [0])
  refused(
    "quote the answer before", make_queries, [[[ANSWER]]], [[1]], [0], [0]
  )
  refused(r"steps \[Q, R, S\]", ask, one._replace(fact=jnp.zeros(2, int)))
  long = make_queries([[[1]]], [[1, 2]], [0], [0])
  refused("max_new >= 2, the longest answer, got 1", ask, long)
  found = jnp.zeros(len(QUERIES.fact), bool)
  refused("ask for a fact, got an empty", of, found, found, REQUEST & False)
  refused(r"answers found bool \[20\]", of, found[:-1], found)
  refused("fact in 0 .. 1", of, found, found, REQUEST[:2])
  refused("least", brings_out, ASK(knows([])), QUERIES, least=1.5)
