"""Smoothed forgetting against closed forms."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from refusals import refused

import jaxunlearn as ju
from jaxunlearn.language import smooth

KEY = jax.random.key(0)
H = np.diag([1.0, 4.0, 0.5]) + 0.2
START = np.array([0.6, -0.3, 1.0])
DATA = {"x": jnp.zeros(2)}
MASK = jnp.array([True, False])


def quadratic(params):
  return 0.5 * params @ jnp.asarray(H, params.dtype) @ params


def quartic(params):
  return (params**4).sum() + quadratic(params)


def gradient(wrapper, loss=quadratic, start=START, key=KEY, steps=1):
  """That of one step of descent at rate 1, or the params after more."""

  def objective(variables, step, key):
    return jnp.broadcast_to(loss(variables.params), step.weight.shape)

  phase = ju.phase(
    objective,
    optax.sgd(1.0 if steps == 1 else 0.05),
    steps,
    draw=ju.Draw(forget=ju.ALL),
  )
  if wrapper is not None:
    phase = ju.by_forget_gradient(phase, wrapper)
  start = jnp.asarray(start)
  out, info = jax.jit(phase)(start, DATA, MASK, key)
  return (start - out if steps == 1 else out), info


def plain(value_and_grad, trained, key):
  return value_and_grad(trained)


ALL_OFF = {
  "sam": smooth.sam(0.0),
  "gradient_penalty": smooth.gradient_penalty(0.0),
  "curvature_penalty": smooth.curvature_penalty(0.0),
  "randomized_smoothing": smooth.randomized_smoothing(0.0, 3),
}


@pytest.mark.parametrize("name", ALL_OFF)
def test_of_radius_or_weight_zero_it_has_the_bits_of_the_plain_gradient(name):
  wanted, _ = gradient(plain, quartic, steps=4)
  found, info = gradient(ALL_OFF[name], quartic, steps=4)
  chex.assert_trees_all_equal(found, wanted)
  bare, other = gradient(None, quartic, steps=4)
  chex.assert_trees_all_equal(found, bare)
  chex.assert_trees_all_close(info.loss, other.loss, rtol=1e-6)


def test_sam_and_the_gradient_penalty_are_one_on_a_quadratic():
  slope = H @ START
  wanted = slope + 0.3 * H @ slope / np.linalg.norm(slope)
  for wrapper in (smooth.sam(0.3), smooth.gradient_penalty(0.3)):
    found, _ = gradient(wrapper)
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
  _, info = gradient(smooth.gradient_penalty(0.3))
  value = 0.5 * START @ H @ START + 0.3 * np.linalg.norm(slope)
  np.testing.assert_allclose(info.loss[0], value, rtol=1e-6)


def test_sam_is_the_gradient_penalty_to_first_order():
  with jax.enable_x64(True):
    none, _ = gradient(plain, quartic)
    exact, _ = gradient(smooth.gradient_penalty(1.0), quartic)
    for radius in (1e-3, 1e-4):
      found, _ = gradient(smooth.sam(radius), quartic)
      error = np.abs((found - none) / radius - (exact - none)).max()
      assert error < 60 * radius
    # The penalty has a gradient, which the released one has not.
    assert np.abs(exact - none).max() > 0.5


def test_a_constant_curvature_is_not_penalised():
  found, info = gradient(smooth.curvature_penalty(3.0, 0.01))
  np.testing.assert_allclose(found, H @ START, rtol=1e-4)
  direction = H @ START / np.linalg.norm(H @ START)
  penalty = 3 * 0.01 * np.linalg.norm(H @ direction)
  value = 0.5 * START @ H @ START + penalty
  np.testing.assert_allclose(info.loss[0], value, rtol=1e-4)


def test_the_curvature_penalty_has_the_slope_of_its_value():
  with jax.enable_x64(True):
    grad = jax.grad(quartic)
    start = jnp.asarray(START)
    direction = grad(start) / jnp.linalg.norm(grad(start))

    def penalised(p):
      change = grad(p + 0.05 * direction) - grad(p)
      return quartic(p) + 2.0 * jnp.linalg.norm(change)

    found, info = gradient(smooth.curvature_penalty(2.0, 0.05), quartic)
    np.testing.assert_allclose(
      found, jax.jit(jax.grad(penalised))(start), rtol=1e-6
    )
    np.testing.assert_allclose(info.loss[0], penalised(start), rtol=1e-6)


def test_noise_averages_to_the_smoothed_slope_and_depends_on_the_key():
  one = lambda key: gradient(smooth.randomized_smoothing(0.5, 2), key=key)[0]
  many = jax.jit(jax.vmap(one))(jax.random.split(KEY, 1000))
  np.testing.assert_allclose(many.mean(axis=0), H @ START, atol=0.15)
  assert jnp.unique(many[:, 0]).size > 990
  # Each sample's noise is of the size told: H xi sigma / sqrt(2).
  wanted = 0.5 / np.sqrt(2) * np.sqrt((H**2).sum(axis=1))
  np.testing.assert_allclose(many.std(axis=0), wanted, rtol=0.1)


def test_a_gradient_of_zero_stays_finite():
  for wrapper in (
    smooth.sam(0.5),
    smooth.gradient_penalty(1.0),
    smooth.curvature_penalty(1.0),
  ):
    found, info = gradient(wrapper, start=np.zeros(3))
    np.testing.assert_array_equal(found, 0)
    assert info.is_finite


def test_the_mean_of_the_weights_on_the_way():
  fit = ju.Fit(optax.adam(0.1), 9, ju.ALL)

  def run(fit, steps=9):
    objective = lambda v, step, key: quartic(v.params) + 0 * step.weight
    phase = ju.phase(
      objective, fit._replace(num_steps=steps), draw=ju.Draw(forget=ju.ALL)
    )
    return phase(jnp.asarray(START, jnp.float32), DATA, MASK, KEY)[0]

  points = [run(fit, steps) for steps in (3, 5, 7, 9)]
  found = run(smooth.averaged(fit, start=3, every=2))
  np.testing.assert_allclose(found, np.mean(points, axis=0), rtol=1e-5)
  never = run(smooth.averaged(fit, start=10))
  chex.assert_trees_all_equal(never, run(fit))


def test_bad_options_are_refused():
  for make in (
    lambda: smooth.sam(-1.0),
    lambda: smooth.randomized_smoothing(-1.0),
    lambda: smooth.gradient_penalty(-1.0),
    lambda: smooth.curvature_penalty(1.0, 0.0),
    lambda: smooth.randomized_smoothing(1.0, 0),
    lambda: smooth.averaged(ju.Fit(optax.sgd(0.1), 3), start=0),
  ):
    refused("Expected", make)
