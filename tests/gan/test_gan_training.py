"""Networks with a latent w, and two optimisers in turn."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from closeness import assert_close, normal
from refusals import refused

from jaxunlearn import gan, toy
from jaxunlearn.core.types import Draw
from jaxunlearn.gan.training import r1_penalty

SGD = gan.GanFit(optax.sgd(0.1), 2, 4, r1=3.0, r1_every=2, ema=0.0)


@pytest.mark.parametrize(
  ("model", "layers"),
  [
    (gan.vector_gan((2,), (4, 6), (4,)), 2),
    (gan.vector_gan((8, 8, 1), (4,), (4,)), 1),
    (gan.image_gan((8, 8, 1), 4), 2),
    (gan.image_gan((32, 32, 3), 4), 4),
    (gan.image_gan((28, 20, 1), 4), 4),
  ],
)
def test_samples_have_their_shape_and_a_latent_for_each_layer(model, layers):
  variables = jax.eval_shape(model.init, jax.random.key(0))
  generator, judge = (
    variables.params[name] for name in ("generator", "discriminator")
  )
  z = jax.ShapeDtypeStruct((3, model.latent_dim), jnp.float32)
  w = jax.eval_shape(model.mapping, generator, z)
  x = jax.eval_shape(model.generate, generator, z)
  assert x.shape == (3, *model.shape)
  assert jax.eval_shape(model.discriminate, judge, x).shape == (3,)
  many = jax.ShapeDtypeStruct((3, layers, w.shape[1]), jnp.float32)
  assert jax.eval_shape(model.synthesis, generator, many).shape == x.shape
  wrong = jax.ShapeDtypeStruct((3, layers + 1, w.shape[1]), jnp.float32)
  with pytest.raises(ValueError, match=rf"or \[B, {layers}, W\], got"):
    jax.eval_shape(model.synthesis, generator, wrong)


def test_a_latent_of_a_layer_is_that_of_all_where_they_are_the_same():
  model = gan.vector_gan((2,), (4, 6), (4,), latent_dim=3, mapping=(5,))
  generator = jax.jit(model.init)(jax.random.key(0)).params["generator"]
  w = jnp.asarray(normal(0, 3, 5))
  assert_close(
    jax.jit(model.synthesis)(generator, jnp.stack([w, w], axis=1)),
    jax.jit(model.synthesis)(generator, w),
  )


def test_images_need_three_axes():
  refused(r"shape \(H, W, C\), got \(8, 8\)", gan.image_gan, (8, 8))


def test_r1_is_the_squared_slope_of_each_row():
  a, x = normal(0, 4), normal(1, 5, 4)
  # The slope of a . x + |x|^2 / 2 is a + x.
  logit = lambda x: x @ a + 0.5 * jnp.square(x).sum(axis=1)
  assert_close(r1_penalty(logit, x), np.square(np.float64(a) + x).sum(axis=1))


def test_losses_are_softplus_and_r1_comes_lazily_and_weighs_more():
  model = toy.gan(scale=0.0).model
  still = SGD._replace(optimizer=optax.sgd(0.0), num_steps=4)
  x = np.tile([[0.5, 0.2, -1.0]], (6, 1)).astype(np.float32)
  _, info = gan.train(
    model, {"x": x}, jnp.ones(6, bool), jax.random.key(0), still
  )
  slope = np.array([1.0, -2.0, 0.5])
  # Samples are 0, and so is their logit.
  plain = np.log1p(np.exp(-(slope @ x[0].astype(np.float64)))) + np.log(2)
  lazy = 0.5 * 3.0 * 2 * (slope @ slope)
  losses = info["turns"]["discriminator"].loss[:, 0]
  assert_close(losses, [plain + lazy, plain, plain + lazy, plain])
  assert_close(info["turns"]["generator"].loss[:, 0], np.full(4, np.log(2)))


def test_the_generator_that_comes_out_is_the_running_average():
  model, variables, data, _ = toy.gan()[:4]
  every = jnp.zeros(64, bool)

  def after(steps, ema):
    fit = SGD._replace(num_steps=steps, ema=ema)
    made, _ = gan.finetune(model, fit)(
      variables, data, every, jax.random.key(1)
    )
    return made.params["generator"]["synthesis"]["start"]["bias"]

  start = variables.params["generator"]["synthesis"]["start"]["bias"]
  first, second = after(1, 0.0), after(2, 0.0)
  assert np.abs(second - first).max() > 1e-4
  assert_close(after(2, 0.5), 0.25 * start + 0.25 * first + 0.5 * second)


BAD = {
  "ema": ({"ema": 1.5}, "ema"),
  "r1": ({"r1": -1.0}, "r1"),
  "every": ({"r1_every": 0}, "r1_every"),
  "batch": ({"batch_size": 0}, "batch_size"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_fits_are_refused(name):
  change, message = BAD[name]
  fit = SGD._replace(**change)
  refused(message, gan.adversarial, toy.gan().model, fit, Draw(retain=4))
