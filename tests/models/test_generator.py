"""Generators: shapes, batch statistics, and how large they are."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from refusals import refused

from jaxunlearn.models import generator

KEY = jax.random.key(0)


def made(model, z):
  variables = jax.jit(model.init)(KEY, z[:2])
  return variables, model.apply(variables, z, train=True)[0]


@pytest.mark.slow
@pytest.mark.parametrize(
  "shape", [(6,), (3, 5), (8, 8, 1), (28, 28, 1), (32, 32, 3), (7, 10, 2)]
)
def test_inputs_have_their_shape_and_are_standardised(shape):
  z = jax.random.normal(jax.random.key(1), (16, 12))
  make = generator.default_generator
  model = (
    generator.image_generator(shape, channels=(8, 4))
    if len(shape) == 3
    else make(shape)
  )
  wanted = jax.eval_shape(lambda z: made(make(shape), z)[1], z)
  assert wanted.shape == (16, *shape) and wanted.dtype == jnp.float32
  variables, x = made(model, z)
  assert x.shape == (16, *shape) and variables.model_state == {}
  # A channel of images, an entry of other inputs.
  x = np.asarray(x, np.float64)
  each = x.reshape(-1, shape[-1] if len(shape) == 3 else math.prod(shape))
  assert np.abs(each.mean(axis=0)).max() < 1e-5
  assert np.abs(each.var(axis=0) - 1).max() < 1e-2


def test_a_batch_is_normalised_by_its_own_statistics():
  model = generator.vector_generator((6,), hidden=(16,))
  z = jax.random.normal(jax.random.key(1), (8, 4))
  variables, x = made(model, z)
  p = jax.tree.map(lambda a: np.asarray(a, np.float64), variables.params)

  def dense(h, name):
    return h @ p[name]["kernel"] + p[name]["bias"]

  def standard(h):
    return (h - h.mean(0)) / np.sqrt(h.var(0) + 1e-5)

  h = standard(dense(np.asarray(z, np.float64), "Dense_0"))
  h = np.where(h > 0, h, 0.2 * h)
  wanted = standard(dense(h, "Dense_1"))
  np.testing.assert_allclose(x, wanted, rtol=1e-4, atol=1e-4)


def test_the_image_generator_has_the_parameters_of_the_source():
  model = generator.default_generator((32, 32, 3))
  shapes = jax.eval_shape(model.init, KEY, jnp.zeros((2, 128)))
  sizes = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))
  dense, first = 128 * 8192 + 8192, 9 * 128 * 128 + 128
  second, last = 9 * 128 * 64 + 64, 9 * 64 * 3 + 3
  norms = 2 * (128 + 128 + 64 + 3)
  assert sizes == dense + first + second + last + norms


def test_evaluation_mode_is_training_mode():
  model = generator.vector_generator((6,))
  z = jax.random.normal(KEY, (8, 4))
  variables = jax.jit(model.init)(KEY, z)
  train, _ = model.apply(variables, z, train=True)
  assert (train == model.predict(variables, z)).all()


@pytest.mark.slow
def test_gradients_reach_every_parameter():
  z = jax.random.normal(KEY, (8, 4))
  for shape in ((6,), (5, 6, 2)):
    model = generator.default_generator(shape)
    variables = jax.jit(model.init)(KEY, z)
    loss = lambda v, model=model: jnp.sin(3 * model.predict(v, z)).sum()
    grads = jax.grad(loss)(variables)
    for path, leaf in jax.tree_util.tree_leaves_with_path(grads):
      name = jax.tree_util.keystr(path)
      # A bias before batch statistics is subtracted again.
      before_statistics = "bias" in name and "LayerNorm" not in name
      assert jnp.isfinite(leaf).all(), name
      assert before_statistics or jnp.abs(leaf).max() > 1e-4, name


def test_a_shape_that_is_no_image_and_a_loss_are_rejected():
  model = generator.image_generator((6,))
  refused(r"\(H, W, C\), got \(6,\)", model.init, KEY, jnp.zeros((2, 4)))
  refused("no loss of a generator", model.loss, jnp.zeros((2, 4)), {})
