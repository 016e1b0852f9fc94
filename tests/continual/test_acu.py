"""ACU against ridge regression by NumPy in float64, and against itself."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from refusals import refused

from jaxunlearn.continual import acu_sums
from jaxunlearn.continual.acu import FORMS, acu, acu_logits, acu_ridge
from jaxunlearn.continual.acu_features import random_relu
from jaxunlearn.continual.acu_stream import (
  AcuStream,
  acu_by_class,
  acu_leave_one_out,
  acu_stream,
)

N, D, C, EVENTS = 30, 6, 3, 5
RNG = np.random.default_rng(0)
Z = RNG.uniform(-1, 1, size=(N, D))
LABEL = np.arange(N) % C
Y = np.eye(C)[LABEL]


def ridge(z, y, l2):
  """Float64, by the formula."""
  return np.linalg.solve(z.T @ z + l2 * np.eye(z.shape[1]), z.T @ y)


def arrays(dtype=jnp.float32):
  return jnp.asarray(Z, dtype), jnp.asarray(Y, dtype)


def error(found, wanted):
  """Relative to the size of a head of all rows, so that zero may be wanted."""
  size = np.linalg.norm(ridge(Z, Y, 0.1))
  return np.linalg.norm(np.asarray(found, np.float64) - wanted) / size


def included_after(learn, forget):
  """The rows that are in after a stream, by a Python loop over sets."""
  rows = set()
  for wanted, unwanted in zip(learn, forget):
    rows |= set(np.flatnonzero(wanted))
    rows -= set(np.flatnonzero(unwanted))
  return np.isin(np.arange(N), sorted(rows))


@functools.cache
def program(form, dtype, l2):
  """The stream and the retrained head, compiled once."""
  learner = acu(D, C, l2=l2, form=form, dtype=dtype)
  z, y = arrays(dtype)
  run = jax.jit(lambda a, b: acu_stream(learner, z, y, a, b))
  head = jax.jit(learner.solve)
  return run, head, jax.jit(lambda mask: acu_ridge(learner, z, y, mask))


@functools.cache
def compiled(form="exact", dtype="float32", l2=0.1):
  """A learner whose functions are compiled once for all tests."""
  learner = acu(D, C, l2=l2, form=form, dtype=jnp.dtype(dtype))
  names = ("learn", "forget", "solve", "inverse")
  return learner._replace(**{n: jax.jit(getattr(learner, n)) for n in names})


@functools.partial(jax.jit, static_argnames="max_rows")
def serve(learn, forget, start=None, max_rows=None):
  """A stream over all rows with the learner of `compiled()`."""
  return acu_stream(
    compiled(), *arrays(), learn, forget, start=start, max_rows=max_rows
  )


masks = st.lists(
  st.lists(st.booleans(), min_size=N, max_size=N),
  min_size=EVENTS,
  max_size=EVENTS,
)


@pytest.mark.parametrize(
  "form, dtype, l2, bound",
  [
    ("exact", "float32", 0.1, 1e-4),
    ("statistics", "float32", 0.1, 1e-4),
    ("exact", "float64", 0.01, 1e-9),
    ("statistics", "float64", 0.01, 1e-9),
    ("recursive", "float64", 0.01, 1e-9),
  ],
)
def test_any_stream_ends_at_ridge_on_what_remains(form, dtype, l2, bound):
  with jax.enable_x64(dtype == "float64"):
    run, head, _ = program(form, jnp.dtype(dtype), l2)

    @settings(max_examples=25, deadline=None, derandomize=True)
    @given(learn=masks, forget=masks)
    def check(learn, forget):
      learn, forget = np.array(learn), np.array(forget)
      # Everything goes in the middle, and everything comes back at the end.
      forget[2], learn[4] = True, True
      for end in (3, EVENTS):
        learn[end:], forget[end:] = False, False
        stream, _ = run(jnp.asarray(learn), jnp.asarray(forget))
        left = included_after(learn, forget)
        np.testing.assert_array_equal(stream.included, left)
        wanted = ridge(Z[left], Y[left], l2)
        assert error(head(stream.state).kernel, wanted) < bound
        learn[4], forget[4] = True, left & (np.arange(N) % 2 == 0)

    check()


@pytest.mark.slow
def test_the_exact_form_is_the_retrained_head_bit_for_bit_at_any_ridge():
  # Nearly dependent columns: float sums are far off here, integers are not.
  z = np.concatenate([Z, Z[:, :2] + 1e-3 * RNG.normal(size=(N, 2))], axis=1)
  z, y = jnp.asarray(np.clip(z, -1, 1), jnp.float32), jnp.asarray(Y)
  learner = acu(D + 2, C, l2=1e-5)
  rng = np.random.default_rng(1)
  learn, forget = rng.random((2, 20, N)) < 0.3
  run = jax.jit(functools.partial(acu_stream, learner, z, y))
  stream, _ = run(learn, forget)
  learn_rows, forget_rows = jax.jit(learner.learn), jax.jit(learner.forget)
  once = learn_rows(learner.init(), z, y, stream.included)
  for ours, theirs in zip(jax.tree.leaves(stream.state), jax.tree.leaves(once)):
    np.testing.assert_array_equal(ours, theirs)
  gone = forget_rows(stream.state, z, y, stream.included)
  np.testing.assert_array_equal(learner.solve(gone).kernel, 0)
  assert not learner.solve(gone).class_active.any()


def test_float_sums_in_float32_do_not_come_back_to_zero():
  learner = acu(D, C, l2=1e-6, form="statistics")
  z, y = arrays()
  half = jnp.arange(N) < N // 2
  state = learner.learn(learner.init(), z * 0.9, y)
  for mask in (half, ~half):
    state = learner.forget(state, z * 0.9, y, mask)
  assert float(jnp.abs(state.gram).max()) > 0  # Why the exact form exists.


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_exact_sums_are_the_integers_that_python_finds(dtype):
  with jax.enable_x64(dtype == "float64"):
    bits, limb = (64, 18) if dtype == "float64" else (32, 8)
    rng = np.random.default_rng(2)
    a = rng.uniform(-1, 1, (1500, 2)).astype(dtype)
    b = rng.uniform(-1, 1, (1500, 3)).astype(dtype)
    a[0], a[1], b[0] = 1, -1, 1
    total = acu_sums.products(jnp.asarray(a), jnp.asarray(b))
    grid = np.longdouble(2) ** (3 * limb - 1)
    whole = lambda x: [[int(v) for v in row] for row in np.round(x * grid)]
    left, right = whole(a.astype(np.longdouble)), whole(b.astype(np.longdouble))
    for i in range(2):
      for j in range(3):
        wanted = sum(r[i] * s[j] for r, s in zip(left, right))
        found = (int(total.high[i, j]) << bits) + int(total.low[i, j])
        assert found == wanted % 2 ** (2 * bits)
    truth = a.astype(np.float64).T @ b.astype(np.float64)
    tolerance = 1e-12 if dtype == "float64" else 2e-4
    np.testing.assert_allclose(
      acu_sums.value(total, dtype), truth, atol=tolerance
    )
    back = acu_sums.add(total, acu_sums.negative(total))
    assert not np.any(back.high) and not np.any(back.low)


def test_the_capacity_is_the_most_rows_at_the_end_of_the_scale_that_fit():
  capacity = acu_sums.capacity(jnp.float32)
  assert capacity == 2**17 - 1
  size = 1024
  block, rest = (
    acu_sums.products(jnp.ones((n, 1))) for n in (size, capacity % size)
  )
  total, _ = jax.lax.scan(
    lambda t, _: (acu_sums.add(t, block), None), rest, length=capacity // size
  )
  assert float(acu_sums.value(total, jnp.float32)[0, 0]) == capacity
  over = acu_sums.add(total, acu_sums.products(jnp.ones((1, 1))))
  assert float(acu_sums.value(over, jnp.float32)[0, 0]) < 0


@pytest.mark.parametrize("form", FORMS)
def test_forgetting_all_gives_a_zero_head_and_the_empty_inverse(form):
  with jax.enable_x64(True):
    learner = compiled(form, "float64")
    z, y = arrays(jnp.float64)
    every = jnp.ones(N, bool)
    state = learner.learn(learner.init(), z, y, every)
    state = learner.forget(state, z, y, every)
    np.testing.assert_allclose(learner.solve(state).kernel, 0, atol=1e-11)
    np.testing.assert_allclose(
      learner.inverse(state), np.eye(D) / 0.1, atol=1e-9
    )


@pytest.mark.slow
def test_weighted_rows_leave_no_trace_whether_compiled_or_not():
  # Neither the scale nor the weights are powers of two: every product rounds.
  learner = acu(D, C, scale=3.0)
  z, y = arrays()
  weight = jnp.asarray(np.random.default_rng(4).random(N), jnp.float32)
  state = learner.learn(learner.init(), 3 * z, y, weight)
  state = jax.jit(learner.forget)(state, 3 * z, y, weight)
  for leaf in jax.tree.leaves(state):
    np.testing.assert_array_equal(leaf, 0)


def test_rows_outside_of_the_scale_are_cut_before_they_are_weighted():
  learner = acu(1, 1, scale=1.0)
  learn = jax.jit(learner.learn)
  quarter = jnp.full(1, 0.25)
  cut = learn(learner.init(), jnp.full((1, 1), 1.5), jnp.ones((1, 1)), quarter)
  one = learn(learner.init(), jnp.ones((1, 1)), jnp.ones((1, 1)), quarter)
  assert int(cut.num_clipped) == 1
  np.testing.assert_array_equal(cut.gram, one.gram)


@pytest.mark.parametrize("form", FORMS)
def test_a_block_of_no_rows_changes_nothing(form):
  learner = compiled(form)
  z, y = arrays()
  state = learner.learn(learner.init(), z[:0], y[:0])
  for ours, theirs in zip(
    jax.tree.leaves(state), jax.tree.leaves(learner.init())
  ):
    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("form", ["exact", "statistics"])
def test_an_empty_request_keeps_every_bit_and_reads_no_row(form):
  learner = compiled(form)
  z, y = arrays()
  state = learner.learn(learner.init(), z, y, jnp.ones(N, bool))
  nothing = jnp.zeros(N, bool)
  after = learner.forget(state, z * jnp.nan, y * jnp.nan, nothing)
  for ours, theirs in zip(jax.tree.leaves(after), jax.tree.leaves(state)):
    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("form", FORMS)
def test_rows_of_weight_zero_may_be_nan(form):
  learner = compiled(form)
  z, y = arrays()
  keep = jnp.arange(N) % 3 != 1
  bad = z.at[1::3].set(jnp.nan)
  head = acu_ridge(learner, bad, y.at[1::3].set(jnp.nan), keep)
  wanted = ridge(Z[np.asarray(keep)], Y[np.asarray(keep)], 0.1)
  assert error(head.kernel, wanted) < 1e-4
  np.testing.assert_array_equal(head.class_active, [True, False, True])


@pytest.mark.parametrize("form", FORMS)
def test_weights_are_those_of_weighted_ridge_and_halves_add_up(form):
  with jax.enable_x64(True):
    learner = compiled(form, "float64")
    z, y = arrays(jnp.float64)
    weight = np.linspace(0, 1, N)
    head = acu_ridge(learner, z, y, jnp.asarray(weight))
    root = np.sqrt(weight)[:, None]
    wanted = ridge(Z * root, Y * root, 0.1)
    np.testing.assert_allclose(head.kernel, wanted, atol=1e-11)
    half = jnp.full(N, 0.5)
    twice = learner.init()
    for _ in range(2):
      twice = learner.learn(twice, z, y, half)
    np.testing.assert_allclose(
      learner.solve(twice).kernel, ridge(Z, Y, 0.1), atol=1e-11
    )


@pytest.mark.parametrize("form", FORMS)
def test_leave_one_out_is_what_forgetting_each_row_gives(form):
  with jax.enable_x64(True):
    learner = compiled(form, "float64")
    z, y = arrays(jnp.float64)
    state = learner.learn(learner.init(), z, y, jnp.ones(N, bool))
    residual, leverage = acu_leave_one_out(state, learner, z[:20], y[:20])
    assert (leverage >= 0).all() and (leverage < 1).all()
    for i in range(20):
      rest = np.arange(N) != i
      wanted = Y[i] - Z[i] @ ridge(Z[rest], Y[rest], 0.1)
      np.testing.assert_allclose(residual[i], wanted, atol=1e-10)


def test_a_forgotten_class_has_a_zero_column_and_never_wins():
  learner = compiled()
  z, y = arrays()
  state = learner.learn(learner.init(), z, y, jnp.ones(N, bool))
  state = learner.forget(state, z, y, jnp.asarray(LABEL == 1))
  head = learner.solve(state)
  np.testing.assert_array_equal(head.kernel[:, 1], 0)
  assert not (acu_logits(head, z).argmax(1) == 1).any()
  # Its score of 0 would win somewhere without the mask.
  assert ((z @ head.kernel).argmax(1) == 1).any()
  back = learner.learn(state, z, y, jnp.asarray(LABEL == 1))
  whole = acu_ridge(learner, z, y, jnp.ones(N, bool))
  np.testing.assert_array_equal(learner.solve(back).kernel, whole.kernel)


def test_classes_are_forgotten_without_their_rows():
  learner = compiled()
  z, y = arrays()
  by_class = acu_by_class(learner, C)
  names = ("learn", "forget", "solve")
  by_class = by_class._replace(
    **{name: jax.jit(getattr(by_class, name)) for name in names}
  )
  keep = jnp.arange(N) < 25
  # Rows of weight 0 are not read, nor are their labels.
  bad = jnp.where(keep, LABEL, -1), keep
  padded = by_class.learn(by_class.init(), z.at[25:].set(jnp.nan), *bad)
  state = by_class.learn(by_class.init(), z, LABEL, jnp.ones(N, bool))
  state = by_class.forget(state, z, LABEL, ~keep)
  plain = acu_ridge(learner, z, y, keep)
  np.testing.assert_array_equal(by_class.solve(state).kernel, plain.kernel)
  np.testing.assert_array_equal(by_class.solve(padded).kernel, plain.kernel)
  gone = by_class.forget_classes(state, jnp.array([False, True, False]))
  wanted = acu_ridge(learner, z, y, keep & (LABEL != 1))
  np.testing.assert_array_equal(by_class.solve(gone).kernel, wanted.kernel)
  again = by_class.forget_classes(gone, jnp.array([False, True, False]))
  for ours, theirs in zip(jax.tree.leaves(again), jax.tree.leaves(gone)):
    np.testing.assert_array_equal(ours, theirs)


def test_a_stream_ignores_what_is_not_there_and_counts_it():
  learner = compiled()
  z, y = arrays()
  first, second = jnp.arange(N) < 10, jnp.arange(N) < 20
  none = jnp.zeros(N, bool)
  learn = jnp.stack([first, second, none, none])
  forget = jnp.stack([none, none, first, first])
  seen = lambda head, included: included.sum()
  run = functools.partial(acu_stream, learner, z, y, evaluate=seen)
  stream, info = jax.jit(run)(learn, forget)
  assert info.num_learned.tolist() == [10, 10, 0, 0]
  assert info.num_forgotten.tolist() == [0, 0, 10, 0]
  assert info.num_ignored.tolist() == [0, 10, 0, 10]
  assert info.evaluation.tolist() == [10, 20, 10, 10]
  empty = AcuStream(learner.init(), none)
  never = serve(learn[jnp.array([0, 2])], ~learn[:2], empty)[0]
  np.testing.assert_array_equal(never.included, first)
  half, _ = serve(learn[:2], forget[:2], empty)
  rest, _ = serve(learn[2:], forget[2:], half)
  np.testing.assert_array_equal(rest.included, stream.included)
  for ours, theirs in zip(
    jax.tree.leaves(rest.state), jax.tree.leaves(stream.state)
  ):
    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.slow
def test_gathered_blocks_equal_masks_and_leave_over_what_does_not_fit():
  learner = compiled()
  z, y = arrays()
  learn = jnp.arange(N)[None, :] // 5 == jnp.arange(6)[:, None]
  forget = jnp.roll(learn, 1, axis=0) & (jnp.arange(N) % 2 == 0)[None, :]
  dense, _ = serve(learn, forget)
  # A row that no event learns is not read.
  block, _ = serve(learn, forget, max_rows=5)
  for ours, theirs in zip(jax.tree.leaves(block), jax.tree.leaves(dense)):
    np.testing.assert_array_equal(ours, theirs)
  short, info = serve(learn, learn & False, max_rows=4)
  assert info.num_left_over.tolist() == [1] * 6
  wanted = acu_ridge(learner, z, y, short.included).kernel
  np.testing.assert_array_equal(learner.solve(short.state).kernel, wanted)
  with pytest.raises(ValueError, match="at most max_rows=4"):
    acu_stream(acu(D, C, form="statistics"), z, y, learn, forget, max_rows=4)


@pytest.mark.slow
def test_scales_put_large_features_and_targets_on_the_grid():
  z, y = 100 * jnp.asarray(Z, jnp.float32), 5 * jnp.asarray(Y, jnp.float32)
  learner = acu(D, C, l2=10.0, scale=128.0, target_scale=8.0)
  head = acu_ridge(learner, z, y, jnp.ones(N, bool))
  np.testing.assert_allclose(
    head.kernel, ridge(100 * Z, 5 * Y, 10.0), rtol=1e-4, atol=1e-7
  )


def test_rows_outside_of_the_scale_are_counted_under_jit():
  learner = acu(D, C, scale=0.5)
  z, y = arrays()
  outside = int((np.abs(Z.astype(np.float32)) > 0.5).any(1).sum())
  state = jax.jit(learner.learn)(learner.init(), z, y)
  assert 0 < int(state.num_clipped) == outside
  back = jax.jit(learner.forget)(state, z, y)
  assert int(back.num_clipped) == 0
  np.testing.assert_array_equal(learner.solve(back).kernel, 0)


def test_random_relu_is_fixed_by_its_key_and_ends_with_one():
  expand = random_relu(jax.random.key(0), 4, 9)
  x = jnp.asarray(RNG.normal(size=(5, 2, 2)), jnp.float32)
  z = expand(x)
  assert z.shape == (5, 9) and (z >= 0).all()
  np.testing.assert_array_equal(z[:, -1], 1)
  again = random_relu(jax.random.key(0), 4, 9)(x)
  np.testing.assert_array_equal(z, again)
  assert random_relu(jax.random.key(0), 4, 9, has_bias=False)(x).shape == (5, 9)
  refused("num_features > 0", random_relu, jax.random.key(0), 4, 0)


@pytest.mark.parametrize(
  "change, match",
  [
    ({"l2": 0.0}, "l2 > 0"),
    ({"scale": -1.0}, "scale > 0"),
    ({"target_scale": 0.0}, "target_scale > 0"),
    ({"num_features": 0}, "num_features > 0"),
    ({"num_classes": 0}, "num_classes > 0"),
    ({"form": "magic"}, "form to be one of"),
    ({"dtype": jnp.float16}, "dtype float32 or float64"),
    ({"dtype": jnp.float64}, "x64 mode for dtype=float64"),
  ],
)
def test_a_learner_that_cannot_be_is_rejected(change, match):
  refused(match, acu, **{"num_features": D, "num_classes": C} | change)


@pytest.mark.parametrize(
  "change, match",
  [
    ({"features": np.zeros((N, D + 1))}, rf"features \[k, {D}\]"),
    ({"targets": np.zeros((N, C - 1))}, rf"targets \[k, {C}\]"),
    ({"targets": np.zeros((N - 1, C))}, "of one length"),
    ({"weights": np.full(N, 1.5)}, r"weights in \[0, 1\]"),
    ({"weights": np.full(N, -0.5)}, r"weights in \[0, 1\]"),
    ({"weights": np.ones(N, int)}, "weights of dtype bool"),
    ({"weights": np.ones(N - 1, bool)}, "weights of shape"),
    ({"features": np.full((N, D), np.nan)}, "features to be finite"),
    ({"features": np.full((N, D), 2.0)}, r"features in \[-scale, scale\]"),
    ({"targets": np.full((N, C), 2.0)}, r"targets in \[-target_scale"),
  ],
)
def test_rows_that_cannot_be_learned_are_rejected(change, match):
  learner = acu(D, C)
  rows = {"features": Z, "targets": Y, "weights": np.ones(N, bool)} | change
  for step in (learner.learn, learner.forget):
    refused(match, step, learner.init(), **rows)
  refused(match, learner.check, **rows)


def test_heads_reject_features_of_another_width():
  learner = acu(D, C)
  state = learner.init()
  for bad in (Z[:, 1:], Z[0]):
    with pytest.raises(ValueError, match=rf"features \[B, {D}\]"):
      acu_logits(learner.solve(state), bad)
  with pytest.raises(ValueError, match=rf"features \[k, {D}\]"):
    acu_leave_one_out(state, learner, Z[:, 1:], Y)
  refused("of one length", acu_leave_one_out, state, learner, Z, Y[1:])


@pytest.mark.parametrize("form", ["statistics", "recursive"])
def test_a_matrix_that_is_not_positive_definite_is_reported(form):
  learner = acu(D, C, l2=0.1, form=form)
  z, y = arrays()
  # Forgetting what was never learned, without a stream's guard.
  with pytest.raises(ValueError, match="raise l2, use float64"):
    learner.solve(learner.forget(learner.init(), z, y))
  run = jax.jit(lambda: learner.solve(learner.forget(learner.init(), z, y)))
  assert not jnp.isfinite(run().kernel).all()


def test_requests_of_another_form_are_rejected():
  learner = acu(D, C)
  z, y = arrays()
  good = jnp.ones((2, N), bool)
  for bad in (good[:, 1:], good.astype(int), good[0]):
    refused("learn_masks bool ", acu_stream, learner, z, y, bad, good)
    refused("forget_masks bool ", acu_stream, learner, z, y, good, bad)
  refused("of one length", acu_stream, learner, z, y, good, good[:1])
  refused("max_rows > 0", acu_stream, learner, z, y, good, good, max_rows=0)
  other = AcuStream(learner.init(), jnp.zeros(N - 1, bool))
  with pytest.raises(ValueError, match=f"a start of {N} rows, got one of"):
    acu_stream(learner, z, y, good, good, start=other)
  with pytest.raises(ValueError, match="features to be finite"):
    acu_stream(learner, z.at[0].set(jnp.nan), y, good, good)


def test_sums_by_class_reject_what_they_cannot_keep():
  refused("form='recursive'", acu_by_class, acu(D, C, form="recursive"), C)
  refused("num_classes of the learner", acu_by_class, acu(D, C), C + 1)
  by_class = acu_by_class(acu(D, C), C)
  state = by_class.init()
  refused(r"label in 0 \.\. 2", by_class.learn, state, Z, LABEL + 1)
  refused("label of integer dtype", by_class.learn, state, Z, LABEL * 1.0)
  for bad in (np.ones(C, int), np.ones(C + 1, bool)):
    refused("class_mask bool", by_class.forget_classes, state, bad)
