"""Scores of tokens against the full softmax; the task; bad texts."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import small_text
from small_text import CONFIGS, texts

import jaxunlearn as ju
from jaxunlearn import attacks
from jaxunlearn.core.types import as_step
from jaxunlearn.language.model import language_model
from jaxunlearn.language.scores import token_nll, token_scores
from jaxunlearn.language.types import Text, check_text
from jaxunlearn.metrics import text as scores_of_texts

CLOSE = {"rtol": 1e-4, "atol": 1e-4}


@pytest.mark.parametrize("chunk", [None, 1, 3, 20])
def test_scores_are_those_of_the_full_softmax(chunk):
  lm, variables = small_text.small("llama 3")
  x = texts(4, 8, 19)
  score = lambda v, x: token_scores(lm, v, x, chunk_size=chunk)
  out = jax.jit(score)(variables, x)
  tokens, length, prompt = map(np.asarray, x)
  counts = np.zeros((4, 7), bool)
  for row in range(4):
    logits = small_text.forward(lm.config, variables.params, tokens[row])
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    for t in range(prompt[row], length[row]):
      counts[row, t - 1] = True
      now, target = p[t - 1], tokens[row, t]
      mean = (now * np.log(now)).sum()
      spread = np.sqrt((now * (np.log(now) - mean) ** 2).sum())
      found = [leaf[row, t - 1] for leaf in out]
      wanted = [np.log(now[target]), now.argmax() == target, 1, mean, spread]
      np.testing.assert_allclose(found, wanted, **CLOSE)
  np.testing.assert_array_equal(out.mask, counts)
  for leaf in out:
    assert not np.asarray(leaf)[~counts].any()


def test_attacks_take_scores_as_well_as_logits():
  """Min-k%, min-k%++ and the loss attack without logits of the whole batch."""
  lm, variables = small_text.small("llama")
  x = texts(4, 8, 19)
  scores = jax.jit(lambda v: token_scores(lm, v, x, chunk_size=2))(variables)
  logits = jax.jit(lm.model.predict)(variables, x)[:, :-1]
  given = (logits, x.tokens[:, 1:], scores.mask)
  lowest = attacks.lowest_mean(scores.log_prob, scores.mask, k=0.4)
  chex.assert_trees_all_close(lowest, attacks.min_k(*given, k=0.4), **CLOSE)
  above = scores.log_prob - scores.expected
  ratio = above / jnp.maximum(scores.spread, 1e-3)
  found = attacks.lowest_mean(ratio, scores.mask, k=0.4)
  wanted = attacks.min_k_plus_plus(*given, k=0.4)
  chex.assert_trees_all_close(found, wanted, **CLOSE)


def test_padding_is_invisible():
  """Its tokens, and how much of it there is, change no score."""
  lm, variables = small_text.small("gpt2")
  x = texts(4, 8, 19)
  score = jax.jit(lambda x: token_scores(lm, variables, x))
  out = score(x)
  there = jnp.arange(8)[None] < x.length[:, None]
  other = x._replace(tokens=jnp.where(there, x.tokens, 18 - x.tokens))
  chex.assert_trees_all_equal(score(other), out)
  wide = x._replace(tokens=jnp.pad(x.tokens, ((0, 0), (0, 5))))
  cut = jax.tree.map(lambda leaf: leaf[:, :7], score(wide))
  chex.assert_trees_all_close(cut, out, **CLOSE)


def test_chunks_have_the_same_gradient():
  lm, variables = small_text.small("qwen3")
  x = texts(3, 8, 19)
  total = lambda v, chunk: token_nll(lm, v, x, chunk_size=chunk).value.sum()
  plain = jax.jit(jax.grad(lambda v: total(v, None)))(variables)
  chunked = jax.jit(jax.grad(lambda v: total(v, 3)))(variables)
  chex.assert_trees_all_close(chunked, plain, **CLOSE)


def test_a_token_that_is_none_gives_nan():
  lm, variables = small_text.small("llama")
  tokens = jnp.array([[1, 2, 19, 3], [1, 2, 18, 3]])
  x = Text(tokens, jnp.array([3, 3]), jnp.array([1, 1]))
  out = jax.jit(lambda x: token_scores(lm, variables, x))(x)
  assert jnp.isnan(out.log_prob[0, 1]) and jnp.isnan(out.is_top[0, 1])
  assert jnp.isfinite(out.log_prob[1]).all() and out.log_prob[0, 2] == 0


def test_a_model_without_numbers_has_forgotten_nothing():
  """Its first choice is no token, not the first of the vocabulary."""
  lm, variables = small_text.small("llama")
  x = Text(jnp.array([[1, 2, 0, 3]]), jnp.array([4]), jnp.array([2]))
  broken = jax.tree.map(lambda w: w * jnp.nan, variables)
  for chunk in (None, 2):
    score = lambda v, chunk=chunk: token_scores(lm, v, x, chunk_size=chunk)
    out = jax.jit(score)(broken)
    assert jnp.isnan(
      scores_of_texts.exact_memorisation(out.is_top, out.mask)
    ).all()
    assert jnp.isnan(
      scores_of_texts.extraction_strength(out.is_top, out.mask)
    ).all()
    assert out.is_top[0, 0] == 0  # What does not count.


def test_the_task_is_the_mean_over_tokens():
  """A phase divides sums by numbers of tokens; weights of tokens count."""
  lm, variables = small_text.small("llama", chunk_size=4)
  x = texts(5, 8, 19)
  weight = jax.random.uniform(jax.random.key(1), (5, 8))
  data = {"x": x, "token_weight": weight}
  scores, losses, rows = jax.jit(
    lambda v: (
      token_scores(lm, v, x),
      lm.task.loss(v, as_step(data), jax.random.key(0)),
      lm.model.loss(lm.model.predict(v, x), data),
    )
  )(variables)
  share = scores.mask * weight[:, 1:]
  chex.assert_trees_all_close(losses.weight, share.sum(-1), rtol=1e-6)
  wanted = -(share * scores.log_prob).sum(-1)
  chex.assert_trees_all_close(losses.value, wanted, **CLOSE)
  chex.assert_trees_all_close(rows, wanted / share.sum(-1), **CLOSE)
  # One step over all rows moves by the gradient of the exact mean.
  fit, every = ju.Fit(optax.sgd(0.0), 1, 5), jnp.ones(5, bool)
  _, info = jax.jit(
    lambda k: ju.train(lm, {"x": x}, every, k, fit, start=lambda _: variables)
  )(jax.random.key(0))
  mean = -scores.log_prob.sum() / scores.mask.sum()
  chex.assert_trees_all_close(info.loss[0], mean, **CLOSE)


def test_a_small_model_learns_its_rows():
  lm = language_model(CONFIGS["llama"])
  x = texts(6, 8, 19)
  x = x._replace(prompt=jnp.maximum(x.length - 2, 1))
  fit = ju.Fit(optax.adam(0.02), 120, 6)
  key, mask = jax.random.key(0), jnp.ones(6, bool)
  variables, _ = jax.jit(lambda k: ju.train(lm, {"x": x}, mask, k, fit))(key)
  scores = jax.jit(lambda v: token_scores(lm, v, x))(variables)
  assert (scores.is_top == scores.mask).all()


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"length": [9, 3]}, r"length in 0 .. 8, got 3 .. 9"),
    ({"prompt": [0, 1]}, "prompt >= 1, got 0"),
    ({"length": [3]}, r"tokens \[N, L\], length \[N\] and prompt \[N\]"),
    ({"tokens": np.full((2, 8), 19)}, "tokens"),
    ({"tokens": np.zeros((2, 17), int)}, "at most max_length=16 tokens"),
    ({"tokens": np.zeros((2, 8))}, "tokens of integer dtype"),
  ],
)
def test_texts_that_cannot_be_are_refused(change, message):
  fine = {"tokens": np.ones((2, 8), int), "length": [3, 8], "prompt": [1, 2]}
  made = lambda parts: Text(**{k: np.asarray(v) for k, v in parts.items()})
  check_text(made(fine), CONFIGS["llama"])
  with pytest.raises(ValueError, match=message):
    check_text(made({**fine, **change}), CONFIGS["llama"])


def test_no_text_and_no_weight_that_fits_are_refused():
  lm, variables = small_text.small("llama")
  with pytest.raises(ValueError, match="x to be a Text, got"):
    token_scores(lm, variables, jnp.zeros((2, 4), int))
  with pytest.raises(ValueError, match=r"token_weight \[2, 8\]"):
    token_nll(lm, variables, texts(2, 8, 19), jnp.ones((2, 7)))
  with pytest.raises(ValueError, match="chunk_size to be a whole number"):
    token_scores(lm, variables, texts(2, 8, 19), chunk_size=0)
