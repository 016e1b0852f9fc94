"""ECO: what is corrupted, what keeps its bits, and how a strength is found."""

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
from jaxunlearn.language import corruption, gate, serving
from jaxunlearn.language.generation import generate
from jaxunlearn.language.types import bound

KEY = jax.random.key(0)
FIT = ju.Fit(optax.adam(0.05), 60, 4)


@pytest.fixture(scope="module")
def served():
  """Rows 0 .. 3 ask with token 1, which no other prompt has."""
  lm, variables = small_text.small("llama")
  x = small_text.texts(10, 8, 17, seed=3)
  prompt = jnp.array([3, 2, 4, 3, 3, 2, 3, 4, 2, 3])
  tokens = jnp.where(x.tokens == 1, 2, x.tokens).at[:4, 0].set(1)
  x = language.Text(tokens, jnp.full(10, 8), prompt)
  mask = jnp.arange(10) < 4
  method = language.eco(lm, FIT, threshold=0.5)
  made, info = method.compiled(variables, {"x": x}, mask, KEY)
  return lm, variables, x, made, info


def test_the_gate_learns_and_the_weights_keep_their_bits(served):
  _, variables, _, made, info = served
  assert info["flagged"] == {"forget": 1.0, "retain": 0.0}
  chex.assert_trees_all_equal(made.params, variables.params)
  assert serving.bare(made).model_state == {}


def test_rows_without_a_flag_have_the_bits_of_the_bare_model(served):
  lm, variables, x, made, _ = served
  model = language.eco_model(lm)
  traces = []

  @jax.jit
  def look(variables, x):
    traces.append(1)
    return language.token_scores(model, variables, x).log_prob

  plain = jax.jit(lambda v: language.token_scores(lm, v, x).log_prob)(variables)
  said = look(made, x)
  np.testing.assert_array_equal(said[4:], plain[4:])
  # What comes before the first corrupted token, and the last of the prompt.
  assert (np.abs(said[:4] - plain[:4]).max(axis=1) > 1e-3).all()
  order = jnp.arange(9, -1, -1)
  turned = look(made, jax.tree.map(lambda leaf: leaf[order], x))
  np.testing.assert_array_equal(turned[order], said)
  assert len(traces) == 1
  logits = jax.jit(model.model.predict)(made, x)
  bare = jax.jit(lm.model.predict)(variables, x)
  chex.assert_trees_all_close(logits[4:], bare[4:], rtol=1e-6)
  without = look(variables, x)  # Another structure, one more program.
  np.testing.assert_array_equal(without, plain)
  for silent in (
    made.model_state["eco"]._replace(dims=jnp.int32(0)),
    made.model_state["eco"]._replace(threshold=jnp.float32(1)),
  ):
    nothing = serving.guarded_by(variables, "eco", silent)
    np.testing.assert_array_equal(look(nothing, x), plain)


@pytest.mark.parametrize("beams", [1, 2])
def test_generation_is_recomputation_with_the_same_corrupted_prompt(
  served, beams
):
  lm, _, x, made, _ = served
  model = language.eco_model(lm)
  say = lambda v: generate(model, v, x, KEY, max_new=3, beams=beams)
  said = jax.jit(say)(made)
  rows = jax.jit(lambda v: bound(model, v, x))(made)
  for row in (0, 5):
    p = int(x.prompt[row])
    text = jnp.concatenate([x.tokens[row, :p], said.tokens[row]])[None]
    hidden = lm.embed(made, text)
    if row == 0:
      assert rows.model_state["rows"]["eco"]["places"][0].sum() == p - 1
      hidden = hidden.at[:, : p - 1].set(0)
    look = lambda v, h: jax.nn.log_softmax(lm.logits(v, lm.blocks(v, h).hidden))
    log_p = jax.jit(look)(made, hidden)[0, p - 1 : p + 2]
    total = log_p[jnp.arange(3), said.tokens[row]].sum()
    np.testing.assert_allclose(said.log_prob[row], total, rtol=1e-4)
    if beams == 1:
      np.testing.assert_array_equal(log_p.argmax(axis=1), said.tokens[row])


def test_corruptions_change_what_they_say():
  e = jax.random.normal(KEY, (2, 3, 8))
  corrupt = jax.jit(corruption.corrupt, static_argnames=("change", "entries"))
  call = lambda dims, change, entries, strength=0.5: corrupt(
    e, dims, strength, KEY, change=change, entries=entries
  )
  top = np.argsort(-np.abs(e), axis=-1)[..., :3]
  for change in corruption.CHANGES:
    for entries in corruption.ENTRIES:
      new = call(3, change, entries)
      moved = new != e
      assert (moved.sum(axis=-1) == 3).all()
      wanted = {"top": top, "first": np.arange(3)}.get(entries)
      if wanted is not None:
        assert np.take_along_axis(moved, wanted + 0 * top, axis=-1).all()
      np.testing.assert_array_equal(call(0, change, entries), e)
  np.testing.assert_array_equal(call(8, "zero", "top"), 0 * e)
  np.testing.assert_array_equal(call(8, "noise", "top", 0.0), e)
  norms = [jnp.linalg.norm(call(k, "zero", "top")) for k in range(9)]
  assert (np.diff(norms) <= 0).all()
  flipped = call(3, "flip", "top")
  back = corruption.corrupt(flipped, 3, 1.0, KEY, change="flip")
  np.testing.assert_array_equal(back, e)


