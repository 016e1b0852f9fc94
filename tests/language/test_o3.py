"""O3: adapters by row, requests in turn, and what its detector knows."""

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
from jaxunlearn.language import detector as detectors
from jaxunlearn.language import serving
from jaxunlearn.language.lora import lora
from jaxunlearn.language.o3 import _features
from jaxunlearn.language.row_adapters import nested, overlap
from jaxunlearn.models.decoder import Adapters

KEY = jax.random.key(0)
FIT = ju.Fit(optax.adam(0.01), 5, 4)


@pytest.fixture(scope="module")
def served():
  """Two requests of six rows; eight rows stay."""
  lm, variables = small_text.small("llama")
  x, other = (small_text.texts(20, 8, 19, seed=s) for s in (1, 2))
  # A request has a sentence of its own, in which one token differs by row.
  group = jnp.minimum(jnp.arange(20) // 6, 2)
  sentence = jnp.array([[1, 2, 3, 4], [7, 8, 9, 10], [13, 14, 15, 16]])[group]
  four = jnp.full(20, 4)
  tokens = x.tokens.at[:, 1:4].set(sentence[:, 1:])
  x = language.Text(tokens, jnp.full(20, 8), four)
  data = {"x": x, "alternative": other}
  masks = jnp.stack([jnp.arange(20) // 6 == i for i in range(2)])
  method = language.o3(lm, FIT, capacity=3, rank=2, orthogonality=0.1)
  first, _ = method.compiled(variables, data, masks[0], KEY)
  second, _ = method.compiled(first, data, masks[1], KEY)
  return types.SimpleNamespace(**locals())


def test_rows_weigh_their_adapters():
  """0 has the base's bits, 1 is the merged model, between is between."""
  lm, variables = small_text.small("qwen3")
  x = small_text.texts(3, 6, 19)
  part, rest = lora(rank=2).split(variables, None, None, KEY)
  part = {
    p: {"a": f["a"], "b": 0.1 * jax.random.normal(KEY, f["b"].shape)}
    for p, f in part.items()
  }
  merged = ju.Variables(lora(rank=2).join(part, rest))
  hidden = lm.embed(variables, x.tokens)
  run = jax.jit(
    lambda v, adapters: lm.blocks(v, hidden, adapters=adapters).hidden
  )
  on = Adapters(nested(part), 2.0 * jnp.array([0.0, 1.0, 0.0]))
  found, plain, full = (
    run(variables, on),
    run(variables, None),
    run(merged, None),
  )
  np.testing.assert_array_equal(
    found[jnp.array([0, 2])], plain[jnp.array([0, 2])]
  )
  chex.assert_trees_all_close(found[1], full[1], rtol=1e-4, atol=1e-4)
  assert jnp.abs(found[1] - plain[1]).max() > 1e-2
  blocks = jax.jit(lm.blocks, static_argnames="layers")
  cut = blocks(variables, hidden, adapters=on, layers=2).hidden
  wanted = blocks(variables, hidden, adapters=on).states.residual[1]
  chex.assert_trees_all_close(cut, wanted, rtol=1e-5, atol=1e-5)


def test_requests_go_round_in_one_program(served):
  s = served
  chex.assert_trees_all_equal(s.second.params, s.variables.params)
  state = s.second.model_state["o3"]
  assert state.served == 2
  assert state.detectors.member.sum(axis=1).tolist() == [6, 6, 0]
  for path, past in state.past.items():
    np.testing.assert_array_equal(past[1], state.factors[path]["a"])
    np.testing.assert_array_equal(
      past[0], s.first.model_state["o3"].past[path][0]
    )
    assert (past[2] == 0).all() and (past[0] != past[1]).any()

  @jax.jit
  def both(variables, masks):
    step = lambda v, m: (s.method(v, s.data, m, KEY)[0], None)
    return jax.lax.scan(step, variables, masks)[0]

  again = both(s.first, s.masks[1:])
  chex.assert_trees_all_close(again, s.second, rtol=1e-3, atol=1e-4)


def test_retain_rows_are_not_read(served):
  s = served
  spoilt = jax.tree.map(lambda leaf: leaf.at[6:].set(1), s.data)
  other, _ = s.method.compiled(s.variables, spoilt, s.masks[0], KEY)
  chex.assert_trees_all_equal(other, s.first)


def test_rows_that_the_detectors_do_not_know_have_the_bits_of_the_base(served):
  s = types.SimpleNamespace(**vars(served))
  model = language.o3_model(s.lm)
  # Of so few rows of so few tokens a detector knows little: where it is unsure is
  # set by hand, so that either request has three rows in ten.
  state = s.second.model_state["o3"]
  features = _features(s.lm, s.second, s.data["x"])

  def doctored(one):
    raw = detectors.layer_scores(one, features, 10.0)
    z = ((raw - one.centre[None]) / one.spread[None]).mean(axis=1)
    middle = jnp.full(2, jnp.sort(z)[5])
    return one._replace(modes=middle, width=jnp.float32(1e-6))

  known = jax.vmap(doctored)(state.detectors)
  s.second = serving.guarded_by(s.second, "o3", state._replace(detectors=known))
  on = np.asarray(jax.jit(model.bind)(s.second, s.data["x"])["o3"])
  assert ((on == 0) | (on >= 0.2)).all() and (on <= 1).all()
  look = lambda v: jax.jit(
    lambda v: language.token_scores(model, v, s.data["x"]).log_prob
  )(v)
  found, plain = look(s.second), look(serving.bare(s.second))
  np.testing.assert_array_equal(found[on == 0], plain[on == 0])
  assert (on > 0).any() and (on == 0).any()
  assert (np.abs(found - plain)[on > 0].max(axis=1) > 1e-4).any()


def test_earlier_rows_push_new_ones_aside_and_nothing_else(served):
  """Of orthogonal rows, of equal ones, of none; no weight is plain training."""
  a = np.linalg.qr(np.random.default_rng(0).standard_normal((6, 4)))[0]
  own = {"p": {"a": jnp.asarray(a[None, :, :2])}}
  past = lambda *each: {"p": jnp.asarray(np.stack(each)[:, None])}
  zero = 0 * a[:, :2]
  call = lambda p: float(overlap(own, p))
  assert call(past(a[:, 2:], zero)) < 1e-10
  np.testing.assert_allclose(call(past(a[:, :2], zero)), 2, rtol=1e-5)
  grad = jax.grad(lambda p: overlap(own, p))(past(a[:, :2]))
  assert (grad["p"] == 0).all()
  s = served
  plain = language.o3(s.lm, FIT, capacity=3, rank=2, orthogonality=0.0)
  made, _ = plain.compiled(s.variables, s.data, s.masks[0], KEY)
  # The first request has no earlier ones.
  chex.assert_trees_all_equal(made, s.first)
  one, _ = plain.compiled(s.first, s.data, s.masks[1], KEY)
  found = [
    overlap(
      v.model_state["o3"].factors,
      {p: a.at[1:].set(0) for p, a in s.second.model_state["o3"].past.items()},
    )
    for v in (s.second, one)
  ]
  assert found[0] < found[1]


def test_the_tail_is_one_in_the_middle_and_symmetric():
  modes, width = jnp.array([1.0, 2.0]), jnp.float32(0.5)
  far = jnp.array([-50.0, 60.0])
  at = lambda d: detectors.tail(jnp.asarray(d), modes, width)
  np.testing.assert_allclose(at(1.5), 1, rtol=1e-6)
  np.testing.assert_allclose(at(far), 0, atol=1e-6)
  steps = jnp.linspace(0, 3, 7)
  np.testing.assert_allclose(at(1.5 + steps), at(1.5 - steps), atol=1e-6)


def test_a_detector_knows_its_rows_and_is_a_distance_of_moments():
  rng = np.random.default_rng(0)
  near = rng.standard_normal((40, 2, 3))
  features = np.concatenate([near, 30 + near[:10]]).astype(np.float32)
  member = jnp.arange(50) < 25
  made = detectors.fit(jnp.asarray(features), member)
  found = detectors.weight(made, jnp.asarray(features))
  assert (found[:40] > 0).mean() > 0.8 and (found[40:] == 0).all()
  assert (np.asarray(detectors.weight(made, features, floor=0.0)) > 0.119).all()
  # What is nearer than its own rows are counts as one of them.
  alone = detectors.fit(jnp.asarray(features), member, similarity=0.0)
  middle = alone.mean[None]
  assert detectors.weight(alone, middle, similarity=0.0) > 0.9
  own = np.asarray(made.member)
  raw = detectors.layer_scores(made, jnp.asarray(features), 0.0)
  mean = features[own].mean(axis=0)
  cov = np.stack([np.cov(features[own, i].T, bias=True) for i in range(2)])
  eye = np.trace(cov, axis1=1, axis2=2)[:, None, None] / 3 * np.eye(3)
  rest = features - mean
  wanted = np.einsum(
    "nld,lde,nle->nl", rest, np.linalg.inv(0.9 * cov + 0.1 * eye), rest
  )
  np.testing.assert_allclose(raw, wanted / 2, rtol=1e-3)
  cosine = detectors.layer_scores(made, jnp.asarray(features), 1e6) - raw
  np.testing.assert_allclose(cosine[own], -1e6, rtol=1e-3)
  round_ = detectors.fit(jnp.asarray(features), member, shrinkage=1.0)
  raw = detectors.layer_scores(round_, jnp.asarray(features), 0.0)
  level = np.trace(cov, axis1=1, axis2=2) / 3
  np.testing.assert_allclose(raw, (rest**2).sum(-1) / (2 * level), rtol=1e-3)


def test_rows_are_scored_by_what_the_others_say():
  """In more dimensions than rows a fitted row is near itself; a new one is not."""
  rng = np.random.default_rng(1)
  features = rng.standard_normal((60, 1, 40)).astype(np.float32)
  features[40:] += 2.0
  made = detectors.fit(jnp.asarray(features), jnp.arange(60) < 20)
  on = np.asarray(detectors.weight(made, jnp.asarray(features))) > 0
  assert on[:20].all() and on[20:40].mean() > 0.8 and on[40:].mean() < 0.2


def test_padding_changes_no_feature(served):
  s = served
  model = language.o3_model(s.lm)
  wide = lambda a: jnp.pad(a, [(0, 0), (0, 3)], constant_values=5)
  x = s.data["x"]
  long = x._replace(tokens=wide(x.tokens))
  one, other = (jax.jit(model.bind)(s.second, t)["o3"] for t in (x, long))
  np.testing.assert_allclose(one, other, atol=1e-3)


def test_what_cannot_be_is_refused(served):
  s = served
  call = lambda m, v=s.variables, d=s.data: s.method(v, d, m, KEY)
  refused("two rows or more, got 1", call, jnp.arange(20) == 0)
  refused("two rows or more, got 0", call, jnp.zeros(20, bool))
  refused("'alternative'", call, s.masks[0], d={"x": s.data["x"]})
  state = s.second.model_state["o3"]._replace(served=jnp.int32(3))
  full = serving.guarded_by(s.variables, "o3", state)
  refused("capacity=3 requests", call, s.masks[0], full)
  refused("orthogonality >= 0", language.o3, s.lm, FIT, orthogonality=-1.0)
