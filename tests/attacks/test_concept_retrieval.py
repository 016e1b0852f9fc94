"""Scores of concealment against published code and float64 NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems import counting
from refusals import refused

from jaxunlearn.adapters.functions import from_functions
from jaxunlearn.attacks import concept_probe, concept_retrieval

D = 5


def test_the_triplet_loss_has_a_gradient_where_vectors_are_equal():
  same = jnp.ones((2, D))
  loss = lambda a: concept_probe.hard_triplet_loss(a, same, same[:, None]).sum()
  value, grad = jax.jit(jax.value_and_grad(loss))(same)
  assert float(value) == 2.0  # 0 - 0 + margin for each of two.
  np.testing.assert_array_equal(grad, np.zeros((2, D)))


@pytest.mark.parametrize(
  "bracket, wanted",
  [
    # (1 - arctan(c)) / (pi / 2) and 1 - arctan(c) / (pi / 2) at c = 1, 0, -1;
    # arctan(1) is pi / 4.
    ("code", [2 / np.pi - 0.5, 2 / np.pi, 2 / np.pi + 0.5]),
    ("quotient", [0.5, 1.0, 1.5]),
  ],
)
def test_the_similarity_falls_with_the_cosine(bracket, wanted):
  features = jnp.array([[2.0, 0.0], [0.0, 3.0], [-1.0, 0.0]])
  found = concept_retrieval.reference_similarity(
    features, jnp.array([[5.0, 0.0]]), bracket=bracket
  )
  np.testing.assert_allclose(found, wanted, atol=1e-6)


def features(seed, *shape):
  rng = np.random.default_rng(seed)
  return jnp.asarray(rng.normal(size=(*shape, D)), jnp.float32)


def test_several_images_are_averaged_before_the_absolute_value():
  partial, o, u = features(0, 3, 4), features(1, 6), features(2, 7)

  def s(a, b):
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    cosine = a @ b.T / np.linalg.norm(a, axis=-1)[:, None]
    cosine = cosine / np.linalg.norm(b, axis=-1)
    return np.mean((1 - np.arctan(cosine)) / (np.pi / 2))

  gaps = [s(p, o) - s(p, u) for p in partial]
  score = functools.partial(
    concept_retrieval.concept_retrieval_score, partial, o, u
  )
  np.testing.assert_allclose(score(), np.mean(np.abs(gaps)), atol=1e-6)
  np.testing.assert_allclose(score(reduce="signed"), np.mean(gaps), atol=1e-6)


def test_swapping_the_references_keeps_the_score_and_turns_its_sign():
  partial, o, u = features(0, 3, 4), features(1, 6), features(2, 7)
  score = concept_retrieval.concept_retrieval_score
  forget, kept = score(partial, o, u), score(partial, o, u, retain=True)
  np.testing.assert_allclose(forget, score(partial, u, o), rtol=1e-6)
  np.testing.assert_allclose(forget + kept, 1, rtol=1e-6)
  signed = score(partial, o, u, reduce="signed")
  swapped = score(partial, u, o, reduce="signed")
  np.testing.assert_allclose(signed, -swapped, rtol=1e-6)
  assert abs(float(signed)) > 0.01


def test_features_of_zero_are_orthogonal_to_all_and_have_a_gradient():
  similarity = lambda f: concept_retrieval.reference_similarity(f, ONES)[0]
  value, grad = jax.jit(jax.value_and_grad(similarity))(jnp.zeros((1, D)))
  np.testing.assert_allclose(value, 2 / np.pi, rtol=1e-6)
  assert np.isfinite(grad).all()


def test_a_head_of_zeros_has_confidence_one_half():
  confidence = concept_retrieval.concept_confidence_score
  assert float(confidence(jnp.zeros((3, 4, 2)))) == 0.5
  np.testing.assert_allclose(
    confidence(jnp.array([[0.0, np.log(3.0)], [0.0, 0.0]])), (0.75 + 0.5) / 2
  )


def test_the_excess_counts_only_small_psi():
  psi = jnp.array([0.0, 0.3, 0.55, 0.9])
  curve = jnp.array([[0.1, 0.4, 0.9, jnp.nan], [0.0, 0.0, 0.2, 1.0]])
  retrained = jnp.array([0.1, 0.1, 0.3, 1.0])
  found = concept_retrieval.excess_retrieval(curve, retrained, psi)
  np.testing.assert_allclose(found, [0.3, -0.1], atol=1e-6)
  none = concept_retrieval.excess_retrieval(curve, retrained, psi, psi_max=-0.0)
  np.testing.assert_allclose(none, [0.0, -0.1], atol=1e-6)
  nobody = concept_retrieval.excess_retrieval(
    curve[0], retrained, psi + 0.6, psi_max=0.5
  )
  assert np.isnan(nobody)


def probe_model():
  def init(key, x):
    first, second = jax.random.split(key)
    return {
      "in": jax.random.normal(first, (x[0].size, 8)) / x[0].size ** 0.5,
      "out": jax.random.normal(second, (8, 2)) / 8**0.5,
    }

  hidden = lambda p, x: jax.nn.relu(x.reshape(x.shape[0], -1) @ p["in"])
  return from_functions(
    init,
    lambda p, x: hidden(p, x) @ p["out"],
    features=lambda v, x: {"features": hidden(v.params, x)},
  )


def images(seed, mean, n=200):
  rng = np.random.default_rng(seed)
  return jnp.asarray(rng.normal(mean, 1, (n, 2, 3)), jnp.float32)


RECIPE = {"num_steps": 60, "batch_size": 16, "optimizer": optax.adam(0.02)}
KEY = jax.random.key(0)


def fit(original, unlearned, key=KEY, model=None, **kwargs):
  return concept_probe.fit_concept_probe(
    model or probe_model(), original, unlearned, key, **RECIPE | kwargs
  )


@functools.cache
def fitted():
  """One program for several tests, and the traces of its model."""
  model, traces = counting(probe_model())
  return jax.jit(lambda o, u, k: fit(o, u, k, model)), traces


@pytest.mark.slow
def test_the_probe_separates_what_differs_and_not_what_does_not():
  run, _ = fitted()
  apart = run(images(0, 1.5), images(1, -1.5), KEY)
  assert float(apart.accuracy) > 0.97  # Two laws 7 standard deviations apart.
  logits = probe_model().predict(apart.variables, images(2, 1.5))
  assert float(concept_retrieval.concept_confidence_score(logits)) > 0.8
  same = run(images(0, 0), images(1, 0), KEY)
  # 80 held out: four standard errors about one half.
  assert abs(float(same.accuracy) - 0.5) < 4 * (0.25 / 80) ** 0.5
  assert apart.loss.shape == (60,)


def test_a_positive_is_another_image_of_the_same_label():
  """With two images a label the positive is known."""
  anchor, positive, negatives, labels = concept_probe._triplets(
    KEY, [2, 3], 400, 3
  )
  sides = (np.asarray([anchor, positive]) >= 2).astype(int)
  np.testing.assert_array_equal(sides[0], labels)
  np.testing.assert_array_equal(sides[1], labels)
  assert (np.asarray(anchor) != np.asarray(positive)).all()
  side = (np.asarray(negatives) >= 2).astype(int)
  np.testing.assert_array_equal(
    side, 1 - np.asarray(labels)[:, None] + 0 * side
  )
  # Every image of the two sides takes part.
  assert set(np.asarray(anchor).tolist()) == set(range(5))
  assert set(np.asarray(negatives).ravel().tolist()) == set(range(5))


def test_nothing_held_out_means_no_accuracy():
  found = fit(images(0, 1), images(1, 0), held_out=0.0, num_steps=0)
  assert np.isnan(found.accuracy)


def test_a_probe_can_start_from_given_values():
  start = probe_model().init(jax.random.key(9), images(0, 0)[:1])
  kept = fit(images(0, 1), images(1, 0), variables=start, num_steps=0)
  np.testing.assert_array_equal(kept.variables.params["in"], start.params["in"])


def test_outputs_keep_leading_axes_and_do_not_depend_on_chunks():
  model = probe_model()
  fitted = jax.jit(model.init)(KEY, A[:1])
  x = images(5, 0, 6).reshape(2, 3, 2, 3)
  outputs = lambda size: concept_probe.probe_outputs(
    model, fitted, x, num_batch_axes=2, chunk_size=size
  )
  found, logits = outputs(4)
  assert found.shape == (2, 3, 8) and logits.shape == (2, 3, 2)
  np.testing.assert_allclose(
    logits.reshape(6, 2), model.predict(fitted, x.reshape(6, 2, 3)), atol=1e-5
  )
  np.testing.assert_allclose(found, outputs(1)[0], atol=1e-6)


def two_outputs_missing():
  return from_functions(
    lambda key, x: jnp.zeros(()),
    lambda p, x: jnp.zeros((x.shape[0], 3)),
    features=lambda v, x: {"features": x.reshape(x.shape[0], -1)},
  )


SCORE = concept_retrieval.concept_retrieval_score
SIMILAR = concept_retrieval.reference_similarity
EXCESS = concept_retrieval.excess_retrieval
CONFIDENCE = concept_retrieval.concept_confidence_score
ONES = jnp.ones((2, D))
A, B = images(0, 1), images(1, 0)


@pytest.mark.parametrize(
  "call, message",
  [
    (lambda: SIMILAR(ONES, ONES[:, :2]), r"features \[..., D\]"),
    (lambda: SIMILAR(ONES, ONES[:0]), "N > 0"),
    (lambda: SIMILAR(ONES, ONES, bracket="paper"), "bracket"),
    (lambda: SCORE(ONES[:0], ONES, ONES), "P > 0, n > 0"),
    (lambda: SCORE(ONES, ONES, ONES, reduce="sum"), "reduce"),
    (
      lambda: SCORE(ONES, ONES, ONES, retain=True, reduce="signed"),
      "reduce='abs'",
    ),
    (lambda: CONFIDENCE(ONES), r"logits \[..., N > 0, 2\]"),
    (lambda: CONFIDENCE(jnp.zeros((0, 2))), r"logits \[..., N > 0, 2\]"),
    (lambda: EXCESS(ONES[0], ONES[0], jnp.ones(2)), "curve"),
    (lambda: EXCESS(ONES[0], ONES, jnp.ones(D)), "curve_retrained"),
    (lambda: EXCESS(ONES, ONES, jnp.ones(D), psi_max=2.0), "psi_max"),
    (
      lambda: concept_probe.hard_triplet_loss(ONES, ONES, ONES),
      r"negatives \[B, K, D\]",
    ),
    (
      lambda: concept_probe.hard_triplet_loss(ONES, ONES[:1], ONES[:, None]),
      "anchor .* and positive",
    ),
    (lambda: fit(A, B[:1]), "at least 2 images"),
    (lambda: fit(A, B[:, :1]), r"images \[M, ..., C\], got"),
    (lambda: fit(A.at[0].set(jnp.nan), B), "original_images to be finite"),
    (lambda: fit(A, B.at[0].set(jnp.inf)), "unlearned_images to be finite"),
    (lambda: fit(A, B, held_out=1.0), "held_out"),
    (lambda: fit(A, B, margin=-1.0), "margin >= 0"),
    (lambda: fit(A, B, batch_size=0), "batch_size to be a whole number >= 1"),
    (lambda: fit(A, B, num_negatives=0), "num_negatives > 0"),
    (lambda: fit(A, B, layer="other"), "layer among"),
    (
      lambda: fit(A, B, model=probe_model()._replace(features=None)),
      "with features",
    ),
    (lambda: fit(A, B, model=two_outputs_missing()), r"logits \[B, 2\]"),
    (
      lambda: concept_probe.probe_outputs(probe_model(), None, A, chunk_size=0),
      "chunk_size > 0",
    ),
    (
      lambda: concept_probe.probe_outputs(probe_model(), None, A[:0]),
      "1 leading axes, none empty",
    ),
    (
      lambda: concept_probe.probe_outputs(
        probe_model(), None, A, num_batch_axes=3
      ),
      "3 leading axes",
    ),
  ],
)
def test_mistakes_are_named(call, message):
  refused(message, call)
