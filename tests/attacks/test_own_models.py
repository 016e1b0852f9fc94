"""One call: LiRA against models of one's own; many models, rows held out."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems import blobs, counting, mlp
from refusals import refused

import jaxunlearn as ju

FIT = ju.Fit(optax.adam(0.02), 80, 20)


def noisy(seed):
  """Labels of chance: what a model says right of them it has by heart."""
  rows = blobs(40, seed)
  label = np.random.default_rng(seed).integers(0, 4, 40)
  return {"x": rows["x"], "label": jnp.asarray(label, jnp.int32)}


def test_lira_knows_the_original_and_not_the_retrained_model():
  model, data, held_out = mlp(), noisy(1), noisy(2)
  forget = jnp.arange(40) < 20
  key = jax.random.key(0)
  fit = jax.jit(lambda rows: ju.train(model, data, rows, key, FIT)[0])
  original, retrained = fit(jnp.ones(40, bool)), fit(~forget)
  targets = ju.stack([original, retrained])
  attack = lambda forget, held_out: ju.attacks.lira_attack(
    model, targets, data, held_out, forget, key, FIT, num_shadows=16
  )
  found = jax.jit(attack)(forget, held_out)
  assert found.scores.shape == (2, 80)
  before, after = np.asarray(found.summary.auc)
  assert before > 0.75
  assert abs(after - 0.5) < 0.2
  refused("forget_mask", attack, jnp.ones(3, bool), held_out)
  with pytest.raises(ValueError, match=r"held_out\['x'\]"):
    attack(forget, {"x": held_out["x"][:, :2], "label": held_out["label"]})


def test_many_models_are_one_program_and_say_what_each_says():
  model, traces = counting(mlp())
  data = blobs(10)
  models = [jax.jit(model.init)(jax.random.key(i), data["x"]) for i in range(3)]
  del traces[:]
  outputs = ju.predict_many(model, ju.stack(models), data["x"], chunk_size=4)
  traced = len(traces)
  ju.predict_many(model, ju.stack(models[::-1]), data["x"], chunk_size=4)
  assert len(traces) == traced
  wanted = [model.predict(v, data["x"]) for v in models]
  np.testing.assert_allclose(outputs, wanted, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
  "models", [[], {"a": 1}], ids=["none", "another structure"]
)
def test_stack_refuses(models):
  one = mlp().init(jax.random.key(0), jnp.zeros((1, 6)))
  refused("Expected", ju.stack, models and [one, models])
  refused("list of models", ju.stack, one)


def test_a_share_of_every_value_is_held_out():
  label = jnp.repeat(jnp.arange(4), jnp.array([40, 20, 10, 30]))
  data = {"row": jnp.arange(100), "label": label}
  kept, out = ju.split_rows(data, jax.random.key(0), 0.3, by=label)
  rows = np.concatenate([kept["row"], out["row"]])
  assert sorted(rows) == list(range(100))
  share = np.bincount(out["label"], minlength=4) / [40, 20, 10, 30]
  np.testing.assert_allclose(share, 0.3, atol=0.1)
  again = ju.split_rows(data, jax.random.key(0), 0.3, by=label)[1]["row"]
  other = ju.split_rows(data, jax.random.key(1), 0.3, by=label)[1]["row"]
  assert (again == out["row"]).all() and not (other == out["row"]).all()
  for share in (0.0, 1.0, 0.001, float("nan")):
    refused("held_out", ju.split_rows, data, jax.random.key(0), share)
