"""TabSynDex against the authors' code, against NumPy, and against its defects."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden.metrics import tables_of
from golden.table import load
from scipy import optimize, stats

from jaxunlearn.metrics.tabsyndex import (
  Weights,
  association_matrix,
  support_coverage,
  tabsyndex,
)
from jaxunlearn.metrics.tabsyndex_bands import tabsyndex_bands

KEY = jax.random.key(0)
FOUR = ("basic", "correlation", "support", "distinguishability")
MIXED = (0, 0, 3, 2)


@functools.partial(jax.jit, static_argnames=("categories", "mode", "efficacy"))
def score(
  real, fake, categories, mode="fixed", efficacy=None, rw=None, fw=None
):
  return tabsyndex(
    real,
    fake,
    KEY,
    categories=categories,
    target=0,
    mode=mode,
    efficacy=efficacy,
    weights=Weights(rw, fw),
  )


def mixed(n=80, seed=0):
  """Two numbers and two categories that depend on each other."""
  rng = np.random.default_rng(seed)
  code = rng.integers(0, 3, n)
  x = rng.normal(size=n) + code
  y = 5 + 2 * x + rng.normal(size=n)
  other = (rng.random(n) < 0.2 + 0.3 * code).astype(int)
  return np.column_stack([x, y, code, other]).astype(np.float32)


@pytest.mark.parametrize("case", ["good_class", "bad_regr"])
def test_the_pmse_ratio_is_that_of_the_minimum_that_scipy_finds(case):
  real, fake, categories = tables_of(load(f"tabsyndex__{case}"))
  low, high = real.min(axis=0), real.max(axis=0)
  x = (np.concatenate([real, fake]) - low) / (high - low)
  x = np.column_stack([x, np.ones(400)])
  y = np.repeat([0.0, 1.0], 200)

  def loss(w):
    z = x @ w
    value = (np.logaddexp(0, z) - y * z).sum() + (w[:-1] ** 2).sum() / 2
    slope = x.T @ (1 / (1 + np.exp(-z)) - y) + np.append(w[:-1], 0)
    return value, slope

  w = optimize.minimize(
    loss, np.zeros(7), jac=True, method="BFGS", options={"gtol": 1e-9}
  ).x
  assert np.abs(loss(w)[1]).max() < 1e-5
  p = 1 / (1 + np.exp(-x @ w))
  wanted = ((p - 0.5) ** 2).mean() / (6 * 0.125 / 400)
  found = score(real, fake, categories, "published")
  np.testing.assert_allclose(found.pmse_ratio, wanted, rtol=1e-4)
  np.testing.assert_allclose(
    found.distinguishability, 1.2 ** -abs(1 - wanted), rtol=5e-4
  )


def test_a_copy_scores_29_of_30_in_published_mode():
  rows = mixed()
  found = score(rows, rows, MIXED, "published", "jax")
  np.testing.assert_allclose(found[1:6], (1, 1, 1, 1, 1 / 1.2), atol=1e-5)
  np.testing.assert_allclose(found.total, 29 / 30, atol=1e-5)


def test_associations_are_those_of_numpy():
  rows = mixed(200).astype(np.float64)
  x, _, code, other = rows.T
  found = association_matrix(rows, categories=MIXED)
  np.testing.assert_allclose(
    found[0, 1], np.corrcoef(x, rows[:, 1])[0, 1], atol=1e-6
  )
  flipped = association_matrix(rows * [-1, 1, 1, 1], categories=MIXED)
  np.testing.assert_allclose(flipped[0, 1], -found[0, 1], atol=1e-6)
  means = np.array([x[code == c].mean() for c in range(3)])[code.astype(int)]
  np.testing.assert_allclose(found[0, 2], means.std() / x.std(), atol=1e-5)
  assert found[2, 0] == found[0, 2]
  joint = np.histogram2d(code, other, (3, 2))[0] / 200
  entropy = lambda p: -(p[p > 0] * np.log(p[p > 0])).sum()
  h_code, h_other = entropy(joint.sum(1)), entropy(joint.sum(0))
  shared = h_code + h_other - entropy(joint)
  np.testing.assert_allclose(found[2, 3], shared / h_other, atol=1e-5)
  np.testing.assert_allclose(found[3, 2], shared / h_code, atol=1e-5)


@pytest.mark.parametrize("mode", ["published", "fixed"])
def test_weights_of_zero_leave_rows_out_even_if_they_are_nan(mode):
  real, fake = mixed(60), mixed(50, 1)
  keep = np.arange(60) % 3 > 0
  wanted = score(real[keep], fake[:40], MIXED, mode)
  holes = np.where(keep[:, None], real, np.nan)
  padded = np.where((np.arange(50) < 40)[:, None], fake, np.inf)
  found = score(
    holes,
    padded,
    MIXED,
    mode,
    rw=jnp.asarray(keep),
    fw=jnp.asarray(np.arange(50) < 40, jnp.float32),
  )
  for name in FOUR:
    np.testing.assert_allclose(
      getattr(found, name), getattr(wanted, name), atol=2e-5
    )


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["published", "fixed"])
def test_the_order_of_rows_and_of_columns_does_not_matter(mode):
  real, fake = mixed(), mixed(70, 1)
  wanted = score(real, fake, MIXED, mode)
  rng = np.random.default_rng(3)
  shuffled = score(rng.permutation(real), rng.permutation(fake), MIXED, mode)
  turn = [2, 1, 3, 0]
  turned = score(
    real[:, turn], fake[:, turn], tuple(MIXED[i] for i in turn), mode
  )
  for name in FOUR:
    for found in (shuffled, turned):
      np.testing.assert_allclose(
        getattr(found, name), getattr(wanted, name), atol=5e-5
      )


@pytest.mark.slow
def test_units_do_not_matter_and_in_fixed_mode_origins_neither():
  real, fake = mixed(), mixed(70, 1)
  moved = lambda rows: rows * [4, 0.5, 1, 1] + [100, -3, 0, 0]
  scaled = lambda rows: rows * [4, 0.5, 1, 1]
  fixed, published = (
    score(real, fake, MIXED, m) for m in ("fixed", "published")
  )
  found = score(moved(real), moved(fake), MIXED)
  for name in FOUR:
    np.testing.assert_allclose(
      getattr(found, name), getattr(fixed, name), atol=2e-4
    )
  same = score(scaled(real), scaled(fake), MIXED, "published")
  np.testing.assert_allclose(same.basic, published.basic, atol=1e-4)
  # The defect: errors relative to the value depend on where zero is.
  other = score(moved(real), moved(fake), MIXED, "published")
  assert abs(other.basic - published.basic) > 0.02
  np.testing.assert_allclose(other.support, published.support, atol=1e-5)


def test_scores_fall_with_growing_noise():
  real, fake = (rows[:, :2] for rows in (mixed(300), mixed(300, 1)))
  noise = np.random.default_rng(2).normal(size=fake.shape).astype(np.float32)
  levels = np.linspace(0.3, 6, 10)
  found = [score(real, fake + s * noise, (0, 0)) for s in levels]
  fall = lambda name, start: (
    stats.spearmanr(
      levels[start:], [float(getattr(f, name)) for f in found[start:]]
    ).statistic
  )
  for name in ("basic", "correlation"):
    assert fall(name, 0) <= -0.9, name
  # A little noise fills sparse bins in the tails, which counts as coverage.
  assert fall("support", 2) <= -0.9


def test_distinguishability_falls_with_a_shift_and_does_not_see_noise():
  """Logistic regression on the columns as they are compares means only."""
  real, fake = (rows[:, :2] for rows in (mixed(300), mixed(300, 1)))
  shifts = np.linspace(0.3, 3, 10)
  shifted = [score(real, fake + s, (0, 0)).distinguishability for s in shifts]
  assert stats.spearmanr(shifts, shifted).statistic <= -0.9
  noise = np.random.default_rng(2).normal(size=fake.shape)
  noise -= noise.mean(axis=0)
  noisy = score(real, fake + 6 * noise.astype(np.float32), (0, 0))
  assert noisy.distinguishability > 0.7 > 2 * shifted[-1]


@pytest.mark.slow
def test_noise_makes_the_table_less_useful_to_learn_from():
  real, fake = (rows[:, :2] for rows in (mixed(300), mixed(300, 1)))
  noise = np.random.default_rng(2).normal(size=fake.shape).astype(np.float32)
  levels = np.linspace(0.3, 6, 10)
  values = [
    float(score(real, fake + s * noise, (0, 0), "fixed", "jax").efficacy)
    for s in levels
  ]
  assert stats.spearmanr(levels, values).statistic <= -0.9


def test_rows_outside_the_real_range_cover_nothing():
  rows = mixed()
  found = support_coverage(rows, rows + [99, -99, 0, 0], categories=MIXED)
  np.testing.assert_allclose(found, [0, 0, 1, 1], atol=1e-6)


def test_the_smallest_value_is_covered_beside_a_large_origin():
  rows = np.column_stack([1e6 + np.arange(20) % 2, np.arange(20.0)])
  upper = rows[rows[:, 0] > 1e6]
  found = support_coverage(rows, upper, categories=(0, 0))[0]
  np.testing.assert_allclose(found, 0.5)  # One of two bins.


def test_a_category_that_the_fake_table_lacks_counts_as_not_covered():
  real = mixed(300)
  fake = real[real[:, 2] != 1]  # The authors' code stops with a KeyError.
  column = support_coverage(real, fake, categories=MIXED)[2]
  counts = np.bincount(real[:, 2].astype(int), minlength=3)
  ratio = np.minimum(len(real) / len(fake) * (counts > 0), 1)
  ratio[1] = 0
  np.testing.assert_allclose(column, ratio.mean(), atol=1e-5)


def test_a_bin_that_is_too_full_no_longer_makes_up_for_an_empty_one():
  real = np.column_stack([np.repeat([0, 1], 50), np.arange(100.0)])
  fake = real.copy()
  fake[:, 0] = 0
  modes = {
    mode: support_coverage(real, fake, categories=(2, 0), mode=mode)[0]
    for mode in ("published", "fixed")
  }
  np.testing.assert_allclose(modes["published"], 1)  # (2 + 0) / 2: the defect.
  np.testing.assert_allclose(modes["fixed"], 0.5)


@pytest.mark.slow
def test_a_constant_column_ends_the_published_correlation_only():
  rows = np.column_stack([mixed(), np.full(80, 3.0)])
  kinds = (*MIXED, 0)
  published = score(rows, rows, kinds, "published")
  assert published.correlation == 0 and bool(published.correlation_is_nan)
  fixed = score(rows, rows, kinds)
  np.testing.assert_allclose(fixed.correlation, 1, atol=1e-6)
  # A column that is constant in the fake table only loses its associations.
  flat = rows.copy()
  flat[:, 0] = rows[:, 0].mean()
  assert score(rows, flat, kinds).correlation < 0.95
  assert np.isfinite(score(rows, flat, kinds, "fixed", "jax").total)


def test_associations_near_one_are_compared_as_they_are():
  rng = np.random.default_rng(0)
  x, noise = rng.normal(size=(2, 4000))
  noise -= x * (x @ noise) / (x @ x)
  pair = lambda r: np.column_stack(
    [x / x.std(), r * x / x.std() + (1 - r * r) ** 0.5 * noise / noise.std()]
  )
  tables = pair(0.99), pair(0.98)
  published = score(*tables, (0, 0), "published").correlation
  np.testing.assert_allclose(published, 0, atol=1e-6)  # The defect.
  fixed = score(*tables, (0, 0)).correlation
  np.testing.assert_allclose(fixed, 1 - 0.01 / 2, atol=1e-4)


@pytest.mark.slow
def test_a_genuine_sample_reaches_its_expected_pmse_ratio():
  found = {"published": [], "fixed": []}
  for seed in range(20):
    real, fake = mixed(150, 2 * seed), mixed(150, 2 * seed + 1)
    for mode in found:
      ratio = score(real, fake, MIXED, mode).pmse_ratio
      found[mode].append(float(ratio))
  # Five degrees of freedom: the ratio's deviation is (2 / 5)^0.5, of 20 a
  # quarter of that; four standard errors.
  assert abs(np.mean(found["fixed"]) - 1) < 4 * (2 / 5 / 20) ** 0.5
  # The penalty hides a part; without it, twice the published expectation.
  assert np.mean(found["published"]) > 1


def test_the_published_lasso_and_elastic_net_learn_nothing():
  from jaxunlearn.metrics._efficacy import _elastic_net

  x = np.linspace(0, 1, 50, dtype=np.float32)[:, None]
  ones, rows = jnp.ones(50), jnp.asarray(x)
  for share in (0.5, 1.0):
    flat = _elastic_net(rows, rows[:, 0], ones, alpha=1.0, l1_share=share)
    np.testing.assert_allclose(flat(rows), 0.5, atol=1e-6)
    fit = _elastic_net(rows, rows[:, 0], ones, alpha=1e-3, l1_share=share)
    np.testing.assert_allclose(fit(rows)[:, 0], rows[:, 0], atol=0.02)


@pytest.mark.parametrize("share", [0.5, 1.0])
def test_elastic_net_and_ridge_are_those_of_scikit_learn(share):
  from sklearn.linear_model import ElasticNet, Ridge

  from jaxunlearn.metrics._efficacy import _elastic_net, _ridge

  rng = np.random.default_rng(0)
  x = rng.random((60, 4)).astype(np.float32)
  y = (x @ [0.5, -0.3, 0.0, 0.1] + 0.05 * rng.normal(size=60)).astype("float32")
  net = ElasticNet(alpha=3e-3, l1_ratio=share)
  net = net.fit(x.astype(float), y.astype(float))
  args = jnp.asarray(x), jnp.asarray(y), jnp.ones(60)
  found = _elastic_net(*args, alpha=3e-3, l1_share=share)(args[0])[:, 0]
  np.testing.assert_allclose(found, net.predict(x), atol=2e-4)
  ridge = Ridge(alpha=1.0).fit(x, y).predict(x)
  np.testing.assert_allclose(_ridge(*args)(args[0])[:, 0], ridge, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("efficacy", ["jax", "sklearn"])
@pytest.mark.parametrize("f1", ["micro", "macro"])
def test_a_target_of_three_classes_stays_one_target(efficacy, f1):
  """The authors' code makes it indicators, and one class against the rest."""
  real, other = mixed(200), mixed(200, 1)
  call = lambda fake: (
    tabsyndex(
      real,
      fake,
      KEY,
      categories=MIXED,
      target=2,
      task="classification",
      efficacy=efficacy,
      f1=f1,
    ).efficacy
  )
  shuffled = other.copy()
  shuffled[:, 2] = np.random.default_rng(0).permutation(shuffled[:, 2])
  assert call(other) > 0.8
  assert call(shuffled) < call(other) - 0.1


