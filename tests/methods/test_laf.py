import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import problems
import pytest
from scipy.special import logsumexp

import jaxunlearn as ju
from jaxunlearn.methods.laf import alignment, exp_ratio
from jaxunlearn.models.vae import standard_kl, vae

KEY = jax.random.key(0)
CODERS = ju.Fit(optax.adam(0.01), 20, 16)


def with_features(model):
  def features(variables, x):
    hidden = variables.params["hidden"]
    h = jax.nn.relu(x @ hidden["kernel"] + hidden["bias"][None])
    return {"features": h}

  return model._replace(features=features)


def method(rate=0.01, align=0.01, steps=20, **options):
  model, *_ = problems.trained()
  return ju.methods.laf(
    with_features(model),
    ju.Fit(optax.adam(rate), steps, 16),
    align=optax.adam(align),
    autoencoder=vae((16,), 4, output="linear"),
    autoencoder_fit=CODERS,
    **options,
  )


def run(transform, data=None):
  _, own, variables = problems.trained()
  data = own if data is None else data
  return jax.jit(transform)(variables, data, own["label"] == 1, KEY)


@jax.jit
def program(rate, align, variables, data, mask):
  return method(rate, align)(variables, data, mask, KEY)


def run_with(rate, align, data):
  """One program for all rates."""
  _, own, variables = problems.trained()
  return program(rate, align, variables, data, own["label"] == 1)


def test_labels_are_not_read():
  data = problems.blobs()
  garbage = {**data, "label": jnp.full(60, -123)}
  one, two = run_with(0.01, 0.01, data), run_with(0.01, 0.01, garbage)
  chex.assert_trees_all_equal(one, two)


@pytest.mark.slow
def test_a_class_is_forgotten_and_the_others_are_kept():
  model, data, variables = problems.trained()
  right = lambda v: model.predict(v, data["x"]).argmax(-1) == data["label"]
  gone = data["label"] == 1
  assert right(variables)[gone].mean() > 0.9
  out, info = run(method(0.005, 0.01, steps=300))
  assert right(out)[gone].mean() < 0.1
  assert right(out)[~gone].mean() > 0.9
  # The head belongs to nobody: neither loss reaches it.
  chex.assert_trees_all_equal(out.params["output"], variables.params["output"])
  assert info["autoencoders"].loss.shape == (2, 20)
  assert (
    info["autoencoders"].loss[:, -1].max()
    < info["autoencoders"].loss[:, 0].min()
  )


@pytest.mark.slow
def test_repair_trains_the_last_layer_on_labels():
  _, _, variables = problems.trained()
  without, _ = run_with(0.01, 0.01, problems.blobs())
  out, _ = run(method(repair=ju.Fit(optax.adam(0.01), 3, 16)))
  chex.assert_trees_all_equal(out.params["hidden"], without.params["hidden"])
  changed = (
    out.params["output"]["kernel"] != variables.params["output"]["kernel"]
  )
  assert changed.any()


def test_without_rates_nothing_moves():
  _, data, variables = problems.trained()
  out, _ = run_with(0.0, 0.0, data)
  chex.assert_trees_all_equal(out, variables)
  # Aligning alone begins at its minimum; Adam may make noise of rounding.
  out, info = run_with(0.0, 1e-5, data)
  chex.assert_trees_all_close(out, variables, atol=1e-3)
  # All distances are 0: minus the logarithm of the batch's forget rows.
  np.testing.assert_allclose(
    info["apart"]["align"].loss[0], -np.log(16), rtol=1e-5
  )


def test_centered_cosines_are_those_of_embeddings_less_their_mean():
  model, data, variables = problems.trained()
  plain = with_features(model)
  middle = plain.features(variables, data["x"])["features"].mean(axis=0)
  less = lambda variables, x: {
    "features": plain.features(variables, x)["features"] - middle[None]
  }

  def aligned(model, **options):
    transform = ju.methods.laf(
      model,
      # All rows in each step, so that the order of draws is of no account.
      ju.Fit(optax.adam(0.0), 20, 45),
      align=optax.adam(0.02),
      autoencoder=vae((16,), 4, output="linear"),
      autoencoder_fit=CODERS,
      **options,
    )
    return run(transform)[0].params["hidden"]

  found = aligned(plain, centered=True)
  assert_near = functools.partial(chex.assert_trees_all_close, atol=1e-4)
  assert_near(found, aligned(plain._replace(features=less)))
  with pytest.raises(AssertionError):
    assert_near(found, aligned(plain))


def test_alignment_against_float64():
  rng = np.random.default_rng(0)
  moved, tau = rng.random(10), 0.7
  forget, weight = np.arange(10) < 4, np.ones(10)
  weight[3] = 0
  terms = alignment(*map(jnp.asarray, (moved, forget, weight)), tau)
  pushed = logsumexp(moved[:3] / tau)
  want = np.where(forget, pushed, moved)
  np.testing.assert_allclose(terms, want, rtol=1e-6)
  # A cold temperature sees the farthest forget row, a hot one none of them.
  grad = jax.grad(
    lambda d, t: alignment(d, jnp.asarray(forget), jnp.asarray(weight), t)[0]
  )
  cold = grad(jnp.asarray(moved), 1e-3) * 1e-3
  np.testing.assert_allclose(
    cold, np.arange(10) == moved[:3].argmax(), atol=1e-6
  )
  assert jnp.abs(grad(jnp.asarray(moved), 1e6)).max() < 1e-5
  nobody = jax.grad(lambda d: alignment(d, d < 0, jnp.ones(10), 1.0).sum())
  np.testing.assert_allclose(nobody(jnp.asarray(moved)), 1.0)


def test_the_discrepancy_is_between_1_and_e_and_of_slope_1_at_0():
  np.testing.assert_allclose(exp_ratio(jnp.array([0.0, 1e9])), [1, np.e])
  np.testing.assert_allclose(jax.grad(exp_ratio)(0.0), 1.0)


def test_the_divergence_in_closed_form():
  rng = np.random.default_rng(1)
  mean, log_variance = rng.normal(size=(2, 3, 5))
  var = np.exp(log_variance)
  want = -0.5 * (np.log(var) + 1 - mean**2 - var).sum(-1)
  np.testing.assert_allclose(standard_kl(mean, log_variance), want, rtol=1e-5)
  assert standard_kl(jnp.zeros(4), jnp.zeros(4)) == 0


@pytest.mark.parametrize(
  ("make", "message"),
  [
    (lambda m: ju.methods.laf(m), "Expected model.features"),
    (
      lambda m: ju.methods.laf(with_features(m), temperature=0.0),
      "Expected temperature > 0",
    ),
    (lambda m: vae(latent=0), "Expected latent"),
    (lambda m: vae(output="tanh"), "Expected output"),
  ],
)
def test_bad_input(make, message):
  with pytest.raises(ValueError, match=message):
    make(problems.mlp())


def test_an_embedding_that_is_not_there():
  with pytest.raises(ValueError, match="Expected embedding among"):
    method(embedding="pooled")(
      problems.trained()[2], problems.blobs(), jnp.ones(60, bool), KEY
    )
