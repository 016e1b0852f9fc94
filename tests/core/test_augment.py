"""Augmentations: what they do to images, and that training sees it."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import problems
from refusals import refused

from jaxunlearn.adapters.functions import from_functions
from jaxunlearn.core import augment
from jaxunlearn.core.tasks import Fit
from jaxunlearn.core.training import train

KEY = jax.random.key(3)
IMAGES = np.random.default_rng(0).normal(size=(64, 5, 4, 2)).astype(np.float32)
ROWS = {"x": jnp.asarray(IMAGES), "label": jnp.arange(64)}
KEYS = jax.random.split(KEY, 64)


def test_flips_mirror_left_to_right_as_often_as_asked():
  every = augment.flips(1.0)(KEYS, ROWS)
  np.testing.assert_array_equal(every["x"], IMAGES[:, :, ::-1])
  np.testing.assert_array_equal(every["label"], ROWS["label"])
  chex.assert_trees_all_equal(augment.flips(0.0)(KEYS, ROWS), ROWS)
  half = np.asarray(jax.jit(augment.flips())(KEYS, ROWS)["x"])
  flipped = (half == IMAGES[:, :, ::-1]).all(axis=(1, 2, 3))
  kept = (half == IMAGES).all(axis=(1, 2, 3))
  assert (flipped ^ kept).all()
  assert 16 < flipped.sum() < 48  # 4 standard deviations of 64 coins.


def test_crops_are_windows_of_the_padded_image_and_all_of_them():
  found = np.asarray(augment.crops(1)(KEYS, ROWS)["x"])
  padded = np.pad(IMAGES, ((0, 0), (1, 1), (1, 1), (0, 0)))
  seen = set()
  for image, whole in zip(found, padded):
    at = [
      (i, j)
      for i in range(3)
      for j in range(3)
      if (whole[i : i + 5, j : j + 4] == image).all()
    ]
    assert len(at) == 1
    seen.update(at)
  assert len(seen) == 9
  chex.assert_trees_all_equal(augment.crops(0)(KEYS, ROWS), ROWS)


def test_a_chain_is_one_after_the_other_with_other_keys():
  both = augment.chain(augment.flips(1.0), augment.flips(1.0))
  chex.assert_trees_all_equal(both(KEYS, ROWS), ROWS)
  twice = augment.chain(augment.flips(), augment.flips())(KEYS, ROWS)["x"]
  assert not (np.asarray(twice) == IMAGES).all()  # With one key it would be.


# A row's output is w . x, its loss (w . x - label)^2.
LINEAR = from_functions(
  lambda key, x: {"w": jnp.zeros(3)}, lambda p, x: (x @ p["w"])[:, None]
)._replace(loss=lambda out, rows: (out[:, 0] - rows["label"]) ** 2)
DATA = {
  "x": jnp.asarray(np.random.default_rng(1).normal(size=(8, 3)), jnp.float32),
  "label": jnp.linspace(-1.0, 1.0, 8),
}


def doubled(keys, rows):
  del keys
  return {**rows, "x": 2 * rows["x"]}


def run(fit, data=DATA, key=KEY):
  ones = jnp.ones(8, bool)
  return jax.jit(lambda d, k: train(LINEAR, d, ones, k, fit))(data, key)[0]


def test_training_sees_the_augmented_rows_under_a_schedule_as_in_float64():
  """Full batch: three steps of gradient descent whose rate falls."""
  schedule = optax.piecewise_constant_schedule(0.05, {1: 0.5, 2: 0.1})
  fit = Fit(optax.sgd(schedule), 3, 8, augment_rows=doubled)
  x, y = 2 * np.float64(DATA["x"]), np.float64(DATA["label"])
  w = np.zeros(3)
  for rate in (0.05, 0.025, 0.0025):
    w -= rate * 2 * x.T @ (x @ w - y) / 8
  np.testing.assert_allclose(run(fit).params["w"], w, rtol=1e-5)
  plain = run(Fit(optax.sgd(schedule), 3, 8), {**DATA, "x": 2 * DATA["x"]})
  chex.assert_trees_all_close(run(fit), plain, rtol=1e-6)


def noisy(keys, rows):
  noise = jax.vmap(lambda k: jax.random.normal(k, (3,)))(keys)
  return {**rows, "x": rows["x"] + noise}


def test_parts_of_a_batch_draw_what_the_whole_draws_and_steps_differ():
  fit = Fit(optax.sgd(0.02), 3, 8, augment_rows=noisy)
  whole = run(fit)
  chex.assert_trees_all_close(
    run(fit._replace(microbatches=4)), whole, rtol=1e-5
  )
  # Drawn once for all steps, the three steps would be those of one set of rows.
  assert float(jnp.abs(run(fit, key=jax.random.key(4)).params["w"]
                       - whole.params["w"]).max()) > 1e-3  # fmt: skip


def test_the_noise_is_new_at_every_step():
  """A step moves w by -rate 2 mean(x (0 - y)): two steps of rate 0 see others."""
  seen = []

  def watching(keys, rows):
    rows = noisy(keys, rows)
    jax.debug.callback(lambda x: seen.append(np.asarray(x)), rows["x"])
    return rows

  run(Fit(optax.sgd(0.0), 2, 8, augment_rows=watching))
  jax.effects_barrier()
  assert len(seen) == 2
  assert not np.isin(seen[0], seen[1]).any()


def test_what_cannot_be_an_augmentation_is_refused():
  model, data = problems.mlp(), problems.blobs()
  ones = jnp.ones(60, bool)
  fit = Fit(optax.sgd(0.1), 1, 8)
  go = lambda fn: train(model, data, ones, KEY, fit._replace(augment_rows=fn))
  refused("augment", go, "flip")
  refused(
    r"augment_rows to return rows\['label'\]", go, lambda k, r: {"x": r["x"]}
  )
  narrow = lambda k, r: {**r, "x": r["x"].astype(jnp.bfloat16)}
  refused("dtypes that it was given", go, narrow)
  refused(r"images \[B, H, W, ...\]", go, augment.flips())
  refused("rate", augment.flips, 1.5)
  refused("padding", augment.crops, -1)
  refused("augments", augment.chain, augment.flips(), 3)


def test_the_published_recipe_is_sgd_that_falls_twice():
  from experiments.beds.recipes import SALUN, Recipe

  assert Recipe(8, 0.1, 4).fit.augment_rows is None
  fit = Recipe(8, 0.1, 4, paper=SALUN).fit
  w = {"w": jnp.float32(1.0)}
  state, steps = fit.optimizer.init(w), []
  for _ in range(8):
    update, state = fit.optimizer.update({"w": jnp.float32(0.0)}, state, w)
    steps.append(float(update["w"]))
  # Weights stay 1, gradients are 5e-4 of decay under momentum 0.9.
  momentum, wanted = 0.0, []
  for rate in [0.1] * 4 + [0.01] * 2 + [0.001] * 2:
    momentum = 0.9 * momentum + 5e-4
    wanted.append(-rate * momentum)
  np.testing.assert_allclose(steps, wanted, rtol=1e-5)
  rows = fit.augment_rows(KEYS, {"x": ROWS["x"]})
  assert rows["x"].shape == ROWS["x"].shape
