"""Semivalues of games whose values are known, and what every estimator keeps."""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from refusals import refused
from scipy.special import betaln, gammaln

from jaxunlearn.core.devices import make_mesh
from jaxunlearn.valuation import banzhaf, exact, permutation, sizes
from jaxunlearn.valuation.class_wise import class_wise_shapley
from jaxunlearn.valuation.datamodels import RATES, ame, fit_ridge
from jaxunlearn.valuation.types import Utility, Valuation

AIRPORT = np.array([1.0, 2.0, 4.0, 7.0, 11.0])
# Verified by enumeration; see also `airport_values`.
AIRPORT_VALUES = {
  "shapley": (0.2, 0.45, 1.116667, 2.616667, 6.616667),
  "banzhaf": (0.0625, 0.1875, 0.6875, 2.1875, 6.1875),
  "beta_4_1": (0.5, 1.071429, 2.404762, 4.804762, 8.804762),
  "beta_16_1": (0.8, 1.642105, 3.419883, 6.243412, 10.243412),
  "loo": (0.0, 0.0, 0.0, 0.0, 4.0),
}
SIZES = {
  "shapley": sizes.shapley_sizes,
  "banzhaf": sizes.banzhaf_sizes,
  "beta_4_1": lambda n: sizes.beta_sizes(n, 4.0, 1.0),
  "beta_16_1": lambda n: sizes.beta_sizes(n, 16.0, 1.0),
  "loo": sizes.loo_sizes,
}
KEY = jax.random.key(0)


def airport(costs=AIRPORT):
  costs = jnp.asarray(costs, jnp.float32)
  value = lambda mask: jnp.where(mask, costs, 0).max()
  return Utility(value, len(costs))


def additive(weights, offset=0.0):
  w = jnp.asarray(weights, jnp.float32)
  return Utility(lambda m: offset + jnp.where(m, w, 0).sum(), len(w), offset)


def glove(left=2, right=3):
  """A pair of gloves is worth 1; players hold one each."""
  is_left = jnp.arange(left + right) < left
  value = lambda m: jnp.minimum((m & is_left).sum(), (m & ~is_left).sum())
  return Utility(value, left + right)


def voting(weights=(4, 3, 2, 1, 0), quota=6):
  """The last voter is a null player."""
  w = jnp.asarray(weights)
  value = lambda m: (jnp.where(m, w, 0).sum() >= quota).astype(jnp.float32)
  return Utility(value, len(weights))


ALL_SETS = list(itertools.product([False, True], repeat=5))
GAMES = {
  "airport": airport,
  "glove": glove,
  "voting": voting,
  "additive": lambda: additive([0.5, -1.0, 2.0, 0.0, 3.0], offset=0.7),
}


@functools.cache
def worths(game):
  """Of all sets of a game of five, float64."""
  utility = GAMES[game]()
  found = jax.jit(jax.vmap(utility.value))(np.array(ALL_SETS))
  worth = dict(zip(ALL_SETS, np.asarray(found, np.float64)))
  return worth | {(False,) * 5: float(utility.empty_value)}


def enumerated(game, size_probabilities):
  """A semivalue in float64, set by set, and the range of what sets are worth."""
  worth, values = worths(game), np.zeros(5)
  for i, mask in itertools.product(range(5), ALL_SETS):
    if mask[i]:
      continue
    joined = (*mask[:i], True, *mask[i + 1 :])
    size = sum(mask)
    weight = size_probabilities[size] / math.comb(4, size)
    values[i] += weight * (worth[joined] - worth[mask])
  return values, np.ptp(list(worth.values()))


def exactly(utility, kind):
  probabilities = SIZES[kind](utility.num_rows)
  return jax.jit(lambda p: exact.exact_semivalue(utility, p))(probabilities)


@pytest.mark.parametrize("kind", SIZES)
def test_exact_values_of_the_airport_game_are_the_published_ones(kind):
  found = exactly(airport(), kind)
  np.testing.assert_allclose(found.values, AIRPORT_VALUES[kind], atol=1e-6)
  assert int(found.num_evaluations) == 32
  assert float(found.utility_full) == 11


@pytest.mark.parametrize("game", GAMES)
@pytest.mark.parametrize("kind", ["shapley", "banzhaf", "beta_4_1"])
def test_exact_values_equal_enumeration(game, kind):
  found = exactly(GAMES[game](), kind)
  expected, _ = enumerated(game, np.asarray(SIZES[kind](5)))
  np.testing.assert_allclose(found.values, expected, atol=2e-6)
  np.testing.assert_array_equal(found.standard_error, 0)


