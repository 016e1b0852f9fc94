"""Attacks on language models against NumPy and published code."""

import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from refusals import refused
from scipy.special import log_softmax

from jaxunlearn.attacks import language


def texts(seed=0, batch=3, length=9, vocabulary=7):
  """Logits, targets and masks of padded texts; nan and -100 in the padding."""
  rng = np.random.default_rng(seed)
  logits = np.float32(2 * rng.normal(size=(batch, length, vocabulary)))
  targets = rng.integers(0, vocabulary, (batch, length))
  mask = np.arange(length) < np.array([length, 5, 2])[:batch, None]
  return (
    np.where(mask[..., None], logits, np.nan).astype(np.float32),
    np.where(mask, targets, -100),
    mask,
  )


@pytest.mark.slow
def test_scores_of_padded_texts_are_those_of_each_text_alone():
  logits, targets, mask = texts()
  for attack in (
    language.mean_log_prob,
    language.min_k,
    language.min_k_plus_plus,
  ):
    found = attack(logits, targets, mask)
    compiled = jax.jit(attack)(logits, targets, mask)
    lanes = jax.jit(jax.vmap(attack))(logits, targets, mask)
    for i, n in enumerate(mask.sum(1)):
      alone = attack(logits[i, :n], targets[i, :n])
      for score in (found, compiled, lanes):
        np.testing.assert_allclose(score[i], alone, rtol=1e-5)
  tokens = language.token_log_probs(logits, targets, mask)
  np.testing.assert_array_equal(np.asarray(tokens)[~mask], 0)
  tokens = language.normalised_token_log_probs(logits, targets, mask)
  np.testing.assert_array_equal(np.asarray(tokens)[~mask], 0)


def test_loss_and_reference_scores_are_means_over_counted_tokens():
  logits, targets, mask = texts(1)
  others, _, _ = texts(2)

  def mean64(logits):
    found = []
    for i, n in enumerate(mask.sum(1)):
      log_p = log_softmax(np.float64(logits[i, :n]), axis=-1)
      found.append(log_p[np.arange(n), targets[i, :n]].mean())
    return np.array(found)

  found = jax.jit(language.mean_log_prob)(logits, targets, mask)
  np.testing.assert_allclose(found, mean64(logits), rtol=1e-5)
  np.testing.assert_allclose(
    jax.jit(lambda *a: language.min_k(*a, k=1))(logits, targets, mask),
    found,
    rtol=1e-6,
  )
  found = language.reference_score(logits, others, targets, mask)
  np.testing.assert_allclose(found, mean64(logits) - mean64(others), rtol=1e-4)
  same = language.reference_score(logits, logits, targets, mask)
  np.testing.assert_array_equal(same, 0)


def test_the_lowest_values_are_counted_as_their_share_says():
  values = np.float32([5, 1, 4, 2, 3, 9, 8, 7, 6, 0])
  for k, wanted in ((0.1, 0), (0.3, 1), (0.39, 1), (0.7, 3), (1, 4.5)):
    np.testing.assert_allclose(language.lowest_mean(values, k=k), wanted)
    compiled = jax.jit(lambda k: language.lowest_mean(values, k=k))
    np.testing.assert_allclose(compiled(k), wanted)
  third = jnp.float32(0.3)
  assert jax.jit(lambda: language.lowest_mean(values, k=third))() == 1
  assert language.lowest_mean(values, k=0.05) == 0
  assert np.isnan(language.lowest_mean(values, k=0.05, at_least_one=False))
  assert np.isnan(language.lowest_mean(values, np.zeros(10, bool), k=1.0))
  broken = np.append(values, np.nan).astype(np.float32)
  assert np.isnan(language.lowest_mean(broken, k=0.2))
  found = language.lowest_mean(broken, np.arange(11) < 10, k=0.2)
  np.testing.assert_allclose(found, 0.5)


@pytest.mark.slow
def test_a_uniform_prediction_has_a_score_only_with_a_floor():
  # A quarter and its logarithm leave no rounding: log p = mu, sigma = 0.
  flat, targets = np.zeros((4, 4), np.float32), np.array([0, 1, 2, 3])
  found = language.min_k_plus_plus(flat, targets, variance_floor=1e-6)
  np.testing.assert_array_equal(found, 0)
  found = language.min_k_plus_plus(flat, targets, variance_floor=0)
  assert np.isnan(found)
  sure = np.float32([[1e4, 0, 0], [1e4, 0, 0]])
  found = language.min_k_plus_plus(sure, np.array([0, 0]))
  np.testing.assert_allclose(found, 0, atol=1e-6)
  blocked = np.float32([[0, 0, -np.inf]])
  found = language.normalised_token_log_probs(blocked, np.array([0]))
  np.testing.assert_allclose(found, 0, atol=1e-3)


