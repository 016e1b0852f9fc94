"""EcoVal on games with known answers, its clusters and its qualities."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import blobs
from refusals import refused
from sklearn.cluster import KMeans

from jaxunlearn.valuation.clusters import (
  cluster_rows,
  interleaved,
  nearest_clusters,
)
from jaxunlearn.valuation.ecoval import (
  PriceRule,
  ecoval_of_points,
  ecoval_values,
)
from jaxunlearn.valuation.exact import loo
from jaxunlearn.valuation.quality import confidence, curated, typicality
from jaxunlearn.valuation.types import Utility

N, K = 12, 3
IDS = np.array([0, 1, 2, 0, 0, 1, 2, 2, 0, 1, 1, 2])
RNG = np.random.default_rng(0)
WORTH = RNG.uniform(0.1, 2.0, N).astype(np.float32)
QUALITY = RNG.uniform(0.2, 1.0, N).astype(np.float32)
GAMMA = np.array([0.5, 0.2, 0.3], np.float32)


def additive(worth=WORTH, empty=0.0):
  worth = jnp.asarray(worth)
  return Utility(
    lambda mask: empty + jnp.where(mask, worth, 0).sum(), len(worth), empty
  )


def crooked():
  """A utility in which rows of a cluster help and harm one another."""
  pull = jnp.asarray(RNG.normal(size=(N, N)), jnp.float32)
  return Utility(lambda m: 3 + m @ pull @ m / 5 - 0.4 * m.sum(), N, 3.0)


def cobb_douglas(quality, scale=0.8):
  """scale * prod_c (e_c(S) / e_c(D)) ** gamma_c."""
  quality, ids = jnp.asarray(quality), jnp.asarray(IDS)
  amount = lambda q: jnp.zeros(K).at[ids].add(q)

  def value(mask):
    left = amount(jnp.where(mask, quality, 0)) / amount(quality)
    return scale * jnp.prod(left ** jnp.asarray(GAMMA))

  return Utility(value, N)


def ecoval(game, ids, quality=None, **options):
  run = lambda ids, q: ecoval_values(game, ids, q, **options)
  return jax.jit(run)(ids, quality)


def counted(utility):
  calls = []

  def value(mask):
    jax.debug.callback(lambda m: calls.append(np.asarray(m)), mask)
    return utility.value(mask)

  return utility._replace(value=value), calls


@pytest.mark.parametrize("clusters", [IDS, np.zeros(N, int), np.arange(N)])
def test_an_additive_game_gives_back_what_the_rows_are_worth(clusters):
  k = clusters.max() + 1
  found = ecoval(additive(empty=1.5), clusters, WORTH, num_clusters=k)
  sums = np.bincount(clusters, WORTH)
  np.testing.assert_allclose(found.cluster_values, sums, atol=1e-5)
  np.testing.assert_allclose(found.values, WORTH, atol=1e-5)
  np.testing.assert_allclose(found.values.sum(), WORTH.sum(), atol=1e-5)


def test_single_rows_as_clusters_are_leave_one_out():
  game = crooked()
  found = ecoval(game, np.arange(N), QUALITY, num_clusters=N)
  np.testing.assert_allclose(found.values, loo(game).values, atol=1e-6)


@pytest.mark.parametrize("invert", [False, True])
def test_shares_add_up_to_the_value_of_the_cluster_also_below_zero(invert):
  game = additive(np.where(IDS == 1, -WORTH, WORTH))
  found = ecoval(
    game, IDS, QUALITY, num_clusters=K, price=PriceRule(invert_negative=invert)
  )
  assert float(found.cluster_values[1]) < 0
  np.testing.assert_allclose(
    np.bincount(IDS, found.values), found.cluster_values, atol=1e-5
  )
  # The worst row of the harmful cluster bears most of the loss, or the best.
  own = np.flatnonzero(IDS == 1)
  pick = np.argmin if invert else np.argmax
  assert np.argmin(np.asarray(found.values)[own]) == pick(QUALITY[own])


@pytest.mark.parametrize("share", [0.25, 0.5, 0.75])
def test_elasticities_of_cobb_douglas_data_are_recovered(share):
  found = ecoval(
    cobb_douglas(QUALITY),
    IDS,
    QUALITY,
    num_clusters=K,
    cluster_value="elasticity",
    removed_share=share,
    key=jax.random.key(1),
  )
  np.testing.assert_allclose(found.elasticities, GAMMA, atol=1e-5)
  np.testing.assert_allclose(found.values.sum(), 0.8, atol=1e-5)


def test_constant_returns_scale_the_values_to_the_whole():
  game = Utility(lambda m: (m.sum() / N) ** 2.0, N)
  for how in ("leave_out", "elasticity"):
    found = ecoval(
      game,
      IDS,
      num_clusters=K,
      cluster_value=how,
      constant_returns=True,
      key=jax.random.key(0),
    )
    np.testing.assert_allclose(found.elasticities.sum(), 1, atol=1e-5)
    np.testing.assert_allclose(found.values.sum(), 1, atol=1e-5)


def test_a_fraction_of_every_cluster_is_what_elasticity_removes():
  game, calls = counted(cobb_douglas(QUALITY))
  found = ecoval(
    game,
    IDS,
    num_clusters=K,
    cluster_value="elasticity",
    key=jax.random.key(0),
    strategy="map",
  )
  jax.block_until_ready(found)
  removed = sorted(tuple(np.bincount(IDS[~m], minlength=K)) for m in calls)
  assert removed == [(0, 0, 0), (0, 0, 2), (0, 2, 0), (2, 0, 0)]


@pytest.mark.parametrize("ids", [IDS, np.zeros(N, int)])
def test_a_utility_is_asked_once_a_cluster_and_once_for_all(ids):
  game, calls = counted(additive())
  found = ecoval(game, ids, num_clusters=K, strategy="map")
  jax.block_until_ready(found)
  assert len(calls) == K + 1 == int(found.num_evaluations)
  assert sorted(int(m.sum()) for m in calls)[-1] == N


def test_an_empty_cluster_is_worth_nothing():
  found = ecoval(crooked(), IDS, num_clusters=5)
  np.testing.assert_array_equal(found.cluster_values[3:], np.zeros(2))
  assert np.isfinite(found.values).all()


def test_additive_values_are_sums_of_standard_scores():
  game, w = crooked(), 0.7
  found = ecoval(
    game, IDS, QUALITY, num_clusters=K, price=PriceRule("additive", w)
  )
  price = np.asarray(found.cluster_values, np.float64) / np.bincount(IDS)
  z = lambda x: (x - x.mean()) / x.std()
  expected = z(price[IDS]) + w * z(QUALITY.astype(np.float64))
  np.testing.assert_allclose(found.values, expected, atol=2e-5)
  same = ecoval(game, IDS, num_clusters=K, price=PriceRule("additive")).values
  np.testing.assert_allclose(same, z(price[IDS]), atol=2e-5)


def test_qualities_of_zero_share_equally():
  quality = np.where(IDS == 2, 0, QUALITY)
  found = ecoval(additive(), IDS, quality, num_clusters=K)
  own = np.asarray(found.values)[IDS == 2]
  np.testing.assert_allclose(own, WORTH[IDS == 2].mean(), rtol=1e-5)
  assert found.is_uniform.tolist() == [False, False, True]


def test_qualities_of_zero_count_as_one_outside_of_the_data_too():
  x, label = jnp.asarray(IDS)[:, None] * 10.0, jnp.zeros(N, jnp.int32)
  groups = cluster_rows(
    x, label, jax.random.key(0), num_classes=1, clusters_per_class=K
  )
  quality = np.where(IDS == 2, 0, QUALITY)
  found = ecoval(additive(), groups.ids, quality, num_clusters=K)
  again = ecoval_of_points(found, groups, x, label, quality, num_classes=1)
  np.testing.assert_allclose(again, found.values, rtol=1e-6)
  assert (np.asarray(again)[IDS == 2] > 0).all()


def test_elasticity_of_a_cluster_without_quality_goes_by_its_rows():
  quality = np.where(IDS == 2, 0, QUALITY)
  even = np.where(IDS == 2, 1, QUALITY)
  found = ecoval(
    cobb_douglas(even),
    IDS,
    quality,
    num_clusters=K,
    cluster_value="elasticity",
    key=jax.random.key(1),
  )
  np.testing.assert_allclose(found.elasticities, GAMMA, atol=1e-5)


# Clusters.


def test_clusters_are_those_of_scikit_learn_where_they_are_plain():
  rng = np.random.default_rng(0)
  centre = rng.normal(size=(6, 3)) * 20
  group = np.arange(60) % 6
  x = (centre[group] + rng.normal(size=(60, 3))).astype(np.float32)
  label = group % 2
  found = jax.jit(
    lambda key: cluster_rows(
      x, label, key, num_classes=2, clusters_per_class=3, chunk_size=17
    )
  )(jax.random.key(0))
  for y in range(2):
    own = label == y
    model = KMeans(3, n_init=5, random_state=0).fit(x[own])
    ids = np.asarray(found.ids)[own]
    assert ((ids >= 3 * y) & (ids < 3 * y + 3)).all()
    # The same groups, and their means.
    assert len(set(zip(ids, model.labels_))) == 3
    for k in set(ids):
      np.testing.assert_allclose(
        found.centroids[k], x[own][ids == k].mean(axis=0), atol=1e-4
      )
  assert found.labels.tolist() == [0, 0, 0, 1, 1, 1]
  again = nearest_clusters(found, x, label, num_classes=2)
  np.testing.assert_array_equal(again, found.ids)


@pytest.mark.slow
def test_a_class_with_few_rows_or_none_leaves_clusters_empty():
  x = np.random.default_rng(0).normal(size=(9, 2)).astype(np.float32)
  label = np.array([0, 0, 0, 0, 0, 0, 0, 0, 1])
  found = cluster_rows(
    x, label, jax.random.key(0), num_classes=3, clusters_per_class=3
  )
  sizes = np.bincount(found.ids, minlength=9)
  assert sizes[:3].sum() == 8 and sizes[3:6].sum() == 1 and sizes[6:].sum() == 0
  values = ecoval(
    Utility(lambda m: m.sum() * 1.0, 9), found.ids, num_clusters=9
  ).values
  np.testing.assert_allclose(values, np.ones(9), atol=1e-6)
  quality = typicality(x, label, num_classes=3)(x[:1], np.array([2]))
  assert quality.tolist() == [0.0]


def test_pruning_by_interleaved_ranks_takes_the_same_share_of_each_cluster():
  values = np.asarray(RNG.normal(size=40) - 5 * (np.arange(40) % 4 == 0))
  ids = np.arange(40) % 4
  ranks = np.asarray(interleaved(values, ids, num_clusters=4))
  lowest = np.argsort(ranks, kind="stable")[:12]
  np.testing.assert_array_equal(np.bincount(ids[lowest]), [3, 3, 3, 3])
  for k in range(4):
    own = np.flatnonzero(ids == k)
    expected = own[np.argsort(values[own])[:3]]
    assert set(expected) == set(lowest[ids[lowest] == k])
  assert ranks.min() > 0 and ranks.max() < 1


# Qualities.


def test_typicality_is_its_formula():
  data = blobs(20)
  x, label = np.asarray(data["x"], np.float64), np.asarray(data["label"])
  means = np.stack([x[label == y].mean(axis=0) for y in range(4)])
  square = ((x[:, None] - means[None]) ** 2).sum(axis=-1)
  scale = np.median(square.min(axis=1))
  quality = typicality(data["x"], data["label"], num_classes=4)
  np.testing.assert_allclose(
    quality(data["x"], data["label"]),
    np.exp(-square[np.arange(20), label] / scale),
    atol=1e-6,
  )


def test_confidence_is_the_probability_of_the_label():
  logits = jnp.log(jnp.array([[0.2, 0.8], [0.9, 0.1]]))
  found = confidence(logits, jnp.array([1, 1]))
  np.testing.assert_allclose(found, [0.8, 0.1], atol=1e-6)


@pytest.mark.slow
def test_a_curated_set_of_all_rows_gives_their_own_values():
  # Far apart, so that the kernel of a row reaches no other; K = 2 clusters of
  # fewer rows than are curated in each, so that all rows are.
  x = np.arange(6.0)[:, None] * 1000
  label = np.array([0, 0, 0, 1, 1, 1])
  groups = cluster_rows(
    x, label, jax.random.key(0), num_classes=2, clusters_per_class=1
  )
  quality = curated(
    additive(WORTH[:6]),
    x,
    label,
    groups,
    jax.random.key(1),
    num_classes=2,
    per_cluster=4,
    num_samples=4000,
  )
  found = quality(x, label)
  # A difference of means of 2,000 each: error below 0.1.
  np.testing.assert_allclose(found, WORTH[:6] - WORTH[:6].min(), atol=0.25)
  assert float(found.min()) == 0.0
  between = quality(np.array([[999.0], [4001.0]]), np.array([0, 1]))
  np.testing.assert_allclose(between, found[jnp.array([1, 4])], atol=1e-6)


@pytest.mark.slow
def test_curated_rows_are_a_few_of_each_cluster():
  data = blobs(24)
  groups = cluster_rows(
    data["x"],
    data["label"],
    jax.random.key(0),
    num_classes=4,
    clusters_per_class=1,
  )
  game, calls = counted(Utility(lambda m: m.sum() * 1.0, 24))
  curated(
    game,
    data["x"],
    data["label"],
    groups,
    jax.random.key(1),
    num_classes=4,
    per_cluster=2,
    num_samples=30,
    strategy="map",
  )
  jax.effects_barrier()
  used = np.any(calls, axis=0)
  assert len(calls) == 30
  np.testing.assert_array_equal(np.bincount(data["label"][used]), [2] * 4)


# Points outside of the data.


@pytest.mark.parametrize(
  ("rule", "invert"), [("share", False), ("share", True), ("additive", False)]
)
def test_the_datas_own_rows_as_new_points_have_their_values(rule, invert):
  data = blobs(24)
  groups = cluster_rows(
    data["x"],
    data["label"],
    jax.random.key(0),
    num_classes=4,
    clusters_per_class=2,
  )
  game = additive(np.random.default_rng(1).normal(size=24))
  quality = typicality(data["x"], data["label"], num_classes=4)(
    data["x"], data["label"]
  )
  how = {"price": PriceRule(rule, invert_negative=invert)}
  found = ecoval(
    game, groups.ids, quality, num_clusters=groups.num_clusters, **how
  )
  again = ecoval_of_points(
    found, groups, data["x"], data["label"], quality, num_classes=4, **how
  )
  np.testing.assert_allclose(again, found.values, atol=1e-5)


# Bad input.


@pytest.mark.parametrize(
  ("change", "match"),
  [
    ({"num_clusters": 0}, "num_clusters > 0"),
    ({"num_clusters": N + 1}, f"num_clusters <= {N}, the rows, got {N + 1}"),
    ({"utility": Utility(jnp.sum, 0)}, "num_rows > 0"),
    ({"cluster_ids": IDS + 1}, "cluster_ids in 0 .. 2, got 1 .. 3"),
    ({"cluster_ids": IDS - 1}, "cluster_ids in 0 .. 2, got -1 .. 1"),
    ({"cluster_ids": IDS * 1.0}, "cluster_ids of integer dtype"),
    ({"cluster_ids": IDS[:4]}, r"cluster_ids \[12\]"),
    ({"quality": QUALITY - 0.5}, "quality >= 0 and finite"),
    ({"quality": QUALITY * np.nan}, "quality >= 0 and finite"),
    ({"quality": QUALITY[:3]}, r"quality \[12\]"),
    (
      {"price": PriceRule("fair")},
      "kind to be one of 'share', 'additive', got 'fair'",
    ),
    ({"cluster_value": "x"}, "cluster_value to be one of 'leave_out'"),
    ({"cluster_value": "elasticity"}, "a key for cluster_value="),
    (
      {
        "cluster_value": "elasticity",
        "removed_share": 1.0,
        "key": jax.random.key(0),
      },
      r"removed_share in \(0, 1\), got 1.0",
    ),
    (
      {
        "utility": Utility(lambda m: -m.sum() * 1.0, N),
        "cluster_value": "elasticity",
        "key": jax.random.key(0),
      },
      "utility of all rows > 0",
    ),
    ({"utility": Utility(lambda m: m.sum() / 0.0, N)}, "finite utilities"),
    (
      {"price": PriceRule("additive", invert_negative=True)},
      "invert_negative with kind='share' only, got kind='additive'",
    ),
    (
      {
        "utility": Utility(lambda m: m.sum() - N - 1.0, N),
        "constant_returns": True,
      },
      "utility of all rows > 0, such as an accuracy",
    ),
    (
      {
        "utility": Utility(lambda m: 20.0 - m.sum(), N),
        "constant_returns": True,
      },
      "elasticities with a sum > 0",
    ),
  ],
)
def test_bad_input_is_named(change, match):
  given = {"utility": additive(), "cluster_ids": IDS, "num_clusters": K}
  refused(match, ecoval_values, **{**given, **change})


@pytest.mark.parametrize(
  ("change", "match"),
  [
    ({"clusters_per_class": 5}, r"<= 8, the rows, got 2 \* 5 = 10"),
    ({"clusters_per_class": 0}, "clusters_per_class > 0"),
    ({"num_iterations": 0}, "num_iterations > 0"),
    ({"num_classes": 1}, "labels in 0 .. 0, got 0 .. 1"),
    ({"labels": np.zeros(3, int)}, r"and labels \[N\], got"),
    ({"features": np.full((8, 2), np.inf)}, "features to be finite, got 16"),
    ({"features": np.zeros((0, 2))}, "N > 0"),
  ],
)
def test_bad_rows_to_cluster_are_named(change, match):
  given = {
    "features": np.zeros((8, 2)),
    "labels": np.arange(8) % 2,
    "num_classes": 2,
  }
  refused(match, cluster_rows, key=jax.random.key(0), **{**given, **change})


@pytest.mark.slow
def test_bad_points_and_qualities_are_named():
  data = blobs(8)
  x, label, key = data["x"], data["label"], jax.random.key(0)
  groups = cluster_rows(x, label, key, num_classes=4, clusters_per_class=1)
  found = ecoval(additive(WORTH[:8]), groups.ids, num_clusters=4)
  new = lambda found, x, classes: ecoval_of_points(
    found, groups, x, label, num_classes=classes
  )
  refused(r"features \[M, 6\]", new, found, x[:, :5], 4)
  refused("divides the 4 clusters", new, found, x, 5)
  other = ecoval(additive(WORTH[:8]), groups.ids, num_clusters=6)
  refused("values of 4 clusters", new, other, x, 4)
  with pytest.raises(ValueError, match="kind to be one of"):
    ecoval_of_points(
      found, groups, x, label, num_classes=4, price=PriceRule("fair")
    )
  refused(r"logits \[N, C\]", confidence, x[:3], label)
  with pytest.raises(ValueError, match=r"features \[M, 6\]"):
    typicality(x, label, num_classes=4)(x[:, :2], label)
  with pytest.raises(ValueError, match=r"values and cluster_ids \[N\]"):
    interleaved(jnp.zeros(3), jnp.zeros(4, jnp.int32), num_clusters=1)
  make = lambda game, **how: curated(
    game, x, label, groups, key, num_classes=4, **how
  )
  refused("per_cluster > 0", make, additive(WORTH[:8]), per_cluster=0)
  refused("clusters and a utility of 8 rows", make, additive(WORTH[:7]))
  with pytest.raises(ValueError, match="finite utilities"):
    make(Utility(lambda m: jnp.nan * m.sum(), 8), num_samples=4)
  quality = make(additive(WORTH[:8]), num_samples=4)
  refused(r"features \[M, 6\]", quality, x[:, :2], label)
