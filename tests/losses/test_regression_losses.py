import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from refusals import refused

from jaxunlearn.losses import regression


def test_errors_are_means_over_an_examples_entries():
  rng = np.random.default_rng(0)
  a, b = rng.normal(size=(2, 5, 3))
  found = regression.absolute_error(a, b)
  np.testing.assert_allclose(found, np.abs(a - b).mean(axis=1), rtol=1e-6)
  found = regression.squared_error(a, b)
  np.testing.assert_allclose(found, ((a - b) ** 2).mean(axis=1), rtol=1e-6)


def test_a_column_of_outputs_meets_a_vector_of_targets():
  outputs, targets = jnp.array([[1.0], [5.0]]), jnp.array([3.0, 4.0])
  assert regression.absolute_error(outputs, targets).tolist() == [2.0, 1.0]
  # Broadcasting would give [2, 2].
  with pytest.raises(ValueError, match=r"got \(2,\) and \(2, 1\)"):
    regression.squared_error(targets, outputs)


def test_no_rows_have_no_losses():
  for fn in (regression.absolute_error, regression.squared_error):
    assert fn(jnp.zeros((0, 1)), jnp.zeros(0)).shape == (0,)


def test_the_absolute_error_has_no_slope_where_both_agree():
  slope = jax.grad(lambda o: regression.absolute_error(o, jnp.ones(2)).sum())
  assert slope(jnp.ones(2)).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("kind", ["l1", "l2", "quantile"])
def test_the_loss_of_a_model_reads_the_label(kind):
  quantiles = (0.1, 0.9) if kind == "quantile" else None
  loss = regression.on_targets(kind, quantiles=quantiles)
  outputs = jnp.zeros((4, 2) if quantiles else 4)
  rows = {"x": None, "label": jnp.arange(1.0, 5.0)}
  want = {
    "l1": [1.0, 2.0, 3.0, 4.0],
    "l2": [1.0, 4.0, 9.0, 16.0],
    "quantile": [1.0, 2.0, 3.0, 4.0],  # 0.1 y + 0.9 y.
  }[kind]
  chex.assert_trees_all_close(loss(outputs, rows), jnp.array(want), rtol=1e-6)


def test_bad_arguments_are_refused():
  good = jnp.ones(3)
  with pytest.raises(ValueError, match=r"targets float .*, got int32"):
    regression.absolute_error(good, jnp.arange(3))
  refused("row axis", regression.absolute_error, jnp.ones(()), jnp.ones(()))
  with pytest.raises(ValueError, match=r"outputs \[..., Q\]"):
    regression.quantile_loss(jnp.ones((3, 2)), good, [0.5])
  with pytest.raises(ValueError, match=r"quantiles in \(0, 1\), got"):
    regression.quantile_loss(jnp.ones((3, 2)), good, [0.5, 1.0])
  refused("kind to be one of", regression.on_targets, "huber")
  refused("quantiles for kind='quantile'", regression.on_targets, "quantile")
  with pytest.raises(ValueError, match="quantiles for kind='quantile'"):
    regression.on_targets("l1", quantiles=(0.5,))
  refused("kind to be one of 'l1', 'l2'", regression.error_of, "quantile")