def test_a_constant_added_to_all_logits_changes_no_score():
  logits, targets, mask = texts(3)
  logits = np.round(logits * 256) / 256  # So that the sum below is exact.
  for attack in (language.min_k, language.min_k_plus_plus):
    np.testing.assert_allclose(
      attack(logits + np.float32(32), targets, mask),
      attack(logits, targets, mask),
      rtol=1e-4,
    )


def test_scores_over_the_compressed_size_are_per_byte():
  strings = ["abc" * 50, "äöü", ""]
  sizes = [len(zlib.compress(text.encode())) for text in strings]
  found = language.zlib_score(jnp.array([-2.0, -3.0, -1.0]), strings)
  np.testing.assert_allclose(found, np.array([-2, -3, -1]) / sizes, rtol=1e-6)
  assert sizes[0] < 150
  with pytest.raises(ValueError, match=r"scores \[2\], got"):
    language.zlib_score(np.zeros(3), ["a", "b"])


@pytest.mark.slow
def test_gradient_norms_are_means_over_tensors_row_by_row():
  rng = np.random.default_rng(0)
  params = {"w": np.float32(rng.normal(size=(4, 3))), "b": np.zeros(3, "f4")}
  data = {
    "x": np.float32(rng.normal(size=(7, 4))),
    "y": np.float32(rng.normal(size=(7, 3))),
  }

  def loss(params, row):
    return ((row["x"] @ params["w"] + params["b"] - row["y"]) ** 2).sum() / 2

  error = data["x"] @ params["w"] - data["y"]
  for order in (1, 2, np.inf):
    found = language.gradient_norm_score(
      loss, params, data, chunk_size=3, order=order
    )
    norm = lambda g: np.linalg.norm(np.ravel(g), ord=order)
    wanted = [
      -(norm(np.outer(x, e)) + norm(e)) / 2 for x, e in zip(data["x"], error)
    ]
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
  whole = language.gradient_norm_score(loss, params, data, chunk_size=100)
  chunked = jax.jit(
    lambda p: language.gradient_norm_score(loss, p, data, chunk_size=2)
  )(params)
  np.testing.assert_allclose(whole, chunked, rtol=1e-6)
  call = language.gradient_norm_score
  refused("chunk_size > 0", call, loss, params, data, chunk_size=0)
  refused("order >= 1", call, loss, params, data, chunk_size=1, order=0.5)
  refused("params to hold arrays", call, loss, {}, data, chunk_size=1)


def test_privleak_is_zero_for_the_retrained_and_minus_a_hundred_at_worst():
  assert language.privleak(0.4772, 0.4772) == 0
  assert language.privleak(0.0, 0.5) == -100
  np.testing.assert_allclose(language.privleak(0.8, 0.4), 100, rtol=1e-6)
  found = jax.jit(language.privleak)(jnp.array([0.2, 0.2]), jnp.array([0.4, 0]))
  np.testing.assert_allclose(found, [-50, np.nan], rtol=1e-6)
  refused(r"auc_unlearned in \[0, 1\]", language.privleak, 1.2, 0.5)
  refused("auc_retrained > 0", language.privleak, 0.2, 0.0)
  areas = jnp.full(2, 0.5)
  refused("one shape", language.privleak, areas, areas[:, None])
  refused("a list of texts", language.zlib_score, np.zeros(3), "abc")


def test_bad_arguments_of_the_token_attacks_are_named():
  logits, targets, mask = texts()
  refused(r"targets in 0 \.\. 6", language.token_log_probs, logits, targets)
  with pytest.raises(ValueError, match=r"targets \[..., T\], got"):
    language.token_log_probs(logits, targets[:, 1:], mask)
  refused("token_mask bool", language.min_k, logits, targets, mask.astype(int))
  refused(r"k in \(0, 1\], got k=0", language.min_k, logits, targets, mask, k=0)
  refused(r"k in \(0, 1\], got k=1.1", language.lowest_mean, np.ones(3), k=1.1)
  with pytest.raises(ValueError, match="variance_floor >= 0"):
    language.min_k_plus_plus(logits, targets, mask, variance_floor=-1)
  refused("mask bool", language.lowest_mean, np.ones(3), np.ones(2, bool), k=1)
