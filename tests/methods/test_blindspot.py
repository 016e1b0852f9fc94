import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from closeness import change
from golden.table import load

import jaxunlearn as ju
from jaxunlearn.adapters.flax import from_linen
from jaxunlearn.core.training import train
from jaxunlearn.losses.attention import attention_map
from jaxunlearn.losses.regression import on_targets
from jaxunlearn.methods.blindspot import blindspot, blindspot_loss
from jaxunlearn.methods.gaussian_amnesiac import gaussian_amnesiac
from jaxunlearn.models.mlp import MLP

KEY = jax.random.key(0)
N = 48
FIT = ju.Fit(optax.adam(1e-3), 5, 16)
FEW = ju.Fit(optax.adam(0.01), 4, 16)


def regression_data(seed=0):
  rng = np.random.default_rng(seed)
  x = rng.normal(size=(N, 4)).astype(np.float32)
  label = 10 * x[:, 0] + 3 * x[:, 1] ** 2
  return {"x": jnp.asarray(x), "label": jnp.asarray(label)}


def network(**options):
  module = MLP(num_classes=1, hidden=(8, 8), **options)
  return from_linen(module, loss=on_targets("l1"))


MODEL, ROWS = network(), regression_data()
MASK = ju.requests.value_range(ROWS["label"], high=0.0)


@functools.cache
def original():
  fit = lambda key: train(
    MODEL,
    ROWS,
    jnp.ones(N, bool),
    key,
    optimizer=optax.adam(0.01),
    num_steps=40,
    batch_size=16,
  )
  return jax.jit(fit)(KEY)[0]


LAYERS = ("hidden0", "hidden1")
SMALL = blindspot(  # Compiled once for all tests.
  MODEL, FIT, blind_fit=FEW, attention=5.0, attention_features=LAYERS
)


def run(method, mask=MASK, data=ROWS, variables=None, key=KEY):
  variables = original() if variables is None else variables
  call = method.compiled if hasattr(method, "compiled") else jax.jit(method)
  return call(variables, data, mask, key)


@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_the_mean_over_rows_is_the_three_weighted_terms(share):
  rng = np.random.default_rng(3)
  forget = rng.random(20) < share
  o, b, y = rng.normal(size=(3, 20))
  maps, other = rng.random((2, 20, 6))
  c = forget.mean()
  mean = lambda v, rows: v[rows].mean() if rows.any() else 0.0
  distance = ((maps - other) ** 2).mean(axis=1)
  want = c * (mean(np.abs(o - b), forget) + 50 * mean(distance, forget)) + (
    1 - c
  ) * mean(np.abs(o - y), ~forget)
  found = blindspot_loss(
    jnp.asarray(o, jnp.float32),
    jnp.asarray(b, jnp.float32),
    jnp.asarray(np.abs(o - y), jnp.float32),
    jnp.asarray(forget),
    {"layer": jnp.asarray(maps, jnp.float32)},
    {"layer": jnp.asarray(other, jnp.float32)},
    attention=50.0,
  ).mean()
  np.testing.assert_allclose(found, want, rtol=1e-5)


def test_retain_rows_read_nothing_of_the_blindspot_model():
  forget, task = jnp.array([True, False]), jnp.array([jnp.nan, 7.0])
  maps = jnp.ones((2, 3))

  def total(outputs, maps):
    bad = jnp.where(forget, 1.0, jnp.nan)
    losses = blindspot_loss(
      *(outputs, bad, task, forget),
      *({"a": maps}, {"a": jnp.stack([bad] * 3, axis=1)}),
      attention=2.0,
    )
    return losses.sum()

  value, slopes = jax.value_and_grad(total, (0, 1))(jnp.array([3.0, 5.0]), maps)
  assert value == 2 + 7
  np.testing.assert_array_equal(slopes[0], [1, 0])
  np.testing.assert_array_equal(slopes[1], np.zeros((2, 3)))


def test_a_vector_averaged_over_its_units_would_count_for_nothing():
  act = jnp.asarray(
    load("deep_regression__blindspot_step_lstm_mse_mixed")["model_act2"]
  )
  np.testing.assert_allclose(attention_map(act[:, None]), 1.0, rtol=1e-6)
  # The rule for vectors, a position a unit, tells examples apart.
  assert attention_map(act).std(axis=0).max() > 0.05


def test_targets_of_forget_rows_are_not_read():
  spoilt = {**ROWS, "label": jnp.where(MASK, jnp.nan, ROWS["label"])}
  for mask, data in ((MASK, spoilt), (jnp.ones(N, bool), None)):
    data = {**ROWS, "label": ROWS["label"] * jnp.nan} if data is None else data
    out, info = run(SMALL, mask, data)
    want, _ = run(SMALL, mask)
    assert info["unlearn"].is_finite
    chex.assert_trees_all_equal(out, want)


