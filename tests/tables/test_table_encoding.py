"""Tables as normal scores and indicators, and back."""

import jax
import jax.numpy as jnp
import numpy as np
from refusals import refused
from scipy import special, stats

from jaxunlearn.tables import columns_of, decode, encode, fit_encoding
from jaxunlearn.tables.encoding import draw_codes, group_log_softmax

COLUMNS = columns_of((0, 3, 0, 2))


def table(n=200, seed=0):
  rng = np.random.default_rng(seed)
  gain = np.where(rng.random(n) < 0.8, 0, rng.exponential(100, n))
  columns = [
    np.round(rng.normal(40, 10, n)),
    rng.integers(0, 3, n),
    gain,
    rng.integers(0, 2, n),
  ]
  return jnp.asarray(np.column_stack(columns), jnp.float32)


def fitted(x, weights=None):
  weights = jnp.ones(len(x)) if weights is None else weights
  return fit_encoding(x, weights, COLUMNS)


@jax.jit
def there_and_back(x):
  encoding = fitted(x)
  encoded = encode(encoding, x, COLUMNS)
  codes = x[:, COLUMNS.categorical]
  return encoded, decode(encoding, encoded[:, :2], codes, COLUMNS)


def test_encoding_and_decoding_gives_the_table_back():
  x = table()
  encoded, back = there_and_back(x)
  assert encoded.shape == (200, 2 + 5)
  np.testing.assert_array_equal(back[:, [1, 3]], x[:, [1, 3]])
  # Whole numbers within a quantile of themselves; of zeros exactly zeros.
  assert np.abs(back[:, 0] - x[:, 0]).max() <= 10
  assert np.abs(back[:, 0] - x[:, 0]).mean() < 0.5
  np.testing.assert_array_equal(back[:, 0], np.round(back[:, 0]))
  assert (back[x[:, 2] == 0, 2] == 0).all()
  assert stats.spearmanr(back[:, 2], x[:, 2]).statistic > 0.99


def test_scores_are_those_of_the_rank_and_indicators_those_of_the_code():
  x = table()
  encoded, _ = there_and_back(x)
  rank = stats.rankdata(x[:, 0], method="average") / 200
  wanted = special.ndtri(np.clip(rank, 1 / 256, 1 - 1 / 256))
  assert np.abs(encoded[:, 0] - wanted).max() < 0.35
  assert np.abs(encoded[:, 0] - wanted).mean() < 0.05
  np.testing.assert_array_equal(encoded[:, 2:5].argmax(axis=1), x[:, 1])
  np.testing.assert_array_equal(encoded[:, 2:].sum(axis=1), 2)


def test_rows_without_weight_leave_no_trace_in_the_encoding():
  x = np.array(table())
  keep = np.arange(200) < 120
  wanted = fitted(jnp.asarray(x[:120]))
  x[120:] = [1e6, 2, -1e6, 1]
  found = fitted(jnp.asarray(x), jnp.asarray(keep, jnp.float32))
  for a, b in zip(found, wanted):
    np.testing.assert_allclose(a, b, rtol=1e-6)


def test_shares_of_levels_sum_to_one_in_each_column():
  logits = jax.random.normal(jax.random.key(0), (7, 5)) * 30
  shares = np.exp(group_log_softmax(logits, COLUMNS))
  np.testing.assert_allclose(shares[:, :3].sum(axis=1), 1, rtol=1e-5)
  np.testing.assert_allclose(
    shares[:, :3], special.softmax(logits[:, :3], axis=1), atol=1e-6
  )


def test_codes_are_drawn_in_proportion():
  shares = np.array([0.5, 0.3, 0.2, 0.1, 0.9])
  logits = jnp.broadcast_to(jnp.log(shares)[None], (4000, 5))
  codes = np.asarray(draw_codes(logits, jax.random.key(1), COLUMNS))
  found = np.bincount(codes[:, 0], minlength=3) / 4000
  # Five standard errors.
  np.testing.assert_allclose(found, shares[:3], atol=5 * 0.5 / 4000**0.5)
  np.testing.assert_allclose(codes[:, 1].mean(), 0.9, atol=5 * 0.3 / 4000**0.5)


def test_columns_that_make_no_sense_are_refused():
  refused("categories >= 0", columns_of, (0, -1))
  refused("at least 1 column, got 0", columns_of, ())
