"""Probes of entities: what each form asks, and how their scores are averaged."""

import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from refusals import refused

from jaxunlearn.attacks.entity_probes import (
  ATTACKS,
  EntityFact,
  entity_probe,
  probe_report,
  text_membership,
)
from jaxunlearn.language.types import TokenScores

FACT = EntityFact(
  "Ada Byron",
  "Where was Ada Byron born?",
  "Ada Byron was born in London, so.",
  wrong=("Ada Byron was born in Rome.",),
  reworded="Which town did Ada Byron come from?",
  hint="Ada Byron wrote on engines.",
  example=("What did she write on?", "Engines."),
  translated="Où est née Ada Byron ?",
)


def test_the_blank_takes_the_last_word_of_content():
  asked = entity_probe("blank", FACT)
  assert asked.answer == "London" and "London" not in asked.question
  assert asked.question.endswith("was born in ___ so.")


@pytest.mark.parametrize("form", ["question", *ATTACKS])
def test_no_form_gives_the_answer_away_but_choice_and_reverse(form):
  asked = entity_probe(form, FACT)
  assert asked.answer == (
    "Ada Byron" if form == "reverse_query" else FACT.answer
  )
  told = asked.question + asked.begun
  assert ("London" in told) == (form in ("multiple_choice", "reverse_query"))
  if form == "reverse_query":
    assert "Ada" not in told and "Byron" not in told


def test_choices_stand_in_an_order_that_says_nothing():
  one = entity_probe("multiple_choice", FACT).question
  other = FACT._replace(answer=FACT.wrong[0], wrong=(FACT.answer,))
  assert entity_probe("multiple_choice", other).question == one


def test_a_form_without_what_it_needs_is_left_out():
  bare = EntityFact("Ada", "Where?", "London.")
  missing = {form for form in ATTACKS if entity_probe(form, bare) is None}
  assert missing == {
    *("multiple_choice", "synonym", "background_hint", "in_context"),
    "cross_lingual",
  }
  assert len(ATTACKS) == 9


def test_facts_and_forms_that_are_none_are_refused():
  refused("form to be one of 'blank'", entity_probe, "riddle", FACT)
  refused(
    "a fact with answer", entity_probe, "question", FACT._replace(answer=" ")
  )


def test_means_by_entity_and_form_are_those_of_a_loop_and_recombine():
  rng = np.random.default_rng(0)
  score = rng.random(40).astype(np.float32)
  entity, form = rng.integers(0, 3, 40), rng.integers(0, 4, 40)
  weight = rng.random(40) < 0.8
  entity[entity == 1] = 2  # One entity without any probe.
  call = jax.jit(
    lambda s, w: probe_report(
      s, entity, form, num_entities=3, num_forms=4, weight=w
    )
  )
  made = call(score, weight)
  for e in range(3):
    for k in range(4):
      own = score[(entity == e) & (form == k) & weight]
      assert made.number[e, k] == len(own)
      want = own.mean() if len(own) else np.nan
      np.testing.assert_allclose(made.mean[e, k], want, rtol=1e-6)
    some = score[(entity == e) & (form > 0) & weight]
    want = some.mean() if len(some) else np.nan
    np.testing.assert_allclose(made.over([1, 2, 3])[e], want, rtol=1e-6)
  assert jnp.isnan(call(score * np.nan, weight).mean[0]).all()


def test_probes_of_nobody_are_refused():
  call = lambda entity, form: probe_report(
    jnp.ones(2), jnp.array(entity), jnp.array(form), num_entities=2, num_forms=2
  )
  refused(r"entity in 0 .. 1, got 0 .. 2", call, [0, 2], [0, 0])
  refused(r"form of shape \(2,\)", call, [0, 1], [0])
  own = jnp.array([0, 1])
  for score, weight in (
    (jnp.ones((2, 1)), None),
    (jnp.ones(2), jnp.ones((2, 1), bool)),
    (jnp.ones(2), jnp.full(2, 0.5)),  # Would count as no probe at all.
  ):
    with pytest.raises(ValueError, match=r"score \[P\] and weight bool \[P\]"):
      probe_report(score, own, own, num_entities=2, num_forms=2, weight=weight)


def test_four_scores_of_membership():
  log_p = jnp.array([[-1.0, -3.0, -2.0, 0], [-2.0, -2.0, 0, 0]])
  mask = jnp.array([[1, 1, 1, 0], [1, 1, 0, 0]], bool)
  expected, spread = jnp.full((2, 4), -2.5), jnp.full((2, 4), 0.5)
  texts = ("abc" * 9, "de")
  size = jnp.array([len(zlib.compress(t.encode())) for t in texts])
  scores = TokenScores(log_p, log_p * 0, mask, expected, spread)
  made = text_membership(scores, size, k=0.4)
  np.testing.assert_allclose(made.loss, [-2, -2])
  np.testing.assert_allclose(made.zlib, np.array([-6, -4]) / size, rtol=1e-6)
  np.testing.assert_allclose(made.min_k, [-3, -2])
  np.testing.assert_allclose(made.min_k_plus_plus, [-1, 1])
  # A uniform model: log V for every text, and no spread to divide by.
  flat = TokenScores(
    jnp.where(mask, -np.log(7.0), 0),
    log_p,
    mask,
    -np.log(7.0) + 0 * log_p,
    0 * log_p,
  )
  made = text_membership(flat, size)
  np.testing.assert_allclose(made.loss, -np.log(7), rtol=1e-6)
  np.testing.assert_allclose(made.min_k_plus_plus, 0, atol=1e-3)
  refused("zlib_bytes", text_membership, scores, size[:1])
