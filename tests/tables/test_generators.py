"""Generators fitted under masks."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from refusals import refused
from scipy import stats

from jaxunlearn.tables import (
  gaussian_copula,
  independent_columns,
  resampled_rows,
  tabular_gan,
  tabular_vae,
)

KINDS = (0, 0, 3)
KEY = jax.random.key(0)
ONES = jnp.ones(300, bool)
SMALL = {"num_steps": 6, "batch_size": 16, "width": 8, "latent_size": 4}
GENERATORS = {
  "resampled_rows": resampled_rows(KINDS),
  "independent_columns": independent_columns(KINDS),
  "gaussian_copula": gaussian_copula(KINDS),
  "tabular_vae": tabular_vae(KINDS, **SMALL),
  "tabular_gan": tabular_gan(KINDS, **SMALL),
}


def table(n=300, seed=0):
  """Two numbers that go together, and the third of the first one's range."""
  rng = np.random.default_rng(seed)
  x = rng.normal(size=n)
  y = 10 + 2 * x + rng.normal(size=n)
  code = np.digitize(x, [-0.5, 0.5])
  return jnp.asarray(np.column_stack([x, y, code]), jnp.float32)


@functools.partial(jax.jit, static_argnames=("name", "num_rows"))
def drawn(name, x, weights, key, num_rows=200):
  generator = GENERATORS[name]
  fit_key, sample_key = jax.random.split(key)
  state, _ = generator.fit(x, weights, fit_key)
  return generator.sample(state, sample_key, num_rows)


@pytest.mark.slow
@pytest.mark.parametrize("name", GENERATORS)
def test_rows_are_of_the_table_s_kind_and_within_its_range(name):
  x = table()
  x, found = np.asarray(x), np.asarray(drawn(name, x, ONES, KEY))
  assert found.shape == (200, 3) and found.dtype == np.float32
  assert set(np.unique(found[:, 2])) <= {0, 1, 2}
  assert (found >= x.min(axis=0) - 1e-4).all()
  assert (found <= x.max(axis=0) + 1e-4).all()
  assert len(np.unique(found[:, 0])) > 50
  np.testing.assert_array_equal(found, drawn(name, x, ONES, KEY))


@pytest.mark.parametrize("name", GENERATORS)
def test_rows_without_weight_are_not_read(name):
  keep = jnp.arange(300) % 4 > 0
  x = table()
  holes = jnp.where(keep[:, None], x, jnp.nan)
  wanted = drawn(name, x.at[~keep].set(5.0), keep, KEY)
  np.testing.assert_array_equal(drawn(name, holes, keep, KEY), wanted)
  assert np.isfinite(wanted).all()
  assert (np.asarray(wanted) != np.asarray(drawn(name, x, ONES, KEY))).any()


@pytest.mark.parametrize("name", GENERATORS)
def test_a_category_that_only_rows_left_out_have_is_not_drawn(name):
  x = table()
  found = drawn(name, x, x[:, 2] != 1, KEY)
  assert set(np.unique(found[:, 2])) == {0, 2}


def test_columns_apart_keep_margins_and_lose_associations():
  x = table()
  found = np.asarray(drawn("independent_columns", x, ONES, KEY, 2000))
  assert stats.ks_2samp(found[:, 1], x[:, 1]).pvalue > 1e-4
  assert abs(np.corrcoef(found[:, 0], found[:, 1])[0, 1]) < 5 / 2000**0.5


def test_the_copula_keeps_margins_and_correlations():
  x = np.asarray(table())
  found = np.asarray(drawn("gaussian_copula", jnp.asarray(x), ONES, KEY, 2000))
  assert stats.ks_2samp(found[:, 1], x[:, 1]).pvalue > 1e-4
  wanted = np.corrcoef(x[:, 0], x[:, 1])[0, 1]
  # Its distance is that of 2,300 rows, five standard errors.
  error = 5 * (1 - wanted**2) / 300**0.5
  assert abs(np.corrcoef(found[:, 0], found[:, 1])[0, 1] - wanted) < error
  shares = np.bincount(found[:, 2].astype(int), minlength=3) / 2000
  real = np.bincount(x[:, 2].astype(int), minlength=3) / 300
  np.testing.assert_allclose(shares, real, atol=5 * 0.5 / 2000**0.5)
  assert stats.spearmanr(found[:, 0], found[:, 2]).statistic > 0.5


