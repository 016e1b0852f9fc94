"""UA, IRA, CRA, scores of pairs, class accuracy and Frechet distance."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from refusals import refused

from jaxunlearn.metrics import frechet, generation

NUM = {"object": 4, "style": 3}
OBJECTS, STYLES = (a.ravel() for a in np.mgrid[:4, :3])
# Five images a prompt.
PROMPTED = {
  "object": np.repeat(OBJECTS, 5).astype(np.int32),
  "style": np.repeat(STYLES, 5).astype(np.int32),
}


def one_hot(labels, count):
  return jnp.asarray(np.eye(count, dtype=np.float32)[labels])


def logits_of(**labels):
  return {
    name: one_hot(labels.get(name, PROMPTED[name]), NUM[name]) for name in NUM
  }


def random_answers(seed=0):
  rng = np.random.default_rng(seed)
  return {
    name: np.where(
      rng.random(60) < 0.7, PROMPTED[name], rng.integers(count, size=60)
    ).astype(np.int32)
    for name, count in NUM.items()
  }


def test_the_scores_are_the_means_they_are_said_to_be():
  answers = random_answers()
  right = {name: answers[name] == PROMPTED[name] for name in NUM}
  of_target = PROMPTED["object"] == 2
  ua, ira = 1 - right["object"][of_target].mean(), right["object"][~of_target]
  ira = ira.mean()
  for include, rows in ((False, ~of_target), (True, np.ones(60, bool))):
    found = generation.canvas_scores(
      answers,
      PROMPTED,
      2,
      domain="object",
      num_classes=NUM,
      include_target=include,
    )
    three = np.array([ua, ira, right["style"][rows].mean()])
    wanted = [*three, three.min(), 3 / (1 / three).sum()]
    np.testing.assert_allclose(np.array(found), wanted, rtol=1e-6)


def test_images_of_weight_zero_and_their_nan_change_nothing():
  rng = np.random.default_rng(5)
  logits = {
    n: rng.normal(size=(60, c)).astype(np.float32) for n, c in NUM.items()
  }
  kept = rng.random(60) < 0.6
  spoiled = {n: np.where(kept[:, None], v, np.nan) for n, v in logits.items()}
  score = lambda values, rows, w: generation.canvas_scores(
    values, rows, 1, domain="style", weights=w
  )
  subset = lambda rows: {n: v[kept] for n, v in rows.items()}
  wanted = score(subset(logits), subset(PROMPTED), None)
  np.testing.assert_allclose(
    np.array(score(spoiled, PROMPTED, kept)), np.array(wanted), rtol=1e-6
  )


def test_logits_that_are_nan_are_no_answer():
  """As the first label they would be right on its images."""
  spoiled = logits_of()
  spoiled["object"] = spoiled["object"].at[PROMPTED["object"] == 0].set(jnp.nan)
  found = generation.canvas_scores(spoiled, PROMPTED, 0, domain="object")
  assert np.isnan([found.ua, found.worst, found.harmonic]).all()
  assert float(found.ira) == float(found.cra) == 1
  rates = generation.class_accuracy(spoiled["object"], PROMPTED["object"])
  np.testing.assert_array_equal(rates, [np.nan, 1, 1, 1])
  pair = {"object": 0, "style": 1}
  assert np.isnan(generation.pair_scores(spoiled, PROMPTED, pair).pair)


def test_without_an_image_of_the_target_there_is_no_ua():
  kept = PROMPTED["object"] != 3
  found = generation.canvas_scores(
    logits_of(), PROMPTED, 3, domain="object", weights=kept
  )
  assert np.isnan([found.ua, found.worst, found.harmonic]).all()
  assert float(found.ira) == float(found.cra) == 1


def test_the_four_groups_of_a_pair_hold_every_image_once():
  groups = generation.pair_groups(PROMPTED, {"object": 1, "style": 2})
  total = sum(np.asarray(g, int) for g in groups.values())
  np.testing.assert_array_equal(total, np.ones(60))
  sizes = {name: int(g.sum()) for name, g in groups.items()}
  assert sizes == {"pair": 5, "object": 10, "style": 15, "rest": 30}


def test_a_pair_is_scored_on_images_that_show_both_labels():
  answers, target = random_answers(6), {"object": 1, "style": 2}
  both = np.all([answers[n] == PROMPTED[n] for n in NUM], axis=0)
  found = jax.jit(
    lambda t: generation.pair_scores(answers, PROMPTED, t, num_classes=NUM)
  )(target)
  is_object, is_style = PROMPTED["object"] == 1, PROMPTED["style"] == 2
  for value, rows in (
    (found.pair, is_object & is_style),
    (found.shared["object"], is_object & ~is_style),
    (found.shared["style"], ~is_object & is_style),
    (found.rest, ~is_object & ~is_style),
  ):
    assert float(value) == pytest.approx(both[rows].mean(), abs=1e-6)


def test_class_accuracy_is_each_labels_own_and_nan_without_images():
  answers, labels = random_answers(7)["object"], PROMPTED["object"]
  found = generation.class_accuracy(
    one_hot(answers, 4), labels, weights=labels != 2
  )
  wanted = [
    np.nan if c == 2 else (answers[labels == c] == c).mean() for c in range(4)
  ]
  np.testing.assert_allclose(found, wanted, rtol=1e-6)


def features(n, d, seed, shift=0.0):
  rng = np.random.default_rng(seed)
  mixed = rng.normal(size=(n, d)) @ rng.normal(size=(d, d))
  return (mixed + shift).astype(np.float32)


def scipy_distance(a, b):
  from scipy.linalg import sqrtm

  a, b = (np.asarray(v, np.float64) for v in (a, b))
  first, second = np.cov(a.T), np.cov(b.T)
  cross = sqrtm(first @ second).real
  apart = np.square(a.mean(0) - b.mean(0)).sum()
  return apart + np.trace(first + second - 2 * cross)


def test_the_frechet_distance_is_that_of_the_general_matrix_root():
  a, b = features(80, 6, 0), features(120, 6, 1, shift=0.5)
  distance = jax.jit(frechet.feature_frechet_distance)
  found = distance(a, b)
  np.testing.assert_allclose(found, scipy_distance(a, b), rtol=1e-4)
  turned = distance(b, a)
  np.testing.assert_allclose(found, turned, rtol=1e-5)


def test_the_frechet_distance_of_known_laws_has_its_closed_form():
  rng = np.random.default_rng(3)
  mean, other = rng.normal(size=(2, 5))
  a, b = rng.uniform(0.5, 3, (2, 5))
  law = frechet.FeatureStatistics
  found = frechet.frechet_distance(law(mean, np.eye(5)), law(other, np.eye(5)))
  np.testing.assert_allclose(found, np.square(mean - other).sum(), rtol=1e-5)
  found = frechet.frechet_distance(law(mean, np.diag(a)), law(mean, np.diag(b)))
  wanted = np.square(np.sqrt(a) - np.sqrt(b)).sum()
  np.testing.assert_allclose(found, wanted, rtol=1e-4)
  found = frechet.frechet_distance(
    law(mean, np.diag(a)), law(mean, np.diag(b)), ridge=0.7
  )
  wanted = np.square(np.sqrt(a + 0.7) - np.sqrt(b + 0.7)).sum()
  np.testing.assert_allclose(found, wanted, rtol=1e-4)


def test_features_of_weight_zero_are_not_read():
  a, b = features(60, 4, 4), features(50, 4, 5)
  kept = np.arange(60) < 40
  spoiled = np.where(kept[:, None], a, np.nan)
  found = frechet.feature_frechet_distance(spoiled, b, weights=kept)
  np.testing.assert_allclose(found, scipy_distance(a[:40], b), rtol=1e-4)
  found = frechet.feature_frechet_distance(b, spoiled, reference_weights=kept)
  np.testing.assert_allclose(found, scipy_distance(a[:40], b), rtol=1e-4)


def test_too_few_images_need_a_ridge():
  a, b = features(5, 5, 6), features(40, 5, 7)
  with pytest.raises(ValueError, match="ridge > 0 where features has"):
    frechet.feature_frechet_distance(a, b)
  with pytest.raises(ValueError, match="ridge > 0 where references has"):
    frechet.feature_frechet_distance(b, b, reference_weights=np.arange(40) < 5)
  found = frechet.feature_frechet_distance(a, b, ridge=1e-3)
  assert np.isfinite(found)


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"target": 4}, "target in 0 .. 3"),
    ({"target": -1}, "target in 0 .. 3"),
    ({"target": 0.5}, "target to be an integer"),
    ({"target": jnp.arange(4)}, "target to be an integer"),
    ({"domain": "colour"}, "domain of"),
    ({"num_classes": None}, "num_classes for object"),
    ({"num_classes": {"object": 4, "style": 1}}, "at least 2 labels"),
    ({"num_classes": {"object": 4, "style": 2}}, "answers of style in 0 .. 1"),
    ({"weights": np.ones(60, int)}, "dtype bool or float"),
    ({"weights": np.ones(59)}, "weights "),
  ],
)
def test_what_does_not_fit_is_refused(change, message):
  options = {"target": 1, "domain": "object", "num_classes": NUM, **change}
  with pytest.raises(ValueError, match=message):
    generation.canvas_scores(random_answers(), PROMPTED, **options)


def test_answers_that_do_not_fit_the_prompts_are_refused():
  good = random_answers()
  for answers, prompted, message in (
    ({"object": good["object"]}, PROMPTED, "same domains"),
    ({}, {}, "same domains"),
    ({**good, "style": good["style"][:5]}, PROMPTED, "labels of style"),
    (
      {**good, "style": good["style"][:5]},
      {**PROMPTED, "style": PROMPTED["style"][:5]},
      "as many images",
    ),
    (good, {**PROMPTED, "object": PROMPTED["object"] + 1}, "labels of object"),
    ({**good, "object": np.zeros((60, 3), np.float32)}, PROMPTED, "logits of"),
    ({**good, "object": np.zeros((60, 4), int)}, PROMPTED, "float dtype"),
    ({**good, "object": np.zeros(60)}, PROMPTED, "integer dtype"),
  ):
    with pytest.raises(ValueError, match=message):
      generation.canvas_scores(
        answers, prompted, 1, domain="object", num_classes=NUM
      )
  alone = {"object": good["object"]}
  with pytest.raises(ValueError, match="two domains"):
    generation.canvas_scores(alone, alone, 1, domain="object", num_classes=NUM)


def test_a_pair_needs_two_domains_and_labels_that_exist():
  with pytest.raises(ValueError, match="two and the same domains"):
    generation.pair_groups(PROMPTED, {"object": 1})
  labels, pair = PROMPTED["style"], {"object": 1, "style": 2}
  # A column would broadcast against a row, floats would be equal to no label.
  for style in (labels[:, None], labels[:9], labels + 0.5):
    with pytest.raises(ValueError, match="labels of style of"):
      generation.pair_groups({**PROMPTED, "style": style}, pair)
  with pytest.raises(ValueError, match=r"target in 0 \.\. 2"):
    generation.pair_scores(
      random_answers(), PROMPTED, {"object": 1, "style": 3}, num_classes=NUM
    )


def test_statistics_of_other_shapes_are_refused():
  law = frechet.FeatureStatistics
  good = law(jnp.zeros(3), jnp.eye(3))
  for other, message in (
    (law(jnp.zeros(2), jnp.eye(2)), "second.mean"),
    (law(jnp.zeros(3), jnp.eye(2)), "covariances "),
  ):
    refused(message, frechet.frechet_distance, good, other)
  one = law(jnp.zeros((1, 3)), jnp.eye(3))
  refused(r"means \[D\]", frechet.frechet_distance, one, one)
  refused("ridge >= 0", frechet.frechet_distance, good, good, ridge=-1.0)
  with pytest.raises(ValueError, match=r"references \[M, D\]"):
    frechet.feature_frechet_distance(jnp.eye(3)[:2], jnp.eye(2), ridge=1.0)
  refused(r"features \[N, C\]", frechet.feature_statistics, jnp.zeros(3))
