"""Restoration: by hand, and after a classifier was told false labels."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import problems
from refusals import refused

import jaxunlearn as ju
from jaxunlearn.metrics import restoration as restored


def beliefs(*kinds):
  """Facts of two candidates each, of which one is the likeliest."""
  scores = np.full((len(kinds), 3, 2), -3.0)
  for i, kind in enumerate(kinds):
    scores[i, kind, 1] = -1.0
  return restored.beliefs(scores)


def test_restoration_counts_between_clean_and_corrupted():
  clean, cor = beliefs(0, 0, 0, 2), beliefs(1, 1, 0, 2)
  none = restored.restoration(clean, cor, cor)
  assert none.recovery == none.forgetting == none.restored_margin == 0
  full = restored.restoration(clean, cor, clean)
  assert full.recovery == full.forgetting == full.restored_margin == 1
  gone = restored.restoration(clean, cor, beliefs(2, 2, 0, 2))
  assert gone.recovery == 0 and gone.forgetting == 1
  assert gone.accuracy == 0.25 and gone.corrupted == 0
  np.testing.assert_allclose(gone.restored_margin, 0.5)
  harm = restored.restoration(clean, cor, beliefs(1, 1, 2, 2))
  assert harm.recovery == -0.5
  assert np.isnan(restored.restoration(clean, clean, cor).recovery)


def test_candidates_that_are_not_there_are_not_believed():
  scores = np.array([[[-2.0, 9.0], [-1.0, 9.0], [9.0, 9.0]]])
  there = np.array([[[1, 0], [1, 0], [0, 0]]], bool)
  found = restored.beliefs(scores, there)
  assert found.kind.tolist() == [1] and found.margin.tolist() == [-1.0]
  assert restored.beliefs(scores * np.nan).kind.tolist() == [-1]
  refused("a fact without", restored.beliefs, scores, there & False)
  refused(r"\[..., F, 3, A\]", restored.beliefs, scores[:, :2])


def test_reversal_restores_what_false_labels_overwrote():
  """Classes 1 and 2 are taught with each other's label, and forgotten."""
  model, data, clean = problems.trained()
  label = data["label"]
  false = (label == 1) | (label == 2)
  told = {**data, "label": jnp.where(false, 3 - label, label)}
  fit = ju.Fit(optax.adam(0.02), 200, 16)
  keys = jax.random.split(jax.random.key(0), 3)
  everything = jnp.ones(len(label), bool)
  corrupted, _ = jax.jit(
    lambda k: ju.train(model, told, everything, k, fit, start=clean)
  )(keys[0])
  facts = np.flatnonzero(false)
  kinds = np.stack([label[facts], 3 - label[facts]], axis=1)
  others = np.array([[0, 3]] * len(facts))

  def held(variables):
    p = jax.nn.log_softmax(model.predict(variables, data["x"][facts]))
    pick = lambda places: jnp.take_along_axis(p, places, axis=1)
    right, wrong = jnp.split(pick(jnp.asarray(kinds)), 2, axis=1)
    pad = lambda x: jnp.pad(x, ((0, 0), (0, 1)), constant_values=-1e9)
    table = [pad(right), pad(wrong), pick(jnp.asarray(others))]
    there = np.array([[1, 0], [1, 0], [1, 1]], bool)
    scores = jnp.stack(table, axis=1)
    return restored.beliefs(scores, np.broadcast_to(there, scores.shape))

  judge = lambda v: restored.restoration(held(clean), held(corrupted), held(v))
  # There is something to restore.
  assert float(judge(corrupted).accuracy) < 0.3
  assert float(judge(clean).recovery) == 1
  # Reinforced by as much as it was corrupted, it comes back all the way.
  twice = jax.tree.map(lambda c, o: 2 * c - o, corrupted, clean)
  many = jax.vmap(lambda s: ju.methods.reversal(corrupted, twice, s))(
    jnp.array([0.0, 1.0])
  )
  recovery = jax.vmap(lambda v: judge(v).recovery)(many)
  np.testing.assert_allclose(recovery, [0, 1], atol=1e-6)
  ascent = ju.methods.gradient_ascent(
    model, optimizer=optax.adam(0.01), num_steps=100, batch_size=16
  )
  gone = judge(jax.jit(ascent)(corrupted, told, false, keys[2])[0])
  assert gone.forgetting > 0.5
