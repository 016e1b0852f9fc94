import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import problems
import pytest

import jaxunlearn as ju
from jaxunlearn import metrics
from jaxunlearn.valuation import datamodels

KEY = jax.random.key(0)
FIT = ju.Fit(optax.adam(0.01), 5, 16)
RNG = np.random.default_rng(0)


def run(transform, mask, data=None):
  _, own, variables = problems.trained()
  data = own if data is None else data
  return jax.jit(transform)(variables, data, mask, KEY)


def test_direct_takes_weights_away():
  outputs = jnp.asarray(RNG.normal(size=(7, 3)))
  weights = jnp.asarray(RNG.normal(size=(5, 7, 3)))
  first, second = jnp.arange(5) < 2, jnp.arange(5) == 3
  direct = lambda mask, c=1.0: ju.methods.dm_direct(outputs, weights, mask, c)
  want = np.asarray(outputs) - 2 * np.asarray(weights)[:2].sum(0)
  np.testing.assert_allclose(direct(first, 2.0), want, rtol=1e-5, atol=1e-6)
  np.testing.assert_array_equal(direct(first, 0.0), outputs)
  np.testing.assert_array_equal(direct(first & second), outputs)
  both = direct(first) + direct(second) - outputs
  np.testing.assert_allclose(direct(first | second), both, atol=1e-5)


def test_linear_outputs_are_predicted_exactly():
  """Outputs that are linear in the subset are what a ridge recovers."""
  masks = datamodels.subset_masks(
    KEY, num_masks=40, num_rows=12, fixed_size=False
  )
  weights, bias = RNG.normal(size=(12, 3, 2)), RNG.normal(size=(3, 2))
  of = lambda m: np.einsum("mn,nec->mec", np.asarray(m, float), weights) + bias
  fitted = datamodels.fit_ridge(
    masks, jnp.asarray(of(masks).reshape(40, 6), jnp.float32), l2=1e-4
  )
  gone = np.arange(12) < 4
  found = ju.methods.dm_direct(
    jnp.asarray(of(np.ones((1, 12)))[0], jnp.float32),
    fitted.weights.reshape(12, 3, 2),
    jnp.asarray(gone),
  )
  np.testing.assert_allclose(found, of(~gone[None])[0], atol=1e-3)


def test_own_outputs_as_targets_move_nothing():
  model, data, variables = problems.trained()
  mask = data["label"] == 1
  nothing = jnp.zeros((60, 60, 4))
  out, info = run(
    ju.methods.dmm(model, nothing, FIT._replace(optimizer=optax.sgd(1.0))), mask
  )
  chex.assert_trees_all_close(out, variables, atol=1e-5)
  assert jnp.abs(info["match"].loss).max() < 1e-9
  own = model.predict(variables, data["x"])
  matched, _ = run(
    ju.methods.oracle_matching(
      model, own, FIT._replace(optimizer=optax.sgd(1.0))
    ),
    mask,
  )
  chex.assert_trees_all_close(matched, variables, atol=1e-5)


def test_labels_are_not_read_and_targets_are_met():
  model, data, _ = problems.trained()
  mask = jnp.arange(60) < 6
  _, _, other = problems.trained(seed=1)
  goal = model.predict(other, data["x"])
  method = ju.methods.oracle_matching(
    model, goal, FIT._replace(num_steps=150), retain_copies=5
  )
  one, info = run(method, mask)
  two, _ = run(method, mask, {**data, "label": data["label"] * 0 + 99})
  chex.assert_trees_all_equal(one, two)
  loss = info["match"].loss
  assert loss[-10:].mean() < 0.3 * loss[0]
  # Six forget rows and thirty others at most.
  assert info["match"].forget_count == 6
  assert info["match"].retain_count == 30


def test_an_anchor_holds():
  model, data, variables = problems.trained()
  goal = model.predict(variables, data["x"]) + 1.0
  step = FIT._replace(optimizer=optax.sgd(1e-3), num_steps=1)
  far = jax.tree.map(lambda p: p + 1.0, variables)

  def moved(anchor):
    method = ju.methods.oracle_matching(model, goal, step, anchor=anchor)
    # The anchor is the outermost original, and pulls once something moved.
    twice = ju.chain(ju.edit(lambda *_: far, reads="nothing"), method)
    return run(twice, data["label"] == 1)[0]

  change = jax.tree.map(lambda a, b: a - b, moved(3.0), moved(0.0))
  want = jax.tree.map(lambda p: jnp.full_like(p, -1e-3 * 3.0 * 2), variables)
  chex.assert_trees_all_close(change, want, atol=1e-5)


@pytest.mark.slow
def test_matching_brings_the_distribution_near_that_of_retraining():
  """Everything by training under masks: originals, oracles, datamodels."""
  model, data = problems.mlp(), problems.blobs()
  label = data["label"]
  # Two rows with another class's label: only they can teach it.
  gone = jnp.isin(jnp.arange(60), jnp.array([0, 4, 8]))
  data = {**data, "label": jnp.where(gone, 3, label)}
  fit = ju.Fit(optax.adam(0.02), 150, 16)
  many, fitted = 24, 400

  @jax.jit
  def models(masks, key):
    keys = jax.random.split(key, len(masks))
    return ju.train_many(model, data, masks, keys, fit)[0]

  outputs = jax.vmap(lambda v: model.predict(v, data["x"]))
  keys = jax.random.split(KEY, 5)
  ones = jnp.ones((many, 60), bool)
  originals, oracles = (
    models(ones, keys[0]),
    models(ones & ~gone[None], keys[1]),
  )
  teachers = models(ones[:8] & ~gone[None], keys[2])
  masks = datamodels.subset_masks(
    keys[3], num_masks=fitted, num_rows=60, fixed_size=False
  )
  found = outputs(models(masks, keys[4]))
  weights = datamodels.fit_ridge(masks, found.reshape(fitted, -1), l2=20.0)
  attribution = weights.weights.reshape(60, 60, 4)

  step = ju.Fit(optax.adam(5e-3), 150, 32)
  methods = {
    "dmm": ju.methods.dmm(model, attribution, step),
    "om": ju.methods.oracle_matching(model, outputs(teachers).mean(0), step),
  }
  margin = lambda v: jax.vmap(
    lambda z: metrics.logit_confidence(z, data["label"])
  )(outputs(v))
  gap = lambda v: float(metrics.klom(margin(v), margin(oracles))[gone].mean())
  lanes = jax.random.split(jax.random.key(9), many)
  scores = {
    name: gap(
      jax.jit(jax.vmap(lambda v, k, m=m: m(v, data, gone, k)[0]))(
        originals, lanes
      )
    )
    for name, m in methods.items()
  }
  assert scores["om"] < 0.5 * gap(originals), (scores, gap(originals))
  assert scores["dmm"] < 0.7 * gap(originals), (scores, gap(originals))


def test_bad_input():
  model, data, _ = problems.trained()
  mask = data["label"] == 1
  with pytest.raises(ValueError, match="Expected attribution "):
    run(ju.methods.dmm(model, jnp.zeros((60, 59, 4)), FIT), mask)
  with pytest.raises(ValueError, match="Expected targets of 60 rows"):
    run(ju.methods.oracle_matching(model, jnp.zeros((59, 4)), FIT), mask)
  with pytest.raises(ValueError, match="Expected forget_copies"):
    ju.methods.dmm(model, jnp.zeros((60, 60, 4)), FIT, forget_copies=0)
  with pytest.raises(ValueError, match="Expected anchor >= 0"):
    ju.methods.dmm(model, jnp.zeros((60, 60, 4)), FIT, anchor=-1.0)
