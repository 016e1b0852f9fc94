"""Facts in the prompt: what stands in it, and models whose scores are known."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from refusals import refused

from jaxunlearn.attacks.in_context import (
  Facts,
  context_price,
  in_context,
  in_context_gaps,
  told_in_context,
)

KEY = jax.random.key(0)
NUM = 8
# Subjects 10 .. 17, answers 20 .. 27; "1 subject answer", asked "2 subject".
SUBJECT, ANSWER = jnp.arange(NUM) + 10, jnp.arange(NUM) + 20
FACTS = Facts(
  jnp.stack([jnp.ones(NUM, int), SUBJECT, ANSWER], axis=1),
  jnp.stack([jnp.full(NUM, 2), SUBJECT], axis=1),
  ANSWER,
  jnp.arange(NUM) % 2,
)
REQUEST = jnp.arange(NUM) < 3


def asked(level, **options):
  ask = lambda key: in_context(FACTS, level, key, request=REQUEST, **options)
  return jax.jit(ask)(KEY)


def copies(prompts):
  """Whether a reader of the context alone gives the answer, float [F, C]."""
  tokens, answer = prompts
  told = tokens[..., :-2].reshape(*tokens.shape[:2], -1, 3)
  about = told[..., 1] == tokens[..., -1:]
  return (about & (told[..., 2] == answer[..., None])).any(-1).astype(float)


@pytest.mark.parametrize("distractors", [0, 3])
def test_levels_hold_what_they_should(distractors):
  of = lambda level: asked(level, distractors=distractors, num_contexts=5)
  direct, false, other = of("direct"), of("false"), of("neighbour")
  closed = of("closed")
  chex.assert_trees_all_equal(closed.tokens, jnp.stack([FACTS.query] * 5, 1))
  assert direct.tokens.shape == (NUM, 5, 3 * (distractors + 1) + 2)
  assert (copies(direct) == 1).all() and (copies(false) == 1).all()
  assert (copies(other) == 0).all()
  for i in range(NUM):
    for c in range(5):
      told = np.asarray(direct.tokens[i, c, :-2]).reshape(-1, 3)
      # Requested facts are told to their own queries alone.
      assert all(s == SUBJECT[i] or s >= 13 for s in told[:, 1])
      assert len({*told[:, 1].tolist()}) == distractors + 1
      assert ANSWER[i] not in other.tokens[i, c]
      assert ANSWER[i] not in false.tokens[i, c]
      lie = int(false.answer[i, c])
      assert lie != ANSWER[i] and (lie - 20) % 2 == i % 2


def test_order_and_choice_are_drawn():
  tokens = asked("direct", distractors=2, num_contexts=30).tokens[0]
  place = (tokens[:, :-2].reshape(30, 3, 3)[..., 1] == 10).argmax(axis=1)
  assert set(place.tolist()) == {0, 1, 2}
  told = asked("neighbour", num_contexts=60).tokens[0][:, 1]
  assert set(told.tolist()) == {13, 14, 15, 16, 17}


def test_the_format_control_tells_of_others_and_holds_no_answer():
  facts = FACTS._replace(subject=SUBJECT)
  made = jax.jit(
    lambda key: in_context(
      facts, "format", key, request=REQUEST, num_contexts=40
    )
  )(KEY)
  told = np.asarray(made.tokens)[..., :-2]
  assert made.tokens.shape == (NUM, 40, 5)
  chex.assert_trees_all_equal(made.answer, jnp.stack([ANSWER] * 40, 1))
  for i in range(NUM):
    _, who, what = told[i].T
    assert SUBJECT[i] not in who and ANSWER[i] not in what
    assert set((what - 20) % 2) == {i % 2} and set(who) <= set(range(10, 18))
    assert (who - 10 != what - 20).all()  # True of nobody.
  refused("a subject for", in_context, FACTS, "format", KEY, request=REQUEST)


def test_a_reader_that_picks_any_fact_gains_less_by_more_of_them():
  """Lookup with noise: a direct context is worth 1 / (1 + distractors)."""
  gains = []
  for count in (0, 1, 4):
    tokens, _ = asked("direct", distractors=count, num_contexts=400)
    told = tokens[..., :-2].reshape(NUM, 400, count + 1, 3)
    place = jax.random.randint(KEY, (NUM, 400, 1, 1), 0, count + 1)
    read = jnp.take_along_axis(told, place, axis=2)[:, :, 0, 2]
    gains.append(float((read == ANSWER[:, None])[:3].mean()))
  assert gains[0] == 1
  np.testing.assert_allclose(gains, [1, 1 / 2, 1 / 5], atol=0.06)


def test_sentences_of_ones_own_are_told_in_any_order():
  told = jnp.stack([FACTS.sentence, FACTS.sentence[::-1]], axis=1)
  made = told_in_context(told, FACTS.query, ANSWER, KEY, num_contexts=30)
  assert made.tokens.shape == (NUM, 30, 8)
  first = np.asarray(made.tokens)[0, :, 1]
  assert set(first) == {10, 17}
  chex.assert_trees_all_equal(made.tokens[3, 0, -2:], FACTS.query[3])
  none = told_in_context(told[:, :0], FACTS.query, ANSWER, KEY)
  chex.assert_trees_all_equal(none, asked("closed"))
  with pytest.raises(ValueError, match=r"told \[F, K, S\]"):
    told_in_context(told[:3], FACTS.query, ANSWER, KEY)


def test_the_price_is_of_the_shortest_context_that_works():
  recovery = jnp.array([[0.4, 0.5, 0.9], [0.1, 0.2, 0.3]])
  price = context_price(recovery, jnp.array([2, 8, 4]))
  assert price.tolist() == [4, np.inf]
  with pytest.raises(ValueError, match=r"tokens of shape \(3,\)"):
    context_price(recovery, jnp.array([2]))  # Would serve every level.


def test_gaps_of_models_whose_scores_are_known():
  direct, closed = asked("direct"), asked("closed")
  reads, nothing = copies(direct), jnp.zeros(closed.answer.shape)
  gaps = in_context_gaps(reads, reads, nothing, REQUEST)
  assert [float(g) for g in gaps] == pytest.approx([1, 1, 0])
  refuses = jnp.where(REQUEST[:, None], 0.25, reads)
  gaps = in_context_gaps(refuses, reads, nothing, REQUEST)
  assert [float(g) for g in gaps] == pytest.approx([0.25, 1, -0.75])
  same = nothing + 0.1  # A constant model.
  gaps = in_context_gaps(same, same, same, REQUEST)
  assert [float(g) for g in gaps] == pytest.approx([0.1, 0, 0])
  empty = in_context_gaps(same, same, same, jnp.zeros(NUM, bool))
  assert all(jnp.isnan(g) for g in empty)
  for args, message in (
    ((same, same, same, REQUEST[:, None]), r"unlearned \[F, C\]"),
    ((same, same[:1], same, REQUEST), r"retrained \[F, C\]"),
    ((same, same, same[:, 0], REQUEST), "retrained_closed"),
    ((same, same, same, REQUEST + 0), "request of dtype bool"),
  ):
    with pytest.raises(ValueError, match=message):
      in_context_gaps(*args)


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"level": "open"}, "level to be one of 'closed'"),
    ({"distractors": 6}, "6 other facts to tell beside each, got 4"),
    ({"num_contexts": 0}, "num_contexts to be a whole number >= 1"),
    ({"request": REQUEST[:-1]}, r"request bool \[8\], got"),
    (
      {"level": "false", "facts": FACTS._replace(kind=jnp.arange(NUM))},
      "another answer of each fact's kind, got none for fact 0",
    ),
    (
      {"facts": FACTS._replace(answer=ANSWER.at[2].set(9))},
      "sentence to have its answer, got fact 2 without",
    ),
    ({"facts": FACTS._replace(kind=jnp.arange(3))}, r"sentence \[F, S\]"),
    ({"request": REQUEST & False}, "to ask for a fact, got an empty one"),
  ],
)
def test_what_cannot_be_asked_is_refused(change, message):
  given = {"facts": FACTS, "level": "direct", "request": REQUEST, **change}
  facts, level = given.pop("facts"), given.pop("level")
  refused(message, in_context, facts, level, KEY, **given)
