"""GUARD: phrases are never said, near ones cost, and other rows keep their bits."""

import itertools
import types

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import small_text
from refusals import refused

import jaxunlearn as ju
from jaxunlearn import language
from jaxunlearn.language import phrases, serving
from jaxunlearn.language.automaton import avoid, both, forbid
from jaxunlearn.language.generation import generate
from jaxunlearn.language.guard import search
from jaxunlearn.language.types import bound

KEY = jax.random.key(0)
FIT = ju.Fit(optax.adam(0.05), 60, 3)
STOP = 18


@pytest.fixture(scope="module")
def served():
  """What rows 0 .. 2 would say is forbidden to them; they ask with token 1."""
  lm, variables = small_text.small("llama")
  x = small_text.texts(8, 6, 17, seed=3)
  tokens = jnp.where(x.tokens == 1, 2, x.tokens).at[:3, 0].set(1)
  x = language.Text(tokens, jnp.full(8, 6), jnp.array([3, 4, 3, 4, 3, 2, 4, 3]))
  say = jax.jit(lambda v: generate(lm, v, x, KEY, max_new=5, stop=STOP))
  free = say(variables)
  forbidden = jnp.full((8, 2, 3), -1)
  forbidden = forbidden.at[:, 0, :1].set(free.tokens[:, 1:2])
  forbidden = forbidden.at[:, 1, :2].set(free.tokens[:, 3:5])
  method = language.guard(lm, FIT, penalty=3.0, similarity=0.9)
  data = {"x": x, "phrases": forbidden}
  made, info = method.compiled(variables, data, jnp.arange(8) < 3, KEY)
  model = language.guard_model(lm, stop=STOP)
  return types.SimpleNamespace(**locals())


def has(row, phrase):
  row, phrase = row.tolist(), [t for t in phrase.tolist() if t >= 0]
  size = len(phrase)
  return any(row[i : i + size] == phrase for i in range(len(row) - size + 1))


def test_flagged_rows_do_not_say_their_phrases_and_others_keep_their_bits(
  served,
):
  s = served
  assert s.info["flagged"] == {"forget": 1.0, "retain": 0.0}
  chex.assert_trees_all_equal(s.made.params, s.variables.params)
  kept = s.made.model_state["guard"].phrases
  assert (kept[3:] == -1).all()  # Of rows that were not asked for nothing.
  rows = jax.jit(lambda v: bound(s.model, v, s.x))(s.made)
  rows = rows.model_state["rows"]["guard"]
  np.testing.assert_array_equal(rows["phrases"][:3], s.forbidden[:3])
  say = jax.jit(
    lambda v, beams: search(
      s.model, v, s.x, KEY, max_new=5, stop=STOP, beams=beams
    ),
    static_argnums=1,
  )
  for beams in (1, 3):
    said = say(s.made, beams)
    for row in range(3):
      assert has(s.free.tokens[row], s.forbidden[row, 0])
      assert not any(has(said.tokens[row], p) for p in s.forbidden[row])
    np.testing.assert_array_equal(said.tokens[3:], s.free.tokens[3:])
    np.testing.assert_array_equal(said.log_prob[3:], s.free.log_prob[3:])


def test_likelihoods_are_of_what_is_left(served):
  """They add up to one; of other rows they have the bits of the bare model."""
  s = served
  look = jax.jit(
    lambda lm, v, x: language.token_scores(lm, v, x).log_prob, static_argnums=0
  )
  every = jnp.arange(19)
  prompt = int(s.x.prompt[0])
  texts = jnp.broadcast_to(s.x.tokens[:1], (19, 6)).at[:, prompt].set(every)
  ones = jnp.ones(19, jnp.int32)
  x = language.Text(texts, ones * (prompt + 1), ones * prompt)
  log_p = look(s.model, s.made, x)[:, prompt - 1]
  np.testing.assert_allclose(jnp.exp(log_p).sum(), 1, rtol=1e-5)
  word = int(s.forbidden[0, 0, 0])
  np.testing.assert_allclose(log_p[word], np.log(1e-12), rtol=1e-6)
  plain, ours = look(s.lm, s.variables, s.x), look(s.model, s.made, s.x)
  np.testing.assert_array_equal(ours[3:], plain[3:])
  assert (ours[:3] != plain[:3]).any()


def test_flags_are_arrays_so_one_program_serves_all_prompts(served):
  """Also other guards of the same structure, and prompts in another order."""
  s, traces = served, []

  @jax.jit
  def look(variables, x):
    traces.append(1)
    return language.token_scores(s.model, variables, x).log_prob

  said = look(s.made, s.x)
  order = jnp.arange(7, -1, -1)
  turned = look(s.made, jax.tree.map(lambda leaf: leaf[order], s.x))
  np.testing.assert_array_equal(turned[order], said)
  state = s.made.model_state["guard"]._replace(threshold=jnp.float32(1))
  silent = look(serving.guarded_by(s.variables, "guard", state), s.x)
  plain = jax.jit(lambda v: language.token_scores(s.lm, v, s.x).log_prob)
  np.testing.assert_array_equal(silent, plain(s.variables))
  assert len(traces) == 1