def test_the_blindspot_model_has_never_seen_the_forget_set():
  blind_key = jax.random.split(KEY, 3)
  far = {**ROWS, "x": jnp.where(MASK[:, None], 50.0, ROWS["x"])}
  _, info = run(SMALL)
  _, other = run(SMALL, data=far)
  # Other forget rows, the same training of the blindspot model.
  chex.assert_trees_all_equal(info["blind"].loss, other["blind"].loss)
  fresh = MODEL.init(blind_key[0], ROWS["x"][:1])
  fit = ju.phase(
    ju.supervised(MODEL, train=True),
    optax.adam(0.01),
    4,
    draw=ju.Draw(retain=16),
  )
  _, want = run(fit, variables=fresh, key=blind_key[1])
  chex.assert_trees_all_close(info["blind"].loss, want.loss, rtol=1e-6)


@pytest.mark.slow
def test_the_student_comes_to_say_what_the_blindspot_model_says():
  blind = MODEL.init(jax.random.key(5), ROWS["x"][:1])
  method = blindspot(
    MODEL, blind=blind, attention=0.0, fit=ju.Fit(optax.adam(0.01), 400, N)
  )
  out, _ = run(method)
  predict = lambda v: MODEL.predict(v, ROWS["x"])[:, 0]
  gap = lambda v: jnp.abs(predict(v) - predict(blind))[MASK].mean()
  error = lambda v: jnp.abs(predict(v) - ROWS["label"])[~MASK].mean()
  assert gap(out) < 0.4 * gap(original())
  assert error(out) < 1.2 * error(original())


@pytest.mark.slow
def test_attention_moves_the_student_and_zero_reads_no_features():
  bare = MODEL._replace(features=None)
  options = {"fit": FIT, "blind_fit": FEW}
  out, _ = run(blindspot(bare, attention=0.0, **options))
  same, _ = run(blindspot(MODEL, attention=0.0, **options))
  more, _ = run(blindspot(MODEL, attention=500.0, **options))
  chex.assert_trees_all_equal(out, same)
  assert change(out, more) > 1e-4


def test_a_weight_mask_holds_the_student_and_not_the_blindspot_model():
  mask = jax.tree.map(lambda p: jnp.zeros((), bool), original().params)
  mask["Dense_2"] = jax.tree.map(lambda p: True, original().params["Dense_2"])
  out, info = run(ju.masked(SMALL, mask))
  _, free = run(SMALL)
  chex.assert_trees_all_equal(
    out.params["Dense_0"], original().params["Dense_0"]
  )
  assert (
    jnp.abs(
      out.params["Dense_2"]["kernel"] - original().params["Dense_2"]["kernel"]
    ).max()
    > 1e-5
  )
  chex.assert_trees_all_equal(info["blind"].loss, free["blind"].loss)


def test_without_spread_forget_rows_are_regressed_to_the_mean():
  """One full-batch step of plain descent on targets that are known."""
  mean = 7.0
  fit = ju.Fit(optax.sgd(0.01), 3, N)
  out, _ = run(gaussian_amnesiac(MODEL, fit, mean=mean, std=0.0))
  known = {**ROWS, "label": jnp.where(MASK, mean, ROWS["label"])}
  # The same rows in another order, all of them at every step.
  want, _ = run(
    ju.phase(
      ju.supervised(MODEL, train=True),
      optax.sgd(0.01),
      3,
      draw=ju.Draw(mixed=N),
    ),
    data=known,
  )
  chex.assert_trees_all_close(out, want, atol=1e-5)
  # With both moments given, not even these targets are read.
  spoilt = {**ROWS, "label": jnp.where(MASK, jnp.nan, ROWS["label"])}
  same, _ = run(gaussian_amnesiac(MODEL, fit, mean=mean, std=0.0), data=spoilt)
  chex.assert_trees_all_equal(out, same)


@pytest.mark.slow
def test_targets_are_drawn_once_and_have_the_moments():
  seen = []

  def spy(outputs, rows):
    jax.debug.callback(
      lambda x, y: seen.append((np.asarray(x), np.asarray(y))),
      rows["x"][:, 0],
      rows["label"],
    )
    return on_targets("l1")(outputs, rows)

  method = gaussian_amnesiac(
    MODEL._replace(loss=spy), num_steps=2, batch_size=N
  )
  run(method, jnp.ones(N, bool))
  jax.effects_barrier()
  # Two epochs of all rows, in other orders: each row has one target.
  tables = [dict(zip(x.tolist(), y.tolist())) for x, y in seen[:2]]
  assert len(tables[0]) == N and tables[0] == tables[1]
  drawn = np.array(list(tables[0].values()))
  label = np.asarray(ROWS["label"], np.float64)
  error = label.std(ddof=1) / np.sqrt(N)
  assert abs(drawn.mean() - label.mean()) < 5 * error
  assert abs(drawn.std() - label.std()) < 5 * error
  assert not np.isin(drawn, label.astype(np.float32)).any()


def test_layers_that_are_not_there_are_refused():
  with pytest.raises(ValueError, match="attention_features among"):
    run(blindspot(MODEL, FIT, attention_features=("nowhere",)))