@pytest.mark.slow
def test_bands_hold_the_score_and_narrow_with_the_table():
  call = lambda n: jax.jit(
    lambda key: tabsyndex_bands(
      mixed(n),
      mixed(n, 1),
      key,
      categories=MIXED,
      target=0,
      efficacy=None,
      num_resamples=20,
      strategy=10,
    )
  )(KEY)
  small, large = call(60), call(600)
  for name in ("basic", "correlation", "support"):
    low, at, high = (
      float(getattr(part, name))
      for part in (small.low, small.score, small.high)
    )
    assert low < at <= high <= 1
    assert getattr(large.std, name) < getattr(small.std, name)
  assert np.isnan(small.score.total)
  again = call(60)
  assert jax.tree.all(
    jax.tree.map(lambda a, b: jnp.array_equal(a, b, True), small, again)
  )


@pytest.mark.slow
def test_bands_of_the_sklearn_kind_take_its_efficacy_once():
  found = tabsyndex_bands(
    mixed(),
    mixed(80, 1),
    KEY,
    categories=MIXED,
    target=0,
    efficacy="sklearn",
    num_resamples=3,
  )
  assert found.std.efficacy == 0 and found.std.total > 0
  assert found.low.total < found.score.total < found.high.total


def rejected(message, real=None, fake=None, **options):
  real = mixed() if real is None else real
  options = {"categories": MIXED, "target": 0, "efficacy": None} | options
  with pytest.raises(ValueError, match=message):
    tabsyndex(real, mixed() if fake is None else fake, KEY, **options)