def _exhaustive(lm, variables, x, guide):
  """The likeliest three tokens of three under a guide."""
  best, start = -np.inf, [int(t) for t in x.tokens[0, : int(x.prompt[0])]]
  for words in itertools.product(range(3), repeat=3):
    state, total, text = guide.start(1), 0.0, list(start)
    for word in words:
      hidden = lm.embed(variables, jnp.array([text]))
      logits = lm.logits(variables, lm.blocks(variables, hidden).hidden[:, -1])
      total += (jax.nn.log_softmax(logits) + guide.scores(state))[0, word]
      state = guide.step(state, jnp.array([word]))
      text.append(word)
    if total > best:
      best, said = total, words
  return best, said


@pytest.mark.slow
def test_wide_beams_are_an_exhaustive_search_of_the_penalised_cost():
  config = language.DecoderConfig(
    3, width=8, num_layers=1, num_heads=2, mlp_width=8, max_length=12
  )
  lm = language.language_model(config)
  variables = small_text.filled(lm, seed=2)
  x = language.Text(*(jnp.array(a, jnp.int32) for a in ([[0, 1]], [2], [2])))
  vectors = phrases.token_vectors(lm, variables)
  words = jnp.array([[0, 1, -1], [2, -1, -1]])
  near = avoid(words[:1], vectors, penalty=0.7, similarity=0.3, span=2)
  guide = both(forbid(words, 3), near)
  said = generate(lm, variables, x, KEY, max_new=3, beams=27, guide=guide)
  total, wanted = _exhaustive(lm, variables, x, guide)
  np.testing.assert_allclose(said.log_prob[0], total, rtol=1e-5)
  assert said.tokens[0].tolist() == list(wanted)


def test_where_all_is_forbidden_the_text_ends(served):
  s = served
  every = jnp.arange(19)[:, None]
  guide = both(forbid(every, 19), forbid(every, 19), jnp.array([STOP]))
  say = lambda v: generate(s.lm, v, s.x, KEY, max_new=3, stop=STOP, guide=guide)
  said = jax.jit(say)(s.variables)
  assert (said.length == 0).all() and jnp.isfinite(said.log_prob).all()


def test_what_is_near_a_phrase_costs_by_its_cosine():
  rng = np.random.default_rng(0)
  vectors = rng.standard_normal((7, 4)).astype(np.float32)
  vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
  words = np.array([[1, 4, -1], [2, -1, -1]])
  call = lambda penalty, similarity: avoid(
    jnp.asarray(words),
    jnp.asarray(vectors),
    penalty=penalty,
    similarity=similarity,
    span=2,
  )
  guide = call(2.5, 0.4)
  state = guide.step(guide.start(1), jnp.array([3]))
  means = vectors[3] + vectors
  wanted = np.zeros(7)
  for phrase in words:
    target = vectors[phrase[phrase >= 0]].sum(axis=0)
    cosine = means @ target / np.linalg.norm(means, axis=1)
    wanted[cosine / np.linalg.norm(target) > 0.4] = -2.5
  assert 0 < (wanted < 0).sum() < 7
  np.testing.assert_allclose(guide.scores(state)[0], wanted)
  banned = call(jnp.inf, 0.4).scores(state)[0]
  np.testing.assert_array_equal(jnp.isinf(banned), wanted < 0)
  assert (call(2.5, 1.01).scores(state) == 0).all()
  # A phrase of padding alone is near nothing.
  none = avoid(words[1:] * 0 - 1, vectors, penalty=1.0, similarity=-1.0)
  assert (none.scores(none.start(1)) == 0).all()


def test_telling_words_are_names_and_numbers_that_were_not_asked_for():
  pytest.importorskip("tokenizers")
  from jaxunlearn.language.rows import train_bpe

  texts = ["Who is Ann?", "Ann, born in 1956 in Oslo, is the best. The end."]
  tokenizer = train_bpe(texts, 300)
  found = phrases.telling(tokenizer, texts[:1], texts[1:], num=6, size=8)
  words = [tokenizer.decode(row[row >= 0].tolist()) for row in found[0]]
  assert words == [" 1956", "1956", " Oslo", "Oslo", "", ""]
  refused("answer for each", phrases.telling, tokenizer, texts, texts[:1])


def test_what_cannot_be_is_refused(served):
  lm = served.lm
  refused("penalty >= 0", language.guard, lm, FIT, penalty=-1.0)
  refused(r"threshold in \[0, 1\]", language.guard, lm, FIT, threshold=2.0)
  refused("index to be one of", language.guard, lm, FIT, index="title")
  refused("stop", language.guard_model, lm, stop=19)
  method = language.guard(lm, FIT)
  data = {"x": served.x}
  refused("'phrases'", method, served.variables, data, jnp.arange(8) < 3, KEY)
  assert serving.bare(served.made).model_state == {}
