"""Quantisation against hand-made grids, NumPy and published constants."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxunlearn.attacks import quantization as q
from jaxunlearn.core.types import Variables

ROW = jnp.array([0.7, -0.35, 0.02, 0.1])


def every(path, leaf):
  return True


def normal(*shape, seed=0):
  return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def quantize64(w, bits, symmetric):
  """One group in float64."""
  w, half = np.asarray(w, np.float64), 2.0 ** (bits - 1)
  step = np.abs(w).max() / (half - 1 if symmetric else half)
  low = 1 - half if symmetric else -half
  return step * np.clip(np.round(w / step), low, half - 1)


def test_the_worked_example_of_both_grids():
  clipped = q.quantize({"w": ROW}, 4, "tensor", select=every)["w"]
  np.testing.assert_allclose(clipped, [0.6125, -0.35, 0, 0.0875], atol=1e-7)
  even = q.quantize({"w": ROW}, 4, "tensor", select=every, symmetric=True)["w"]
  np.testing.assert_allclose(even, [0.7, -0.4, 0, 0.1], atol=1e-7)


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_a_tensor_equals_the_definition_in_float64(bits, symmetric):
  w = normal(9, 7)
  found = q.quantize({"w": w}, bits, "tensor", symmetric=symmetric)["w"]
  np.testing.assert_allclose(found, quantize64(w, bits, symmetric), atol=1e-5)


def test_a_channel_is_the_last_axis_and_another_one_by_name():
  w = normal(3, 3, 2, 5) * np.array([1, 10, 0.1, 5, 2], np.float32)
  found = q.quantize({"w": w}, 4, "channel")["w"]
  for c in range(5):
    np.testing.assert_allclose(
      found[..., c], quantize64(w[..., c], 4, False), rtol=1e-5, atol=1e-6
    )
  first = q.quantize({"w": np.moveaxis(w, -1, 0)}, 4, channel_axis=0)["w"]
  np.testing.assert_array_equal(np.moveaxis(np.asarray(first), 0, -1), found)


@pytest.mark.slow
def test_blocks_run_along_the_inputs_of_one_channel_and_the_last_is_short():
  w = normal(10, 3)
  found = np.asarray(q.quantize({"w": w}, 3, 4)["w"])
  for c in range(3):
    for start in (0, 4, 8):
      block = slice(start, start + 4)
      np.testing.assert_allclose(
        found[block, c], quantize64(w[block, c], 3, False), atol=1e-5
      )
  whole = q.quantize({"w": w}, 3, 10)["w"]
  np.testing.assert_array_equal(whole, q.quantize({"w": w}, 3, "channel")["w"])
  row = q.quantize({"w": w[:, 0]}, 3, 4, select=every)["w"]
  np.testing.assert_array_equal(row, found[:, 0])


def test_the_even_grid_rounds_only_once_and_the_clipped_one_may_again():
  tree = {"w": normal(16, 8)}
  once = q.quantize(tree, 4, symmetric=True)
  twice = q.quantize(once, 4, symmetric=True)
  np.testing.assert_allclose(twice["w"], once["w"], rtol=1e-6)
  # Largest weight negative: code -8 is kept, and the grid with it.
  kept = {"w": jnp.array([[-0.8, 0.33, 0.11, 0.7]])}
  once = q.quantize(kept, 4, "tensor")
  np.testing.assert_array_equal(q.quantize(once, 4, "tensor")["w"], once["w"])
  # Positive: 7 / 8 of it is the next grid's largest.
  once = q.quantize({"w": ROW[None]}, 4, "tensor")
  again = q.quantize(once, 4, "tensor")["w"]
  np.testing.assert_allclose(again[0, 0], 0.7 * (7 / 8) ** 2, rtol=1e-6)


@pytest.mark.parametrize("group", ["tensor", "channel", 4])
def test_groups_of_zeros_stay_zero(group):
  w = normal(8, 3)
  w[:, 1] = 0
  found = np.asarray(q.quantize({"w": w}, 4, group)["w"])
  assert (found[:, 1] == 0).all() and np.isfinite(found).all()
  assert (np.asarray(q.quantize_nf4({"w": w}, group)["w"])[:, 1] == 0).all()
  assert (q.quantize({"w": jnp.zeros((4, 4))}, 4, group)["w"] == 0).all()


def test_only_matrices_change_by_default_and_paths_choose_others():
  params = {
    "dense": {"kernel": normal(4, 3), "bias": normal(3)},
    "count": np.arange(6).reshape(2, 3),
  }
  variables = Variables(params, {"mean": normal(3, 3)})
  found = q.quantize(variables, 3)
  np.testing.assert_array_equal(
    found.params["dense"]["bias"], params["dense"]["bias"]
  )
  np.testing.assert_array_equal(found.params["count"], params["count"])
  np.testing.assert_array_equal(
    found.model_state["mean"], variables.model_state["mean"]
  )
  kernel = found.params["dense"]["kernel"]
  assert not np.array_equal(kernel, params["dense"]["kernel"])
  other = q.quantize(params, 3, select=lambda path, _: path == "dense/bias")
  np.testing.assert_array_equal(
    other["dense"]["kernel"], params["dense"]["kernel"]
  )
  assert not np.array_equal(other["dense"]["bias"], params["dense"]["bias"])


def test_the_nf4_values_are_those_of_the_paper():
  published = [
    *(-1.0, -0.6961928, -0.52507305, -0.39491749, -0.28444138, -0.18477343),
    *(-0.09105004, 0.0, 0.0795803, 0.1609302, 0.2461123, 0.33791524),
    *(0.44070983, 0.562617, 0.72295684, 1.0),
  ]
  # The release rounds the outermost probability to seven digits.
  np.testing.assert_allclose(q.nf4_table(), published, atol=1e-6)


def test_nf4_takes_the_nearest_value_scaled_by_the_block():
  w = normal(64, 3)
  found = np.asarray(q.quantize_nf4({"w": w}, 16)["w"])
  table = np.array(q.nf4_table())
  for c in range(3):
    for start in range(0, 64, 16):
      block = w[start : start + 16, c].astype(np.float64)
      top = np.abs(block).max()
      near = np.abs(block[:, None] / top - table).argmin(1)
      np.testing.assert_allclose(
        found[start : start + 16, c], top * table[near], rtol=1e-5
      )
  again = q.quantize_nf4({"w": found}, 16)["w"]
  np.testing.assert_allclose(again, found, rtol=1e-6)


# Bucket survival.


def test_just_over_half_a_step_flips_a_centred_code_and_just_under_does_not():
  w = np.arange(-8, 8, dtype=np.float32)[None] * 0.25  # Codes -8 .. 7.
  near, far = w.copy(), w.copy()
  near[0, 5] += 0.49 * 0.25
  far[0, 5] += 0.51 * 0.25
  assert float(q.bucket_survival({"w": w}, {"w": near}, 4, "tensor")) == 1
  found = q.bucket_survival({"w": w}, {"w": far}, 4, "tensor")
  np.testing.assert_allclose(found, 15 / 16)


@pytest.mark.slow
def test_survival_counts_all_matrices_on_the_grid_of_the_original():
  before = {"a": normal(6, 3), "b": normal(2, 4, 5, seed=1), "bias": normal(3)}
  after = jax.tree.map(
    lambda x: x + 0.1 * normal(*x.shape, seed=2) + 0.05, before
  )
  kept = total = 0
  for name in ("a", "b"):
    step = np.abs(before[name]).max() / 7
    codes = [np.clip(np.round(t[name] / step), -7, 7) for t in (before, after)]
    kept += (codes[0] == codes[1]).sum()
    total += before[name].size
  found = q.bucket_survival(
    Variables(before), Variables(after), 4, "tensor", symmetric=True
  )
  np.testing.assert_allclose(found, kept / total, rtol=1e-6)
  assert 0 < kept < total
  by_bits = jax.vmap(lambda b: q.bucket_survival(before, after, b))
  shares = by_bits(jnp.array([8, 4, 3, 2]))
  assert (np.diff(shares) > 0).all()  # The coarser, the more survive.


def test_of_a_group_of_zeros_only_zeros_survive_and_no_matrix_gives_nan():
  zeros, after = {"w": jnp.zeros((2, 2))}, {"w": jnp.eye(2) * 1e-3}
  np.testing.assert_allclose(q.bucket_survival(zeros, after, 4), 0.5)
  assert np.isnan(q.bucket_survival({"b": ROW}, {"b": ROW}, 4))


@pytest.mark.parametrize(
  ("call", "match"),
  [
    (lambda w: q.quantize(w, 1), "bits >= 2"),
    (lambda w: q.quantize(w, 4.0), "bits to be an integer"),
    (lambda w: q.quantize(w, 4, "row"), "group to be one of"),
    (lambda w: q.quantize(w, 4, 0), "group > 0"),
    (lambda w: q.quantize(w, 4, channel_axis=2), "channel_axis to be an axis"),
    (lambda w: q.quantize({"w": w["w"] * jnp.nan}, 4), "params.*finite"),
    (lambda w: q.quantize_nf4({"w": w["w"] * jnp.inf}), "params.*finite"),
    (lambda w: q.quantize_nf4(w, "row"), "group to be one of"),
    (lambda w: q.bucket_survival(w, {"v": w["w"]}, 4), "unlearned"),
    (
      lambda w: q.bucket_survival(w, {"w": w["w"] * jnp.nan}, 4),
      "unlearned.*finite",
    ),
  ],
)
def test_bad_arguments_end_in_one_line(call, match):
  with pytest.raises(ValueError, match=match):
    call({"w": jnp.asarray(normal(2, 3))})
