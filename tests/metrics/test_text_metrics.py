"""Scores of texts, against loops in float64, scipy and rouge-score."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from refusals import refused
from scipy import stats

from jaxunlearn.metrics import text

RNG = np.random.default_rng(0)


def answers(rows=6, length=9):
  """Log p, whether first choice, and which count: a stretch of each row."""
  log_p = -RNG.exponential(size=(rows, length)).astype(np.float32)
  is_top = RNG.random((rows, length)) < 0.6
  start = RNG.integers(0, 4, rows)
  end = start + RNG.integers(1, 5, rows)
  place = np.arange(length)
  mask = (place >= start[:, None]) & (place < end[:, None])
  return log_p, is_top, mask


def test_probability_is_that_of_a_loop_and_blind_to_padding():
  log_p, _, mask = answers()
  wanted = [
    np.exp(np.mean([np.float64(p) for p, m in zip(*row) if m]))
    for row in zip(log_p, mask)
  ]
  spoiled = np.where(mask, log_p, np.nan)
  found = jax.jit(text.probability)(spoiled, mask)
  np.testing.assert_allclose(found, wanted, rtol=1e-6)
  assert np.isnan(text.probability(log_p[0], np.zeros(9, bool)))
  spoiled[0, mask[0].argmax()] = np.nan
  assert np.isnan(text.probability(spoiled, mask)[0])


def test_truth_ratios_of_both_kinds():
  right = -RNG.exponential(size=20)
  wrong = -RNG.exponential(size=(20, 5))
  geometric = text.log_truth_ratio(right, wrong)
  arithmetic = text.log_truth_ratio(right, wrong, mean="arithmetic")
  np.testing.assert_allclose(
    geometric, np.log(np.exp(wrong.mean(1)) / np.exp(right)), atol=1e-6
  )
  np.testing.assert_allclose(
    arithmetic, np.log(np.exp(wrong).mean(1) / np.exp(right)), atol=1e-6
  )
  assert (geometric <= arithmetic + 1e-6).all()
  alike = np.broadcast_to(wrong[:, :1], wrong.shape)
  np.testing.assert_allclose(
    text.log_truth_ratio(right, alike),
    text.log_truth_ratio(right, alike, mean="arithmetic"),
    atol=1e-6,
  )
  ratio = np.exp(np.asarray(geometric, np.float64))
  np.testing.assert_allclose(
    text.indifference(geometric), np.minimum(ratio, 1 / ratio), rtol=1e-5
  )
  np.testing.assert_allclose(
    text.preference(geometric), np.maximum(0, 1 - ratio), atol=1e-6
  )


def test_a_uniform_model_prefers_nothing():
  log_p = jnp.full((), -np.log(50.0))
  wrong = jnp.broadcast_to(log_p, (3,))
  assert text.choice_probability(log_p, wrong) == pytest.approx(0.25)
  ratio = text.log_truth_ratio(log_p, wrong)
  assert text.indifference(ratio) == pytest.approx(1)
  assert text.preference(ratio) == pytest.approx(0, abs=1e-6)
  assert text.model_utility(jnp.stack([log_p * 0 + 1, text.preference(ratio)])) == pytest.approx(0, abs=1e-5)  # fmt: skip


def test_ratios_beyond_any_float():
  """After gradient ascent tokens have log p of minus thousands."""
  ratio = text.log_truth_ratio(jnp.float32(-2000.0), jnp.full((5,), -1000.0))
  assert ratio == 1000 and text.indifference(ratio) == 0
  assert text.preference(ratio) == 0 and text.preference(-ratio) == 1
  assert (
    text.choice_probability(jnp.float32(-2e3), jnp.full((3,), -2e3)) == 0.25
  )


def test_memorisation_and_extraction():
  _, is_top, mask = answers(rows=50)
  exact, strength, reference = [], [], []
  for top, count in zip(is_top, mask):
    own = top[count]
    exact.append(own.mean())
    k = next((k for k in range(len(own) + 1) if own[k:].all()), len(own))
    strength.append(1 - k / len(own))
    reference.append(max(1 - k / len(own), 1 / len(own)))
  np.testing.assert_allclose(
    text.exact_memorisation(is_top, mask), exact, rtol=1e-6
  )
  np.testing.assert_allclose(
    text.extraction_strength(is_top, mask), strength, rtol=1e-6
  )
  np.testing.assert_allclose(
    text.extraction_strength(is_top, mask, reference_code=True),
    reference,
    rtol=1e-6,
  )
  of = lambda *top: float(
    text.extraction_strength(jnp.array(top, bool), jnp.ones(5, bool))
  )
  assert of(1, 1, 1, 1, 1) == 1 and of(1, 1, 1, 1, 0) == 0
  assert of(1, 0, 0, 1, 1) == pytest.approx(0.4)


def slow_lcs(a, b):
  table = np.zeros((len(a) + 1, len(b) + 1), int)
  for i, x in enumerate(a, 1):
    for j, y in enumerate(b, 1):
      better = max(table[i - 1, j], table[i, j - 1])
      table[i, j] = table[i - 1, j - 1] + 1 if x == y else better
  return table[-1, -1]


def test_common_subsequences_are_those_of_the_table():
  said, answer = RNG.integers(0, 5, (40, 12)), RNG.integers(0, 5, (40, 9))
  n, m = RNG.integers(0, 13, 40), RNG.integers(0, 10, 40)
  wanted = [
    slow_lcs(a[:i], b[:j]) / j if j else np.nan
    for a, i, b, j in zip(said, n, answer, m)
  ]
  found = jax.jit(text.rouge_l_recall)(said, n, answer, m)
  np.testing.assert_allclose(found, wanted, rtol=1e-6)
  full = np.full(40, 9)
  same = text.rouge_l_recall(answer, full, answer, full)
  np.testing.assert_array_equal(same, 1)
  refused(
    r"\[B, S\], length .* answer \[B, T\]",
    text.rouge_l_recall,
    said,
    n[:3],
    answer,
    m,
  )


def test_rouge_of_texts_is_that_of_tokens_where_words_are_tokens():
  pytest.importorskip("rouge_score")
  words = ["cat", "dog", "sun", "red", "big"]
  said, answer = RNG.integers(0, 5, (20, 7)), RNG.integers(0, 5, (20, 6))
  spell = lambda rows: [" ".join(words[i] for i in row) for row in rows]
  found = text.rouge_l_of_texts(spell(said), spell(answer))
  length = lambda rows: np.full(len(rows), rows.shape[1])
  wanted = text.rouge_l_recall(said, length(said), answer, length(answer))
  np.testing.assert_allclose(found, wanted, rtol=1e-6)
  assert text.rouge_l_of_texts(
    ["", "He ran."], ["a cat", "he runs"]
  ).tolist() == [
    0.0,
    0.5,
  ]
  with pytest.raises(ValueError, match="for each of 1 texts, got 2"):
    text.rouge_l_of_texts(["a"], ["a", "b"])


def test_the_first_choice_must_beat_every_wrong_one():
  right = jnp.array([1.0, 1.0, 2.0, np.nan])
  wrong = jnp.array([[0.0, 0.5], [1.0, 0.0], [0.0, 3.0], [0.0, 0.0]])
  assert text.is_chosen(right, wrong).tolist() == [True, False, False, False]


def test_a_guess_among_six_is_right_in_a_sixth():
  guess = np.random.default_rng(1).random((20_000, 6))
  found = text.is_chosen(guess[:, 0], guess[:, 1:])
  assert abs(float(found.mean()) - 1 / 6) < 3 * (5 / 36 / 20_000) ** 0.5


def test_entropy_of_ngrams_has_its_closed_forms():
  """k pairs and k triples as often: (2/3 + 4/3) / 2 log2 k; a word again: 0."""
  ring = np.tile(np.arange(4), 9)  # 34 triples: nearly as often each.
  again, short = np.full(36, 5), np.arange(36)
  rows = jnp.array([ring, again, short, short])
  length = jnp.array([36, 36, 2, 10])
  got = text.ngram_entropy(rows, length)
  counts = lambda n: np.unique(
    [ring[i : i + n] for i in range(37 - n)], axis=0, return_counts=True
  )[1]
  bits = lambda c: -(c / c.sum() * np.log2(c / c.sum())).sum()
  want = (2 / 3 * bits(counts(2)) + 4 / 3 * bits(counts(3))) / 2
  assert want == pytest.approx(2, abs=1e-2)
  np.testing.assert_allclose(got[:2], [want, 0], atol=1e-6)
  assert got[2] == 0  # One pair, and no triple.
  want = (2 / 3 * np.log2(9) + 4 / 3 * np.log2(8)) / 2
  np.testing.assert_allclose(got[3], want, rtol=1e-6)


def test_utility_is_a_harmonic_mean():
  assert text.model_utility([0.5, 0.25, 1.0]) == pytest.approx(3 / 7)
  assert text.model_utility([0.5, 0.0, 1.0]) == 0
  assert np.isnan(text.model_utility([0.0, np.nan]))
  nine = RNG.random((4, 9))
  np.testing.assert_allclose(
    text.model_utility(nine), stats.hmean(nine, axis=1), rtol=1e-6
  )


def test_forget_quality_is_scipys_and_does_not_mind_the_scale():
  even = np.linspace(0, 1, 40)
  found = text.forget_quality(even, even + 0.2)
  assert found.distance == pytest.approx(0.2) and found.rows == 40
  assert 10**found.log10_p == pytest.approx(0.4046, abs=1e-4)
  assert text.forget_quality(even, even).log10_p == 0
  ours, theirs = RNG.lognormal(0.3, 1, 40), RNG.lognormal(0, 1, 30)
  wanted = stats.ks_2samp(ours, theirs)
  for change in (lambda r: r, np.log, lambda r: 1 / r):
    found = text.forget_quality(change(ours), change(theirs))
    assert found.log10_p == pytest.approx(np.log10(wanted.pvalue))
    assert found.distance == pytest.approx(wanted.statistic)
    assert text.ratio_distance(change(ours), change(theirs)) == pytest.approx(
      wanted.statistic, abs=1e-6
    )
  # Further apart than float64 has numbers for.
  many = np.arange(2000.0)
  assert text.forget_quality(many, many + 9e3).log10_p < -290
  assert np.isnan(text.forget_quality([np.nan, 1], [1.0, 2]).log10_p)
  refused(r"\[n > 0\] and others", text.forget_quality, [], [1.0])


def test_bad_input():
  log_p, _, mask = answers()
  for call, words in (
    (lambda: text.probability(log_p, mask[:, :3]), "and mask bool "),
    (lambda: text.probability(log_p, mask * 1), "and int"),
    (lambda: text.log_truth_ratio(log_p[0], log_p), "right answers"),
    (
      lambda: text.choice_probability(log_p, log_p[..., None][..., :0]),
      "right",
    ),
    (lambda: text.log_truth_ratio(log_p, log_p[..., None], mean="x"), "mean"),
  ):
    refused(words, call)