def test_what_cannot_be_scored_is_refused_in_one_line():
  hole = mixed()
  hole[3, 1] = np.nan
  rejected(
    "without missing or infinite values, got some in column 1", fake=hole
  )
  rejected(r"fake \[N, 4\]", fake=mixed()[:, :3])
  rejected("at least 2 columns, got 1", mixed()[:, :1], categories=(0,))
  rejected("real to have at least 2 rows that count, got 0", mixed()[:0])
  rejected("at least 2 rows that count, got 1", fake=mixed()[:1])
  rejected(
    "codes 0 .. 1 in column 2 of real, got 0 .. 2", categories=(0, 0, 2, 2)
  )
  half = mixed() + np.array([0, 0, 0.5, 0], np.float32)
  rejected("codes 0 .. 2 in column 2 of fake", fake=half)
  rejected("categories >= 0", categories=(0, 0, -3, 2))
  rejected("task to be one of", task="ranking")
  rejected("mode to be one of", mode="mended")
  rejected("efficacy to be one of", efficacy="torch")
  rejected("f1 to be one of", f1="weighted")
  rejected("target in -4 .. 3, got 4", target=4)
  rejected("target in -4 .. 3, got 'age'", target="age")
  rejected("numbers for regression", target=2, efficacy="jax")
  rejected(
    "target of at least 2 categories", task="classification", efficacy="jax"
  )
  rejected("weights of real >= 0", weights=Weights(np.full(80, -1.0)))
  rejected(r"weights \[80\]", weights=Weights(np.ones(3)))
  rejected(
    "two values to classify by",
    task="classification",
    mode="published",
    efficacy="sklearn",
  )
  rejected(
    "weights of 0 and 1",
    efficacy="sklearn",
    weights=Weights(fake=np.full(80, 0.5)),
  )
  with pytest.raises(ValueError, match="num_resamples > 1, got 1"):
    tabsyndex_bands(mixed(), mixed(), KEY, categories=MIXED, num_resamples=1)
  with pytest.raises(ValueError, match="outside jit and vmap"):
    score(mixed(), mixed(), MIXED, "fixed", "sklearn")
  with pytest.raises(ValueError, match="outside jit and vmap"):
    jax.vmap(
      lambda key: tabsyndex(
        mixed(), mixed(), key, categories=MIXED, target=0, efficacy="sklearn"
      )
    )(KEY[None])
  with pytest.raises(ValueError, match="mode to be one of"):
    support_coverage(mixed(), mixed(), categories=MIXED, mode="new")


def test_under_jit_a_missing_value_gives_nan_and_no_score():
  hole = mixed()
  hole[3, 1] = np.nan
  found = score(mixed(), hole, MIXED)
  assert np.isnan(found.basic) and np.isnan(found.distinguishability)
