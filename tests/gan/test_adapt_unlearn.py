"""Adapt-then-Unlearn: gradients in closed form, limits, and what it forgets."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from closeness import assert_close, normal
from refusals import refused

from jaxunlearn import gan, toy
from jaxunlearn.core.types import Draw
from jaxunlearn.gan.repulsion import (
  consolidated,
  elastic_penalty,
  fisher_diagonal,
  squared_distance,
  tensor_distance,
)

KEY = jax.random.key(0)
FIT = gan.GanFit(optax.sgd(0.05), 3, 8, r1=0.5, r1_every=2, ema=0.5)


def params(seed):
  return {"a": normal(seed, 3), "b": normal(seed + 50, 2, 2)}


def same(out, wanted):
  """But for rounding, as other programs have other orders of sums."""
  near = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
  jax.tree.map(near, out, wanted)


def stacked(*trees):
  return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


GAMMA, ALPHA = 0.7, 0.3
# Of V: the factor before 2 (params - anchor).
SLOPES = {
  "negative": (gan.negative(GAMMA, cap=1e9), lambda v: -GAMMA),
  "inverse": (gan.inverse(GAMMA), lambda v: -GAMMA / v**2),
  "exponential": (
    gan.exponential(GAMMA, ALPHA),
    lambda v: -ALPHA * GAMMA * np.exp(-ALPHA * v),
  ),
}


@pytest.mark.parametrize("name", SLOPES)
def test_gradients_of_repulsions_are_the_closed_forms(name):
  repel, slope = SLOPES[name]
  here, anchor = params(0), params(1)
  of = lambda p: repel(squared_distance(p, stacked(anchor)))
  found = jax.jit(jax.grad(of))(here)
  gap = {k: np.float64(here[k]) - anchor[k] for k in here}
  v = sum((g**2).sum() for g in gap.values())
  for k in gap:
    assert_close(found[k], 2 * slope(v) * gap[k])
  # At the anchor nothing pushes, and nothing is infinite.
  for leaf in jax.tree.leaves(jax.grad(of)(anchor)):
    assert (leaf == 0).all()


def test_a_repulsion_without_a_bound_is_flat_beyond_its_end():
  assert jax.grad(gan.negative(1.0, cap=2.0))(3.0) == 0
  assert jax.grad(gan.inverse(1.0, floor=0.1))(0.01) == 0


@pytest.mark.parametrize("distance", [squared_distance, tensor_distance])
def test_the_distance_is_a_mean_over_anchors(distance):
  here, first, second = map(params, (0, 1, 2))
  one = distance(here, stacked(first))
  assert_close(distance(here, stacked(first, first, first)), one)
  both = distance(here, stacked(first, second))
  assert_close(both, distance(here, stacked(second, first)))
  assert_close(both, 0.5 * (one + distance(here, stacked(second))))


def test_distances_are_those_of_numpy():
  here, anchor = params(0), params(1)
  gaps = [np.square(np.float64(here[k]) - anchor[k]) for k in here]
  many = stacked(anchor)
  assert_close(squared_distance(here, many), sum(g.sum() for g in gaps))
  assert_close(tensor_distance(here, many), np.mean([g.mean() for g in gaps]))


def test_fisher_information_is_the_mean_squared_slope():
  z = normal(3, 20, 3)
  weights = {"used": normal(4, 3), "idle": normal(5, 2)}
  fn = lambda c: lambda p, row: c * (p["used"] @ row)
  found = fisher_diagonal(fn(1.0), weights, z)
  assert_close(found["used"], np.square(np.float64(z)).mean(axis=0))
  assert (found["idle"] == 0).all()
  tripled = fisher_diagonal(fn(3.0), weights, z)
  assert_close(tripled["used"], 9 * found["used"])


def test_consolidation_is_half_of_the_weighted_square():
  here, start, fisher = map(params, (0, 1, 2))
  wanted = sum(
    (fisher[k] * np.square(np.float64(here[k]) - start[k])).sum() for k in here
  )
  assert_close(elastic_penalty(here, start, fisher), 0.5 * wanted)


def test_stage_1_holds_the_synthesis_after_its_first_layer():
  model = gan.vector_gan((2,), (4, 4, 4), (4,), latent_dim=3, mapping=(5,))
  generator = jax.eval_shape(model.init, KEY).params["generator"]
  held = consolidated(generator)
  assert not any(jax.tree.leaves(held["mapping"]))
  of = lambda name: set(jax.tree.leaves(held["synthesis"][name]))
  names = held["synthesis"].keys()
  assert {n for n in names if of(n) == {True}} == {
    *("layer_1", "style_1", "layer_2", "style_2")
  }


def test_without_repulsion_it_is_fine_tuning_on_the_samples_to_keep():
  model, variables, data, mask = toy.gan()[:4]
  method = gan.adapt_unlearn(model, FIT, repulsion=gan.exponential(0.0))
  out, _ = method.compiled(variables, data, mask, KEY)
  # The last link of the chain has the last key.
  last = jax.random.split(KEY, 4)[3]
  wanted, _ = gan.finetune(model, FIT).compiled(variables, data, mask, last)
  same(out, wanted)
  pushed, _ = gan.adapt_unlearn(model, FIT).compiled(variables, data, mask, KEY)
  moved = lambda v: v.params["generator"]["synthesis"]["layer_1"]["scale"]
  assert np.abs(moved(pushed) - moved(out)).max() > 1e-6


def test_without_consolidation_stage_1_is_training_on_the_negatives():
  model, variables, data, mask = toy.gan()[:4]
  adapt = gan.adapt_to_negatives(model, FIT, ewc=0.0)
  out, _ = adapt.compiled(variables, data, mask, KEY)
  last = jax.random.split(KEY, 2)[1]
  plain = gan.adversarial(model, FIT, Draw(forget=8))
  wanted, _ = plain.compiled(variables, data, mask, last)
  same(out, wanted)


def test_a_large_weight_keeps_what_is_consolidated():
  model, variables, data, mask = toy.gan()[:4]
  fit = FIT._replace(optimizer=optax.adam(0.02, b1=0.0), num_steps=40, ema=0.9)

  def moved(ewc):
    adapt = gan.adapt_to_negatives(model, fit, ewc=ewc)
    out, _ = adapt.compiled(variables, data, mask, KEY)
    change = jax.tree.map(
      lambda a, b: float(np.abs(a - b).max()),
      *(out.params["generator"], variables.params["generator"]),
    )
    change = change["synthesis"]
    return change["layer_1"]["scale"], change["start"]["bias"]

  held, free = moved(1e8)
  loose, _ = moved(0.0)
  assert held < 0.2 * loose and free > 0.1


def test_extrapolation_goes_the_other_way_from_the_mean_anchor():
  model, variables, data, mask = toy.gan()[:4]
  method = gan.extrapolate(model, FIT, gamma=0.3, num_anchors=2)
  out, _ = method.compiled(variables, data, mask, KEY)
  adapt = gan.adapt_to_negatives(model, FIT)
  keys = jax.random.split(jax.random.split(KEY, 3)[0])
  anchors = [adapt.compiled(variables, data, mask, k)[0] for k in keys]
  before = variables.params["generator"]
  for leaf, old, *many in zip(
    *map(
      jax.tree.leaves,
      (
        out.params["generator"],
        before,
        *(a.params["generator"] for a in anchors),
      ),
    )
  ):
    np.testing.assert_allclose(
      leaf, old - 0.3 * (np.mean(many, axis=0) - old), atol=1e-4
    )


BAD = {
  "ewc": (gan.adapt_to_negatives, {"ewc": -1.0}, "ewc"),
  "samples": (gan.adapt_to_negatives, {"fisher_samples": 0}, "fisher_samples"),
  "anchors": (gan.adapt_unlearn, {"num_anchors": 0}, "num_anchors"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_settings_are_refused(name):
  factory, change, message = BAD[name]
  refused(message, factory, toy.gan().model, FIT, **change)


@pytest.fixture(scope="module")
def mixture():
  """Shares of four Gaussians on a circle before and after the third must go."""
  model = gan.vector_gan((2,), (48, 48), (48, 48), latent_dim=4)
  centres = 2 * np.array([[1, 0], [0, 1], [-1, 0], [0, -1]], np.float32)
  rows = centres[np.arange(800) % 4] + normal(0, 800, 2, scale=0.15)
  adam = optax.adam(1e-3, b1=0.0, b2=0.99)
  fit = gan.GanFit(adam, 3000, 64, r1=0.3, ema=0.995)
  train = jax.jit(
    lambda k: gan.train(model, {"x": rows}, jnp.ones(800), k, fit)
  )
  variables, _ = train(jax.random.key(0))
  data = gan.pool(model, variables, jax.random.key(1), 4000)
  mode = lambda x: jnp.argmax(x @ centres.T, axis=1)
  method = gan.adapt_unlearn(model, fit._replace(num_steps=500, ema=0.98))
  out, _ = jax.jit(method)(
    variables, {"x": data["x"]}, mode(data["x"]) == 2, jax.random.key(2)
  )
  x = gan.pool(model, out, jax.random.key(1), 4000)["x"]
  of = lambda x: np.bincount(mode(x), minlength=4) / 4000
  return of(data["x"]), of(x)


@pytest.mark.slow
@pytest.mark.optimized(reason="thousands of steps of training")
def test_a_mode_of_a_mixture_goes(mixture):
  before, after = mixture
  assert 1 - after[2] / before[2] >= 0.95


@pytest.mark.slow
@pytest.mark.optimized(reason="thousands of steps of training")
@pytest.mark.xfail(strict=True, reason="Kept modes differ by 1.6, not by 1.5.")
def test_the_modes_that_are_kept_keep_their_mass(mixture):
  kept = np.delete(mixture[1], 2)
  assert kept.max() / kept.min() <= 1.5