def test_what_stands_before_a_corrupted_token_keeps_its_bits(served):
  """A name in the middle of a prompt; states before it are of the bare model."""
  lm, variables, x, made, _ = served
  names = jnp.zeros(lm.config.vocab_size, bool).at[7].set(True)
  tokens = jnp.where(x.tokens == 7, 8, x.tokens).at[0, 1].set(7)
  x = x._replace(tokens=tokens)
  state = made.model_state["eco"]._replace(names=names)
  model = language.eco_model(lm)

  @jax.jit
  def hidden(v, x):
    of_rows = bound(model, v, x)
    return model.blocks(of_rows, model.embed(of_rows, x.tokens)).hidden

  plain = hidden(
    serving.guarded_by(
      variables, "eco", state._replace(threshold=jnp.float32(1))
    ),
    x,
  )
  found = hidden(
    serving.guarded_by(
      variables, "eco", state._replace(threshold=jnp.float32(0))
    ),
    x,
  )
  np.testing.assert_array_equal(found[0, 0], plain[0, 0])
  assert (np.abs(found[0, 1:] - plain[0, 1:]).max(axis=1) > 1e-4).all()


def test_names_are_corrupted_where_the_prompt_has_one():
  x = language.Text(
    jnp.array([[5, 7, 2, 7], [1, 2, 3, 7]]),
    jnp.array([4, 3]),
    jnp.array([3, 2]),
  )
  names = jnp.arange(9) == 7
  found = corruption.corrupted_places(x, names)
  assert found.tolist() == [
    [False, True, False, True],
    [True, False, False, False],
  ]


def test_the_search_follows_central_differences_and_stops():
  score = lambda s: (s - 2.0) ** 2
  call = lambda **more: corruption.zeroth_order(
    score, 3.0, rate=0.1, epsilon=0.5, num_steps=2, **more
  )
  strength, seen = call()
  np.testing.assert_allclose(strength, 2 + 0.8**2, rtol=1e-6)
  np.testing.assert_allclose(seen, [1.0, 0.64], rtol=1e-6)
  assert call(stop=2.0)[0] == 3.0
  assert corruption.zeroth_order(score, 3.0, num_steps=0)[0] == 3.0
  low, _ = corruption.zeroth_order(lambda s: s, 1.0, rate=5.0, num_steps=3)
  np.testing.assert_allclose(low, 0.1)


def test_a_threshold_is_chosen_for_a_share_of_false_alarms():
  """Over many draws, new prompts are above it as often as was asked for."""
  rng, alarms = np.random.default_rng(0), []
  for _ in range(200):
    p = jnp.asarray(rng.random(39), jnp.float32)
    alarms.append((rng.random(200) > gate.calibrated(p, 0.1)).mean())
  np.testing.assert_allclose(np.mean(alarms), 0.1, atol=0.01)
  assert gate.calibrated(jnp.zeros(5), 0.1) == 1
  assert gate.calibrated(jnp.arange(5.0) / 5, 1.0) == 0
  refused("prompts", gate.calibrated, jnp.zeros(0), 0.1)
  refused(r"false_alarms in \[0, 1\]", gate.calibrated, jnp.zeros(5), 1.5)


def test_both_kinds_of_prompts_count_the_same(served):
  """With as many of either, twice the plain cross-entropy."""
  lm, variables, x, _, _ = served
  slots = gate.slots()
  method = gate.learn(
    lm, ju.Fit(optax.sgd(0.0), 1, ju.ALL), *slots, layer=1, width=3
  )
  request = ju.Request(jnp.arange(10) < 4, jnp.arange(10) >= 6)
  _, info = method.compiled(variables, {"x": x}, request, KEY)
  # The gate itself is in a slot: run the links once more to have it.
  from jaxunlearn.core.transform import Carry, Env

  @jax.jit
  def logit(variables):
    start = Carry(variables, variables, {})
    carry, _ = method.run(start, {"x": x}, request, KEY, Env())
    return gate.logit(carry[slots[0]], carry[slots[1]])

  logit = np.asarray(logit(variables), np.float64)
  wanted = (
    np.log1p(np.exp(-logit[:4])).sum() + np.log1p(np.exp(logit[6:])).sum()
  )
  np.testing.assert_allclose(info["gate"].loss[0], 2 * wanted / 8, rtol=1e-5)


def test_padding_is_not_pooled(served):
  lm, variables, x, _, _ = served
  wide = jax.tree.map(
    lambda a: jnp.pad(
      a, [(0, 0), (0, 3)][: a.ndim] if a.ndim > 1 else [(0, 0)]
    ),
    x,
  )
  for layer in (0, 2):
    one, other = (
      jax.jit(lambda t, layer=layer: gate.pooled(lm, variables, t, layer))(t)
      for t in (x, wide)
    )
    chex.assert_trees_all_close(one, other, rtol=1e-5, atol=1e-6)


def test_what_cannot_be_is_refused(served):
  lm, variables, x, _, _ = served
  refused("dims <= 8, got", language.eco, lm, FIT, dims=9)
  refused("strength >= 0", language.eco, lm, FIT, strength=-1.0)
  refused(r"threshold in \[0, 1\]", language.eco, lm, FIT, threshold=1.5)
  refused("change to be one of", language.eco_model, lm, change="ones")
  refused("entries to be one of", language.eco_model, lm, entries="last")
  refused("layer <= 3, got 4", gate.pooled, lm, variables, x, 4)
  empty = x._replace(prompt=jnp.zeros(10, jnp.int32))
  refused("prompt of a token or more", gate.pooled, lm, variables, empty)
  learn = language.eco(lm, FIT)
  for count, kind in ((0, "forget"), (10, "retain")):
    mask = jnp.arange(10) < count
    message = f"request.{kind} to select rows, got none of 10"
    refused(message, learn, variables, {"x": x}, mask, jax.random.key(0))
