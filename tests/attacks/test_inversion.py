"""Model inversion against float64, its limits, and how likeness is counted."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import problems
from refusals import refused

from jaxunlearn.adapters.functions import from_functions
from jaxunlearn.attacks import invert, likeness
from jaxunlearn.core.tasks import Fit
from jaxunlearn.core.types import Variables

KEY = jax.random.key(5)
W = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
# Logits x W of inputs [2, 2].
LINEAR = from_functions(
  lambda key, x: {"w": jnp.zeros((4, 3))},
  lambda p, x: x.reshape(len(x), 4) @ p["w"],
)
AT = Variables({"w": jnp.asarray(W)})
FIT = Fit(optax.sgd(0.2), 6, 5)
CLASSES = np.array([2, 0])


def run(variables=AT, key=KEY, fit=FIT, **options):
  options = {"input_shape": (2, 2), "penalty": 0.05, **options}
  return jax.jit(
    lambda v, k: invert(LINEAR, v, CLASSES, k, fit, **options)
  )(variables, key)  # fmt: skip


def test_six_steps_are_those_of_float64():
  """d/dx [CE + p |x|^2] = W (softmax(x W) - e_c) + 2 p x."""
  found, starts = run(), run(fit=FIT._replace(num_steps=0))
  w = np.float64(W)
  soft = lambda z: np.exp(z) / np.exp(z).sum()
  for k, label in enumerate(CLASSES):
    for b in range(5):
      x = np.float64(starts.x[k, b]).ravel()
      for _ in range(6):
        x -= 0.2 * (w @ (soft(x @ w) - np.eye(3)[label]) + 2 * 0.05 * x)
      np.testing.assert_allclose(found.x[k, b].ravel(), x, rtol=1e-4, atol=1e-6)
      given = soft(x @ w)[label]
      np.testing.assert_allclose(found.probability[k, b], given, rtol=1e-4)


def test_starts_are_the_same_for_every_class_and_zeros_where_asked():
  starts = run(fit=FIT._replace(num_steps=0)).x
  np.testing.assert_array_equal(starts[0], starts[1])
  assert len(np.unique(np.asarray(starts[0]))) == 20
  assert not np.asarray(run(spread=0.0, fit=FIT._replace(num_steps=0)).x).any()


def test_inputs_stay_within_their_bounds():
  free, held = run(penalty=0.0).x, run(penalty=0.0, bounds=(-0.1, 0.2)).x
  assert abs(np.asarray(free)).max() > 0.3
  assert held.min() == np.float32(-0.1) and held.max() == np.float32(0.2)


def test_stacked_models_are_the_loop():
  other = Variables({"w": jnp.asarray(W[::-1].copy())})
  both = jax.tree.map(lambda a, b: jnp.stack([a, b]), AT, other)
  many = jax.jit(jax.vmap(lambda v: invert(
    LINEAR, v, CLASSES, KEY, FIT, input_shape=(2, 2), penalty=0.05
  )))(both)  # fmt: skip
  for i, one in enumerate((AT, other)):
    np.testing.assert_allclose(many.x[i], run(one).x, rtol=1e-5, atol=1e-6)


def test_a_model_of_blobs_gives_its_classes_away_and_a_fresh_one_does_not():
  model, data, variables = problems.trained()
  every = np.arange(problems.NUM_CLASSES)
  fit = Fit(optax.adam(0.1), 60, 8)

  @jax.jit
  def alike(variables):
    found = invert(model, variables, every, KEY, fit, input_shape=(6,))
    return likeness(found.x, data["x"], data["label"], every)

  # Of six entries a correlation without reason deviates by 1 / sqrt(5), the mean
  # of four by 0.22: the bound is three times that.
  assert alike(variables).mean() > 0.67
  fresh = model.init(jax.random.key(9), data["x"][:1])
  assert abs(alike(fresh).mean()) < 0.67


def test_likeness_is_the_correlation_of_centred_means():
  rng = np.random.default_rng(1)
  rows, labels = rng.normal(size=(30, 2, 3)), np.arange(30) % 3
  made = rng.normal(size=(3, 4, 2, 3))
  found = likeness(
    jnp.asarray(made, jnp.float32), np.float32(rows), labels, np.arange(3)
  )
  real = np.stack([rows[labels == c].mean(0).ravel() for c in range(3)])
  mine = made.mean(1).reshape(3, -1)
  wanted = [
    np.corrcoef(a, b)[0, 1]
    for a, b in zip(mine - mine.mean(0), real - real.mean(0))
  ]
  np.testing.assert_allclose(found, wanted, rtol=1e-4)
  same = np.broadcast_to(real.reshape(3, 1, 2, 3), (3, 4, 2, 3))
  alike = likeness(np.float32(same), np.float32(rows), labels, np.arange(3))
  np.testing.assert_allclose(alike, 1, rtol=1e-5)
  without = likeness(
    np.float32(made), np.float32(rows), labels * 0, np.arange(3)
  )
  assert np.isnan(without[1:]).all()


def test_bad_input_is_refused():
  go = lambda **o: invert(
    LINEAR, AT, CLASSES, KEY, FIT, input_shape=(2, 2), **o
  )
  refused("penalty", go, penalty=-1.0)
  refused("spread", go, spread=-1.0)
  refused("bounds", go, bounds=(1.0, 0.0))
  refused("classes", invert, LINEAR, AT, [0.5], KEY, FIT, input_shape=(2, 2))
  made = jnp.zeros((2, 4, 3))
  refused("inverted", likeness, made, jnp.zeros((5, 2)), jnp.zeros(5), [0, 1])
