import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from jaxunlearn.core import per_example

ROWS = {"x": jnp.arange(22.0).reshape(11, 2), "id": jnp.arange(11)}
X = np.arange(22.0).reshape(11, 2)


def of_row(row):
  return {"square": row["x"] ** 2, "id": row["id"] + 1}


@pytest.mark.parametrize("chunk_size", [1, 3, 10, 11, 64])
def test_rows_in_chunks_of_any_size_equal_all_at_once(chunk_size):
  run = lambda d: per_example.map_rows(of_row, d, chunk_size=chunk_size)
  wanted = {"square": X**2, "id": np.arange(11) + 1}
  for out in (run(ROWS), jax.jit(run)(ROWS)):
    chex.assert_trees_all_equal(jax.tree.map(np.asarray, out), wanted)
    assert out["id"].dtype == jnp.int32


@pytest.mark.parametrize("chunk_size", [1, 4, 11, 64])
def test_a_sum_counts_every_row_once_by_its_weight(chunk_size):
  weights = jnp.linspace(0.0, 1.0, 11)
  total = per_example.sum_rows(
    lambda row: row["x"], ROWS, weights, chunk_size=chunk_size
  )
  wanted = (np.linspace(0, 1, 11)[:, None] * X).sum(axis=0)
  np.testing.assert_allclose(total, wanted, rtol=1e-6)
  pairs = per_example.sum_chunks(
    lambda rows, w: (w[:, None] * rows["x"]).sum(axis=0),
    ROWS,
    weights,
    chunk_size=chunk_size,
  )
  np.testing.assert_allclose(pairs, wanted, rtol=1e-6)


def test_a_row_of_weight_zero_is_not_read():
  rows = {"x": ROWS["x"].at[3].set(jnp.nan)}
  weights = jnp.arange(11) != 3
  total = per_example.sum_rows(
    lambda row: row["x"], rows, weights, chunk_size=4
  )
  np.testing.assert_allclose(total, X[np.arange(11) != 3].sum(axis=0))


def test_a_sum_of_bfloat16_rows_is_taken_in_float32():
  rows = jnp.ones(1000, jnp.bfloat16)
  total = per_example.sum_rows(
    lambda x: x, rows, jnp.ones(1000, bool), chunk_size=7
  )
  assert total.dtype == jnp.float32 and total == 1000.0


def test_no_rows_give_no_results_and_a_sum_of_zero():
  none = jax.tree.map(lambda leaf: leaf[:0], ROWS)
  out = per_example.map_rows(of_row, none, chunk_size=4)
  assert out["square"].shape == (0, 2) and out["id"].shape == (0,)
  total = per_example.sum_rows(
    lambda row: row["x"], none, jnp.zeros(0), chunk_size=4
  )
  np.testing.assert_array_equal(total, np.zeros(2))


def test_results_in_chunks_can_be_differentiated_and_vmapped():
  def total(scale):
    return per_example.map_rows(
      lambda x: (scale * x) ** 2, ROWS["x"], chunk_size=4
    ).sum()

  wanted = 2 * 3.0 * (X**2).sum()
  np.testing.assert_allclose(jax.grad(total)(3.0), wanted, rtol=1e-6)
  many = jax.vmap(total)(jnp.array([1.0, 2.0]))
  np.testing.assert_allclose(many, [(X**2).sum(), 4 * (X**2).sum()], rtol=1e-6)


def test_devices_that_hold_rows_of_their_own_walk_over_them():
  mesh = Mesh(np.array(jax.devices()), ("rows",))
  x = jnp.arange(40.0)
  square = lambda v: v**2

  def both(x):
    ones = jnp.ones(x.shape, bool)
    total = per_example.sum_rows(square, x, ones, chunk_size=2)
    kept = per_example.map_rows(square, x, chunk_size=2)
    return jax.lax.psum(total, "rows"), kept

  spread = jax.shard_map(
    both, mesh=mesh, in_specs=P("rows"), out_specs=(P(), P("rows"))
  )
  total, kept = jax.jit(spread)(x)
  np.testing.assert_allclose(kept, np.arange(40.0) ** 2)
  np.testing.assert_allclose(total, (np.arange(40.0) ** 2).sum())


def test_memory_beside_data_and_result_does_not_depend_on_the_rows():
  w = jnp.ones((20, 30))
  score = lambda v: jax.grad(lambda w: jnp.tanh(v @ w).sum())(w).sum()

  def temporary(n, chunk_size=128):
    run = lambda d, m: (
      per_example.map_rows(score, d, chunk_size=chunk_size),
      per_example.sum_rows(score, d, m, chunk_size=chunk_size),
    )
    rows = jax.ShapeDtypeStruct((n, 20), jnp.float32)
    mask = jax.ShapeDtypeStruct((n,), jnp.bool_)
    compiled = jax.jit(run).lower(rows, mask).compile()
    return compiled.memory_analysis().temp_size_in_bytes

  few, many = temporary(1_000), temporary(50_000)
  assert many <= 1.01 * few
  assert temporary(1_000, chunk_size=1_000) > 4 * few  # It is what is measured.


def test_bad_chunk_sizes_and_lengths_are_rejected():
  for bad in (0, -3):
    with pytest.raises(ValueError, match=f"chunk_size > 0, got .*{bad}"):
      per_example.map_rows(of_row, ROWS, chunk_size=bad)
    with pytest.raises(ValueError, match=f"chunk_size > 0, got .*{bad}"):
      per_example.sum_rows(of_row, ROWS, jnp.ones(11), chunk_size=bad)
  with pytest.raises(ValueError, match="data and weights of one length"):
    per_example.sum_rows(of_row, ROWS, jnp.ones(10), chunk_size=2)