def test_leave_one_out_equals_its_formula_and_counts_n_plus_one():
  found = jax.jit(lambda: exact.loo(airport()))()
  np.testing.assert_allclose(found.values, AIRPORT_VALUES["loo"], atol=1e-6)
  assert int(found.num_evaluations) == 6


def test_leave_one_out_of_one_row_is_against_the_empty_set():
  utility = Utility(lambda m: jnp.float32(5.0), 1, 2.0)
  assert exact.loo(utility).values.tolist() == [3.0]


def test_msr_on_all_masks_equals_banzhaf():
  masks = jnp.array(list(itertools.product([False, True], repeat=5)))
  values, _ = banzhaf.msr_values(masks, airport().many(masks))
  np.testing.assert_allclose(values, AIRPORT_VALUES["banzhaf"], atol=1e-5)


@pytest.mark.parametrize("antithetic", [False, True])
def test_shapley_converges_within_its_standard_errors(antithetic):
  games = {key: make() for key, make in GAMES.items()}
  run = jax.jit(
    lambda key: {
      name: permutation.shapley(
        utility, key, num_permutations=2000, antithetic=antithetic
      )
      for name, utility in games.items()
    }
  )
  for name, found in run(KEY).items():
    expected, spread = enumerated(name, np.full(5, 1 / 5))
    error = np.abs(found.values - expected)
    assert (error <= 5 * np.asarray(found.standard_error) + 1e-5).all(), name
    # Marginals of a game of range r have a deviation of at most r (a pair's mean
    # too, of half as many draws).
    assert (np.asarray(found.standard_error) <= spread / 1000**0.5).all(), name


def one_class(utility, key, num_permutations):
  """CS-Shapley of one class is Shapley: exp(0) weighs nothing."""
  return class_wise_shapley(
    lambda mask: utility.value(mask)[None],
    jnp.zeros(utility.num_rows, jnp.int32),
    key,
    num_classes=1,
    num_permutations=num_permutations,
    empty_scores=jnp.full(1, utility.empty_value),
    rescale=False,
  )


def regression(utility, key, num_masks):
  masks = jax.random.bernoulli(key, 0.5, (num_masks, utility.num_rows))
  found = fit_ridge(masks, utility.many(masks), l2=1e-3)
  return Valuation(found.weights, found.standard_error, None, None, None)


# What each estimates of a game of five, and how, with a size M.
SAMPLED = {
  "beta_4_1": (
    SIZES["beta_4_1"],
    lambda u, key, m: permutation.beta_shapley(
      u, key, alpha=4.0, beta=1.0, num_permutations=m
    ),
  ),
  "banzhaf_by_permutations": (
    sizes.banzhaf_sizes,
    lambda u, key, m: permutation.semivalue(
      u, key, sizes.banzhaf_sizes(5), num_permutations=m
    ),
  ),
  "truncated": (
    sizes.shapley_sizes,
    lambda u, key, m: permutation.shapley(
      u,
      key,
      num_permutations=m,
      truncation=1e-6,
      block_size=2,
      permutations_at_once=m,
    ),
  ),
  "msr_0.3": (
    lambda n: sizes.banzhaf_sizes(n, 0.3),
    lambda u, key, m: banzhaf.banzhaf_msr(u, key, num_samples=m, rate=0.3),
  ),
  "msr": (
    sizes.banzhaf_sizes,
    lambda u, key, m: banzhaf.banzhaf_msr(u, key, num_samples=m),
  ),
  "class_wise": (sizes.shapley_sizes, one_class),
  "datamodels": (sizes.banzhaf_sizes, regression),
}


@pytest.mark.parametrize("name", SAMPLED)
def test_every_sampler_converges_on_every_game(name):
  size_probabilities, estimate = SAMPLED[name]
  # The games one after the other, in one program.
  games = {key: make() for key, make in GAMES.items()}
  run = jax.jit(
    lambda key: {g: estimate(u, key, 3000) for g, u in games.items()}
  )
  for game, found in run(KEY).items():
    values, error = found.values, found.standard_error
    expected, spread = enumerated(game, np.asarray(size_probabilities(5)))
    # A sampled marginal is at most N times the range of the utility.
    assert (np.asarray(error) <= 5 * spread / 3000**0.5).all(), game
    gap = np.abs(np.asarray(values) - expected)
    assert (gap <= 5 * np.asarray(error) + 2e-3 * spread).all(), game
    if game == "voting":
      assert gap[4] <= 5 * error[4] + 1e-6  # The null player.


