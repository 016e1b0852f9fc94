"""Forget-Me-Not: its norm, what it reads, and what it moves."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tiny_diffusion import LENGTH, gain_of, linear, linear_params, params, small

from jaxunlearn.core.tasks import Fit
from jaxunlearn.diffusion.forget_me_not import (
  attention_norm,
  forget_me_not,
  word_positions,
)

KEY = jax.random.key(5)
PROMPT = jnp.array([1, 5, 2])
POSITIONS = jnp.array([False, False, True])
REQUEST = jnp.arange(8) < 3
ROWS = {"x": jax.random.uniform(KEY, (8, 2, 2, 3), minval=-1.0, maxval=1.0)}
FEW = {"num_steps": 3, "batch_size": 2}


def forget(model, prompt=PROMPT, positions=POSITIONS, **options):
  return forget_me_not(model, prompt, positions, **{**FEW, **options})


def test_even_attention_has_the_norm_of_a_count():
  """Two layers of 2 x 3 and 4 x 1 queries: sqrt(10) / L."""
  maps = (
    jnp.full((5, 2, 3, LENGTH), 1 / 3),
    jnp.full((5, 4, 1, LENGTH), 1 / 3),
  )
  found = attention_norm(maps, POSITIONS)
  np.testing.assert_allclose(found, np.full(5, np.sqrt(10) / 3), rtol=1e-6)
  squared = attention_norm(maps, POSITIONS, squared=True)
  np.testing.assert_allclose(squared, np.full(5, 10 / 9), rtol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_norm_is_that_of_all_layers_together(dtype):
  rng = np.random.default_rng(0)
  maps = [rng.dirichlet(np.ones(4), (3, 2, q)).astype(dtype) for q in (5, 1)]
  positions = np.array([True, False, True, False])
  chosen = [m.astype(np.float64)[..., positions].reshape(3, -1) for m in maps]
  wanted = np.linalg.norm(np.concatenate(chosen, axis=1), axis=1)
  found = attention_norm(tuple(map(jnp.asarray, maps)), jnp.asarray(positions))
  assert found.dtype == jnp.float32
  np.testing.assert_allclose(found, wanted, rtol=1e-5)


def test_attention_that_underflows_has_a_gradient_of_zero():
  def norm(score):
    scores = jnp.stack([jnp.zeros(()), score])
    return attention_norm(
      (jax.nn.softmax(scores)[None, None, None],), jnp.array([False, True])
    )[0]

  assert jax.grad(norm)(jnp.float32(-200.0)) == 0.0
  # For s = 0 the norm is the probability, whose slope is p (1 - p) = 1/4.
  assert float(jax.grad(norm)(jnp.float32(0.0))) == pytest.approx(0.25)


def attentive():
  """A linear model whose attention to token j is softmax(gain tokens)_j."""
  model = linear()

  def eps_with_attention(params, x, t, context):
    level = gain_of(params) * (1 + jnp.square(x).mean(axis=(1, 2, 3)))
    probabilities = jax.nn.softmax(level[:, None] * context[..., 0], axis=-1)
    maps = jnp.broadcast_to(probabilities[:, None, None], (x.shape[0], 2, 1, 3))
    return model.eps(params, x, t, context), (maps, maps)

  return model._replace(eps_with_attention=eps_with_attention)


def test_the_loss_is_that_of_the_formula():
  """At gain 0 attention is even: 4 queries, sqrt(4) / 3, or squared 4 / 9."""
  model = attentive()
  original = linear_params(0.0)
  for squared, wanted in ((False, 2 / 3), (True, 4 / 9)):
    fit = forget(model, optimizer=optax.sgd(0.0), squared=squared)
    _, info = jax.jit(fit)(original, ROWS, REQUEST, KEY)
    np.testing.assert_allclose(
      info["forget"].loss, np.full(3, wanted), rtol=1e-5
    )


def test_an_empty_request_changes_nothing_and_a_full_one_reads_all():
  fit = jax.jit(forget(small(), optimizer=optax.adam(1e-2)))
  moved, info = fit(params(), ROWS, jnp.zeros(8, bool), KEY)
  jax.tree.map(np.testing.assert_array_equal, params(), moved)
  assert not info["forget"].loss.any()
  _, info = fit(params(), ROWS, jnp.ones(8, bool), KEY)
  assert int(info["forget"].forget_count) == 8 and bool(
    info["forget"].is_finite
  )


def test_inversion_learns_the_words_alone():
  """No step of forgetting follows: the model has its bits."""
  fit = forget(small(), num_steps=0, inversion=Fit(optax.adam(0.1), 60, 4))
  moved, info = jax.jit(fit)(params(), ROWS, REQUEST, KEY)
  jax.tree.map(np.testing.assert_array_equal, params(), moved)
  losses = np.asarray(info["invert"].loss)
  assert losses[-20:].mean() < losses[:20].mean()


@pytest.mark.slow
def test_forgetting_goes_on_with_the_learned_words():
  """A step that moves no word leaves the prompt's own; rows are the same."""
  run = lambda **options: (
    jax.jit(forget(small(), optimizer=optax.adam(1e-2), **options))(
      params(), ROWS, REQUEST, KEY
    )[1]["forget"].loss
  )
  still = run(inversion=Fit(optax.sgd(0.0), 1, 2))
  learned = run(inversion=Fit(optax.adam(0.5), 1, 2))
  assert abs(still - learned).max() > 1e-4


def test_words_are_found_where_they_stand():
  prompts = jnp.array([[1, 5, 2], [1, 2, 0]])
  found = word_positions(prompts, jnp.array([2, 3]))
  assert found.tolist() == [[False, False, True], [False, True, False]]