@pytest.mark.slow
@pytest.mark.parametrize("make", [tabular_vae, tabular_gan])
def test_training_learns_what_goes_together(make):
  x = table()
  generator = make(
    KINDS,
    learning_rate=1e-3,
    num_steps=600,
    batch_size=64,
    width=32,
    latent_size=8,
  )

  @jax.jit
  def run(key):
    state, info = generator.fit(x, ONES, key)
    return generator.sample(state, key, 1000), info

  found, info = run(KEY)
  assert bool(info.is_finite)
  found = np.asarray(found)
  assert np.corrcoef(found[:, 0], found[:, 1])[0, 1] > 0.5  # 0.9 in the table.
  assert stats.spearmanr(found[:, 0], found[:, 2]).statistic > 0.5
  assert len(np.unique(found[:, 2])) == 3


@pytest.mark.slow
@pytest.mark.parametrize(
  "make", [tabular_vae, pytest.param(tabular_gan, marks=pytest.mark.slow)]
)
def test_stops_on_the_way_end_where_training_ends(make):
  x = table()
  generator = make(KINDS, **SMALL, num_checkpoints=3)
  state, info = jax.jit(generator.fit)(x, ONES, KEY)
  assert info.loss.shape == (3, 2)
  last = jax.tree.map(lambda leaf: leaf[-1], info.checkpoints)
  jax.tree.map(np.testing.assert_array_equal, last, state)
  first = jax.tree.leaves(info.checkpoints.variables)
  assert any((leaf[0] != leaf[-1]).any() for leaf in first)


@pytest.mark.slow
@pytest.mark.parametrize("make", [tabular_vae, tabular_gan])
@pytest.mark.parametrize("kinds", [(0, 0), (3, 2)])
def test_tables_of_one_kind_of_column_work(make, kinds):
  x = (
    table()[:, :2]
    if kinds == (0, 0)
    else table()[:, [2, 2]] % jnp.array([[3.0, 2.0]])
  )
  generator = make(kinds, **SMALL)

  @jax.jit
  def run(key):
    state, info = generator.fit(x, ONES, key)
    return generator.sample(state, key, 20), info.is_finite

  found, is_finite = run(KEY)
  assert found.shape == (20, 2) and bool(is_finite)
  assert np.isfinite(found).all()


@pytest.mark.parametrize("name", GENERATORS)
def test_tables_that_do_not_fit_are_refused(name):
  fit = GENERATORS[name].fit
  x = table()
  refused(r"x \[N, 3\]", fit, x[:, :2], ONES, KEY)
  refused(r"weights of shape \(300,\)", fit, x, ONES[:20], KEY)
  refused("weights of dtype bool", fit, x, jnp.ones(300, int), KEY)
  for weight in (jnp.nan, -1.0, 2.0):
    with pytest.raises(ValueError, match=r"weights in \[0, 1\]"):
      fit(x, jnp.ones(300).at[0].set(weight), KEY)
  refused("weights to select rows, got none", fit, x, ~ONES, KEY)
  refused("x to be finite", fit, x.at[0, 0].set(jnp.nan), ONES, KEY)
  refused(r"codes 0 \.\. K - 1", fit, x.at[0, 2].set(3), ONES, KEY)


@pytest.mark.parametrize("make", [tabular_vae, tabular_gan])
def test_counts_that_make_no_sense_are_refused(make):
  with pytest.raises(ValueError, match="multiple of num_checkpoints"):
    make(KINDS, num_steps=5, num_checkpoints=2)
  refused("num_steps > 0", make, KINDS, num_steps=0)
  refused("latent_size > 0", make, KINDS, num_steps=5, latent_size=0)