@pytest.mark.parametrize("game", GAMES)
def test_average_marginal_effects_converge_on_every_game(game):
  utility = GAMES[game]()
  found = ame(utility, KEY, num_samples=4000, l1=1e-4)
  of = lambda rate: enumerated(game, np.asarray(sizes.banzhaf_sizes(5, rate)))
  expected, spread = np.mean([of(p)[0] for p in RATES], axis=0), of(0.5)[1]
  error = np.asarray(found.standard_error)
  assert (error <= 5 * spread / 4000**0.5).all()
  gap = np.abs(np.asarray(found.values) - expected)
  assert (gap <= 5 * error + 2e-3 * spread).all()


def many_runs(estimate, repeats=200):
  keys = jax.random.split(jax.random.key(3), repeats)
  return jax.jit(jax.vmap(estimate))(keys)


RATED = {
  "shapley": lambda u, key, m: permutation.shapley(
    u, key, num_permutations=m, antithetic=False
  ),
  "antithetic": lambda u, key, m: permutation.shapley(
    u, key, num_permutations=m
  ),
  **{name: SAMPLED[name][1] for name in ("beta_4_1", "msr", "class_wise")},
  "datamodels": SAMPLED["datamodels"][1],
}


@pytest.mark.parametrize("name", RATED)
def test_errors_shrink_as_one_over_the_root_and_are_as_stated(name):
  estimate = RATED[name]
  few = many_runs(lambda key: estimate(airport(), key, 60))
  many = many_runs(lambda key: estimate(airport(), key, 240))
  real_few, real_many = (
    np.asarray(runs.values)[:, 4].std(ddof=1) for runs in (few, many)
  )
  # A deviation of 200 runs is known to 1 / sqrt(400) = 5 %; two of them, 7 %.
  assert 2 * (1 - 5 * 0.07) < real_few / real_many < 2 * (1 + 5 * 0.07)
  stated = np.sqrt((np.asarray(many.standard_error)[:, 4] ** 2).mean())
  assert abs(stated / real_many - 1) < 5 * 0.05


def test_beta_one_one_is_shapley_bit_for_bit_in_its_orders():
  game, options = airport(), {"num_permutations": 30}
  one, other = jax.jit(
    lambda key: (
      permutation.beta_shapley(game, key, alpha=1.0, beta=1.0, **options),
      permutation.shapley(game, key, **options),
    )
  )(KEY)
  np.testing.assert_allclose(one.values, other.values, atol=1e-6)


@pytest.mark.parametrize("n", [1, 2, 5, 300, 3000])
@pytest.mark.parametrize("a, b", [(1.0, 1.0), (4.0, 1.0), (16.0, 1.0), (1, 4)])
def test_beta_sizes_equal_log_gammas_in_float64(n, a, b):
  k = np.arange(n)
  log_choose = gammaln(n) - gammaln(k + 1) - gammaln(n - k)
  expected = np.exp(log_choose + betaln(k + b, n - 1 - k + a) - betaln(a, b))
  found = sizes.beta_sizes(n, a, b)
  np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-12)
  np.testing.assert_allclose(found.sum(), 1, rtol=1e-5)


@pytest.mark.parametrize("rate", [0.5, 0.1])
def test_banzhaf_sizes_equal_the_binomial_distribution(rate):
  for n in (1, 2, 6, 500):
    k = np.arange(n)
    log_choose = gammaln(n) - gammaln(k + 1) - gammaln(n - k)
    expected = np.exp(
      log_choose + k * np.log(rate) + (n - 1 - k) * np.log1p(-rate)
    )
    np.testing.assert_allclose(
      sizes.banzhaf_sizes(n, rate), expected, rtol=1e-3, atol=1e-9
    )


def saturating(n=40):
  """Worth 1 - 2^-|S|: after ten rows nothing is left to gain."""
  return Utility(lambda m: 1 - 0.5 ** m.sum().astype(jnp.float32), n)


