import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxunlearn.core import checks

DATA = {"x": jnp.zeros((4, 2)), "label": jnp.zeros(4, jnp.int32)}


@pytest.mark.parametrize(
  ("mask", "message"),
  [
    (jnp.zeros(3, bool), r"of shape \(4,\), a row of data each, got \(3,\)"),
    (jnp.zeros((4, 1), bool), r"got \(4, 1\)"),
    (jnp.zeros(4, jnp.int32), "dtype bool .*, got int32"),
  ],
)
def test_a_mask_that_does_not_fit_is_rejected(mask, message):
  with pytest.raises(ValueError, match=message):
    checks.request(DATA, mask)
  with pytest.raises(ValueError, match=message):
    jax.jit(lambda m: checks.request(DATA, m))(mask)


@pytest.mark.parametrize(
  ("mask", "message"),
  [
    (np.zeros(4, bool), "empty request"),
    (np.ones(4, bool), "covers all 4 rows"),
    (np.full(4, 1.5), r"in \[0, 1\]"),
    (np.array([0.0, np.nan, 0, 1]), r"in \[0, 1\]"),
  ],
)
def test_a_request_of_impossible_values_is_rejected(mask, message):
  with pytest.raises(ValueError, match=message):
    checks.request_values(mask)


def test_traced_values_pass():
  jax.jit(checks.request_values)(jnp.zeros(4, bool))
  jax.vmap(lambda x: checks.positive(x=x))(jnp.array([-1.0]))


def test_data_without_a_common_length_is_rejected():
  with pytest.raises(ValueError, match=r"one length, got data\['a'\]: 2"):
    checks.num_rows({"a": jnp.zeros(2), "b": jnp.zeros(3)})
  with pytest.raises(ValueError, match="row axis, got a scalar"):
    checks.num_rows({"a": jnp.zeros(())})
  with pytest.raises(ValueError, match="empty pytree"):
    checks.num_rows({})


def test_nan_is_counted_and_placed():
  bad = {"x": jnp.array([1.0, jnp.nan, jnp.inf])}
  with pytest.raises(ValueError, match=r"data\['x'\] to be finite, got 2"):
    checks.finite(bad, "data")
  checks.finite(DATA, "data")


def test_labels_out_of_range_are_shown():
  with pytest.raises(ValueError, match=r"label in 0 .. 2, got 0 .. 3"):
    checks.labels(np.array([0, 3]), 3)
  with pytest.raises(ValueError, match=r"got -1 .. 1"):
    checks.labels(np.array([-1, 1]), 3)
  with pytest.raises(ValueError, match="integer dtype, got float"):
    checks.labels(np.array([0.0]), 3)


def test_numbers_out_of_range_are_named():
  with pytest.raises(ValueError, match="num_steps > 0, got num_steps=0"):
    checks.positive(num_steps=0)
  with pytest.raises(ValueError, match="copies >= 0, got copies=-1"):
    checks.non_negative(copies=-1)
  with pytest.raises(ValueError, match=r"share in \[0, 1\], got share=2"):
    checks.fraction(share=2)
  with pytest.raises(ValueError, match="mode to be one of 'a', 'b', got 'c'"):
    checks.one_of(("a", "b"), mode="c")


def test_numbers_that_a_jitted_function_closes_over_are_looked_at():
  rate, tree = jnp.float32(0.5), {"w": jnp.ones(2)}

  @jax.jit
  def good(x):
    checks.positive(rate=rate)
    checks.non_negative(rate=rate)
    checks.fraction(rate=rate)
    checks.finite(tree, "tree")
    return x

  assert good(1.0) == 1.0
  negative, bad = -rate, {"w": jnp.array([1.0, jnp.nan])}
  with pytest.raises(ValueError, match="Expected rate > 0"):
    jax.jit(lambda x: checks.positive(rate=negative))(1.0)
  with pytest.raises(ValueError, match="to be finite, got 1"):
    jax.jit(lambda x: checks.finite(bad, "tree"))(1.0)