def test_truncation_zero_is_no_truncation():
  run = lambda **options: permutation.shapley(
    airport(), KEY, num_permutations=20, **options
  )
  plain, blocks = jax.jit(lambda: (run(), run(truncation=0.0, block_size=2)))()
  np.testing.assert_allclose(plain.values, blocks.values, rtol=1e-6)
  np.testing.assert_allclose(
    plain.standard_error, blocks.standard_error, rtol=1e-5
  )


def test_truncation_saves_evaluations_and_loses_what_it_allows():
  run = lambda **options: permutation.shapley(
    saturating(), KEY, num_permutations=10, antithetic=False, **options
  )
  plain, short = jax.jit(lambda: (run(), run(truncation=0.01, block_size=5)))()
  # Sizes 6 to 10 are not all within 1 %: 1 - 2^-6 is not. 11 to 15 are.
  assert int(plain.num_evaluations) == 400
  assert int(short.num_evaluations) == 1 + 10 * 15
  assert 0 <= float(plain.values.sum() - short.values.sum()) <= 0.01
  np.testing.assert_allclose(short.utility_full, 1, rtol=1e-6)


def test_truncated_orders_do_not_disturb_each_other():
  options = {"num_permutations": 12, "truncation": 0.05, "block_size": 3}
  apart = permutation.shapley(
    airport(np.arange(1.0, 14.0)), KEY, permutations_at_once=2, **options
  )
  together = permutation.shapley(
    airport(np.arange(1.0, 14.0)), KEY, permutations_at_once=12, **options
  )
  np.testing.assert_allclose(apart.values, together.values, rtol=1e-5)
  assert int(apart.num_evaluations) < int(together.num_evaluations)


def test_the_standard_error_rule_stops_early_and_says_so():
  run = lambda limit: permutation.shapley(
    airport(),
    KEY,
    num_permutations=4000,
    stop=permutation.standard_error_below(limit),
    check_every=50,
    permutations_at_once=50,
  )
  found = run(0.3)
  assert bool(found.converged)
  assert float(found.standard_error.max()) < 0.3
  assert int(found.num_evaluations) < 4000 * 5
  assert int(found.num_evaluations) % (50 * 5) == 0
  missed = run(1e-4)
  assert not bool(missed.converged)
  assert int(missed.num_evaluations) == 4000 * 5


def test_the_relative_change_rule_needs_two_checks():
  found = permutation.shapley(
    additive([1.0, 2.0, 3.0]),
    KEY,
    num_permutations=400,
    stop=permutation.relative_change_below(0.05),
    check_every=100,
    permutations_at_once=20,
  )
  assert bool(found.converged)
  assert int(found.num_evaluations) == 200 * 3


def test_a_check_is_made_only_when_due():
  rule = lambda progress: progress.num_draws > 0
  found = permutation.shapley(
    airport(),
    KEY,
    num_permutations=100,
    antithetic=False,
    stop=rule,
    check_every=30,
    permutations_at_once=10,
  )
  assert int(found.num_evaluations) == 30 * 5


def test_numbers_that_a_jitted_function_closes_over_are_checked_there():
  even, rate = sizes.shapley_sizes(5), jnp.float32(0.3)
  found = jax.jit(lambda: exact.exact_semivalue(airport(), even))()
  np.testing.assert_allclose(found.values, AIRPORT_VALUES["shapley"], atol=1e-6)
  inside = jax.jit(lambda: sizes.banzhaf_sizes(5, rate))()
  np.testing.assert_allclose(inside, sizes.banzhaf_sizes(5, 0.3), rtol=1e-6)
  ones, one = jnp.ones(5), jnp.float32(1.0)
  with pytest.raises(ValueError, match="sum 1, got minimum 1 and sum 5"):
    jax.jit(lambda: exact.exact_semivalue(airport(), ones))()
  with pytest.raises(ValueError, match="rate strictly in"):
    jax.jit(lambda: sizes.banzhaf_sizes(5, one))()


def test_one_draw_has_no_standard_error():
  found = permutation.shapley(
    airport(), KEY, num_permutations=1, antithetic=False
  )
  assert np.isnan(found.standard_error).all()
  pair = permutation.shapley(airport(), KEY, num_permutations=2)
  assert np.isnan(pair.standard_error).all()
  msr = banzhaf.banzhaf_msr(airport(), KEY, num_samples=1)
  assert np.isnan(msr.standard_error).all()
  assert np.isnan(msr.values).all()


ESTIMATORS = {
  "loo": lambda u, key, **o: exact.loo(u, **o),
  "exact": lambda u, key, **o: exact.exact_semivalue(u, **o),
  "shapley": lambda u, key, **o: permutation.shapley(
    u, key, num_permutations=14, **o
  ),
  "truncated": lambda u, key, **o: permutation.shapley(
    u, key, num_permutations=6, truncation=0.1, block_size=2, **o
  ),
  "msr": lambda u, key, **o: banzhaf.banzhaf_msr(u, key, num_samples=50, **o),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ESTIMATORS)
def test_chunks_maps_and_meshes_give_the_same_values(name):
  estimate = ESTIMATORS[name]
  plain = estimate(airport(), KEY)
  mesh = make_mesh(models=8)
  for options in (
    {"strategy": "map"},
    {"strategy": 3},
    {"strategy": 2, "mesh": mesh},
  ):
    other = jax.jit(lambda k, o=options: estimate(airport(), k, **o))(KEY)
    np.testing.assert_allclose(plain.values, other.values, rtol=1e-5)
    np.testing.assert_allclose(
      plain.standard_error, other.standard_error, rtol=1e-4, atol=1e-6
    )
    assert plain.num_evaluations == other.num_evaluations


def test_more_permutations_begin_with_those_of_fewer():
  few = permutation._ranks(KEY, jnp.arange(4), 6, True)
  many = permutation._ranks(KEY, jnp.arange(10), 6, True)
  np.testing.assert_array_equal(few, many[:4])
  np.testing.assert_array_equal(few[0] + few[1], 5)
  np.testing.assert_array_equal(np.sort(many, axis=1)[3], np.arange(6))


@pytest.mark.parametrize("name", ESTIMATORS)
def test_a_nan_utility_is_an_error_outside_jit_and_nan_inside(name):
  bad = Utility(lambda m: jnp.where(m.all(), jnp.nan, 1.0), 5)
  with pytest.raises(ValueError, match="Expected finite utilities, got"):
    ESTIMATORS[name](bad, jax.random.key(4))
  found = jax.jit(lambda key: ESTIMATORS[name](bad, key))(jax.random.key(4))
  assert np.isnan(found.values).any()


@pytest.mark.parametrize("name", ESTIMATORS)
def test_nan_on_the_empty_set_is_replaced_by_the_empty_value(name):
  broken = Utility(lambda m: jnp.where(m.any(), 1.0, jnp.nan), 4, 1.0)
  found = ESTIMATORS[name](broken, KEY)
  np.testing.assert_allclose(found.values, 0, atol=1e-6)


def test_bad_input_is_named():
  game, two, half = airport(), {"num_permutations": 2}, jnp.ones(4) / 4
  shapley = functools.partial(permutation.shapley, game, KEY)
  beta = functools.partial(permutation.beta_shapley, game, KEY, **two)
  msr = functools.partial(banzhaf.banzhaf_msr, game, KEY)
  refused("num_permutations > 0", shapley, num_permutations=0)
  refused("num_permutations even", shapley, num_permutations=3)
  refused("truncation >= 0", shapley, truncation=-0.1, **two)
  refused("block_size > 0", shapley, block_size=0, **two)
  refused("permutations_at_once > 0", shapley, permutations_at_once=0, **two)
  refused("alpha > 0", beta, alpha=0.0, beta=1.0)
  refused("beta > 0", beta, alpha=1.0, beta=-1.0)
  wrong = r"size_probabilities of shape \(5,\)"
  refused(wrong, permutation.semivalue, game, KEY, half, **two)
  wrong = "size_probabilities >= 0 with sum 1"
  refused(wrong, exact.exact_semivalue, game, jnp.ones(5))
  many = additive(np.ones(21))
  refused("1 .. 20 rows", exact.exact_semivalue, many)
  refused("num_rows > 0", exact.loo, additive([]))
  refused("num_rows > 0", sizes.shapley_sizes, 0)
  refused(r"rate strictly in \(0, 1\)", sizes.banzhaf_sizes, 3, 1.0)
  refused("num_samples > 0", msr, num_samples=0)
  refused(r"rate strictly in \(0, 1\)", msr, num_samples=2, rate=0.0)
  ones, values = jnp.ones((2, 3)), banzhaf.msr_values
  refused(r"masks bool \[M > 0, N\]", values, ones, jnp.ones(2))
  refused("utilities", values, ones == 1, jnp.ones(3))
  refused("limit > 0", permutation.standard_error_below, 0.0)
  refused("limit > 0", permutation.relative_change_below, -1.0)
