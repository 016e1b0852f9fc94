"""SISA and S3T: nothing of what was deleted is left, to the bit."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import problems
import pytest

import jaxunlearn as ju
from jaxunlearn import exact
from jaxunlearn.adapters import orbax
from jaxunlearn.core.training import fitting
from jaxunlearn.core.types import Request

SHARDS, SLICES = 2, 3
FIT = ju.Fit(optax.adam(0.02), 12, 8)
ORDERS = exact.sequences(SLICES, 2)


@functools.cache
def where(num_rows=60, shards=SHARDS, slices=SLICES):
  return exact.layout(num_rows, shards, slices, jax.random.key(5))


@functools.cache
def system(kind, orders=2):
  model, _, base = problems.trained()
  if kind == "sisa":
    return exact.sisa(model, where(), FIT)
  return exact.s3t(
    model, base, where(), exact.sequences(SLICES, orders), FIT, rank=2
  )


@functools.cache
def fit_program(kind, orders=2):
  return jax.jit(system(kind, orders).fit)


@functools.cache
def fitted(kind, orders=2):
  return fit_program(kind, orders)(problems.blobs(), jax.random.key(0))


def delete(kind, state, data, mask, orders=2):
  return system(kind, orders).delete.compiled(
    state, data, jnp.asarray(mask), jax.random.key(9)
  )


def of_slice(shard, slice_):
  return (where().shard == shard) & (where().slice == slice_)


def outputs(kind, state):
  predict = jax.jit(functools.partial(ju.predict, system(kind).model))
  return np.asarray(predict(state, problems.blobs()["x"]))


@pytest.mark.parametrize("kind", ["sisa", "s3t"])
@pytest.mark.parametrize("value", [np.nan, 1e30, 0.25])
def test_what_is_left_is_that_of_a_system_that_held_something_else(kind, value):
  data, key = problems.blobs(), jax.random.key(0)
  mask = of_slice(1, 1)
  other = {
    "x": jnp.where(mask[:, None], value, data["x"]),
    "label": jnp.where(mask, 3, data["label"]),
  }
  ours, _ = delete(kind, fitted(kind), data, mask)
  theirs = fit_program(kind)(other, key)
  if np.isnan(value):
    assert not np.isfinite(outputs(kind, theirs)).all()
  theirs, _ = delete(kind, theirs, other, mask)
  found = outputs(kind, ours)
  assert np.isfinite(found).all()
  np.testing.assert_array_equal(found, outputs(kind, theirs))
  if kind == "sisa":
    jax.tree.map(np.testing.assert_array_equal, ours.params, theirs.params)
  assert (found != outputs(kind, fitted(kind))).any()


def test_sisa_deletes_as_if_trained_without_the_row():
  data, mask = problems.blobs(), np.arange(60) == 7
  ours, cost = delete("sisa", fitted("sisa"), data, mask)
  anew = fit_program("sisa")(data, jax.random.key(0), ~mask)
  jax.tree.map(np.testing.assert_array_equal, ours.params, anew.params)
  touched = int(where().shard[7])
  for old, new in zip(
    jax.tree.leaves(fitted("sisa").params), jax.tree.leaves(ours.params)
  ):
    np.testing.assert_array_equal(old[1 - touched], new[1 - touched])
    begun = int(where().slice[7]) + 1
    np.testing.assert_array_equal(old[touched, :begun], new[touched, :begun])
    assert (old[touched, begun:] != new[touched, begun:]).any()
  steps = exact.stage_steps(12, SLICES)
  assert int(cost.steps) == steps[int(where().slice[7]) :].sum()
  assert float(cost.share) == pytest.approx(int(cost.steps) / 12)


def test_the_mean_cost_of_a_random_row_is_the_formula():
  """Over all rows; slices are of one size."""
  rows = jnp.eye(60, dtype=bool)
  state, data = fitted("sisa"), problems.blobs()
  # Steps alone are asked for, so that nothing is trained here.
  steps = np.asarray(exact.stage_steps(12, SLICES))
  first = np.asarray(where().slice)
  mean = np.mean([steps[k:].sum() / steps.sum() for k in first])
  assert mean == pytest.approx(exact.expected_cost(SLICES), rel=0.02)
  for row in (3, 4):
    _, cost = delete("sisa", state, data, rows[row])
    assert int(cost.steps) == steps[first[row] :].sum()
  for slices in (1, 2, 5, 8):
    steps = exact.stage_steps(6000, slices)
    mean = np.mean([steps[k:].sum() / 6000 for k in range(slices)])
    assert mean == pytest.approx(exact.expected_cost(slices), rel=0.01)
    # Each slice is seen in as many epochs as in training of the whole at once.
    work = sum(n for n in steps)
    assert work == 6000


def test_one_shard_of_one_slice_is_ordinary_training():
  model, data, _ = problems.trained()
  one = exact.layout(60, 1, 1, jax.random.key(0))
  state = jax.jit(exact.sisa(model, one, FIT).fit)(data, jax.random.key(3))
  init = jax.random.split(ju.derive(jax.random.key(3), "init"), 1)[0]
  key = jax.random.split(ju.derive(jax.random.key(3), "stages"), (1, 1))[0, 0]
  start = model.task.init(init, data)
  everything = jnp.ones(60, bool)
  wanted, _ = fitting(model, FIT)(
    start, data, Request(~everything, everything), key
  )
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a[0, -1], b, rtol=1e-5, atol=1e-6),
    state.params,
    wanted.params,
  )


def test_fifty_deletions_compile_nothing():
  model, data, base = problems.trained()
  counted, traces = problems.counting(model)
  systems = [
    exact.sisa(counted, where(), FIT),
    exact.s3t(counted, base, where(), ORDERS, FIT, rank=2),
  ]
  for kind, made in zip(("sisa", "s3t"), systems):
    state = fitted(kind)
    rows = np.random.default_rng(0).permutation(60)[:50]
    for number, row in enumerate(rows):
      mask = jnp.asarray(np.arange(60) == row)
      state, _ = made.delete.compiled(state, data, mask, jax.random.key(number))
      if number == 0:
        before = len(traces)
    assert len(traces) == before
    assert made.delete.compiled._cache_size() == 1
    assert int(state.model_state["present"].sum()) == 10


def test_s3t_cuts_before_the_slice_and_no_more():
  data, state = problems.blobs(), fitted("s3t")
  place = np.argsort(ORDERS, axis=1)
  once, cost = delete("s3t", state, data, of_slice(0, 1))
  assert int(cost.steps) == 0
  length = np.asarray(once.model_state["length"])
  np.testing.assert_array_equal(length[0], place[:, 1])
  np.testing.assert_array_equal(length[1], [SLICES] * 2)
  jax.tree.map(np.testing.assert_array_equal, once.params, state.params)
  again, _ = delete("s3t", once, data, of_slice(0, 1))
  jax.tree.map(
    np.testing.assert_array_equal, again.model_state, once.model_state
  )
  other, _ = delete("s3t", once, data, of_slice(1, 2))
  turned, _ = delete("s3t", state, data, of_slice(1, 2))
  turned, _ = delete("s3t", turned, data, of_slice(0, 1))
  jax.tree.map(
    np.testing.assert_array_equal, other.model_state, turned.model_state
  )
  assert (np.asarray(other.model_state["length"]) <= length).all()


def test_s3t_with_nothing_left_asks_for_training_and_can_be_rebuilt():
  data, state = problems.blobs(), fitted("s3t", 1)
  made = system("s3t", 1)
  assert float(made.left(state)) == pytest.approx(
    exact.expected_deletions(SHARDS, SLICES, 1)
  )
  one, _ = delete("s3t", state, data, of_slice(0, 0), 1)
  assert float(made.left(one)) == pytest.approx(SHARDS * SLICES)
  whole = np.asarray(ju.predict(made.model, one, data["x"]))
  none, _ = delete("s3t", one, data, of_slice(1, 0), 1)
  assert float(made.left(none)) == 0
  with pytest.raises(exact.RetrainRequired, match="present"):
    ju.predict(made.model, none, data["x"])
  traced = jax.jit(lambda s: ju.predict(made.model, s, data["x"]))
  assert np.isnan(traced(none)).all()
  np.testing.assert_allclose(traced(one), whole, rtol=1e-5, atol=1e-5)
  again = fit_program("s3t", 1)(
    data, jax.random.key(1), none.model_state["present"]
  )
  assert float(made.left(again)) > SHARDS
  assert np.isfinite(ju.predict(made.model, again, data["x"])).all()


def test_a_dead_shard_does_not_count():
  data, state = problems.blobs(), fitted("s3t", 1)
  one, _ = delete("s3t", state, data, of_slice(0, 0), 1)
  made = system("s3t", 1)
  alone = jax.tree.map(lambda x: x.at[0].set(jnp.nan), one.params)
  np.testing.assert_array_equal(
    ju.predict(made.model, one, data["x"]),
    ju.predict(made.model, one._replace(params=alone), data["x"]),
  )


def test_layers_are_dealt_to_stages_from_the_top():
  from jaxunlearn.adapters.flax import from_module
  from jaxunlearn.models import MLP

  model = from_module(MLP(4, hidden=(5, 6, 7, 8)))
  data = problems.blobs()
  base = jax.jit(model.init)(jax.random.key(0), data["x"])
  made = exact.low_rank(model, base, data["x"], 2)
  first = jax.jit(made.model.init)(jax.random.key(1), data["x"])
  np.testing.assert_array_equal(  # U is 0: the backbone, to the bit.
    made.model.predict(first, data["x"]), model.predict(base, data["x"])
  )
  on = lambda i, count: {
    int(name[len("['Dense_")])
    for name, mask in made.block(i, count)["adapters"].items()
    if mask
  }
  assert [on(i, 4) for i in range(4)] == [{3}, {2}, {1}, {0}]
  assert [on(i, 2) for i in range(2)] == [{3, 2}, {1, 0}]
  assert [on(i, 8) for i in range(8)] == [{3}] * 2 + [{2}] * 2 + [{1}] * 2 + [
    {0}
  ] * 2
  place = exact.layout(60, 1, 4, jax.random.key(0))
  orders = exact.sequences(4, 1)
  state = jax.jit(exact.s3t(model, base, place, orders, FIT, rank=2).fit)(
    data, jax.random.key(2)
  )
  for number in range(4):
    up = state.params["adapters"][f"['Dense_{number}']['kernel']"]["up"][0, 0]
    stage = 3 - number
    assert (np.asarray(up[:stage]) == 0).all()
    assert (np.asarray(up[stage]) != 0).any()
    for later in up[stage:]:
      np.testing.assert_array_equal(up[stage], later)


def test_disjoint_stages_see_their_slice_alone():
  model, data, base = problems.trained()
  made = exact.s3t(model, base, where(), ORDERS, FIT, rank=2, cumulative=False)
  fit = jax.jit(made.fit)
  state = fit(data, jax.random.key(0))
  mask = of_slice(0, int(ORDERS[0, 0]))
  blank = {**data, "x": jnp.where(mask[:, None], 7.0, data["x"])}
  other = fit(blank, jax.random.key(0))
  moved = jax.tree.map(
    lambda a, b: bool((a[0, 0, 0] != b[0, 0, 0]).any()),
    state.params["head"],
    other.params["head"],
  )
  assert any(jax.tree.leaves(moved))
  assert (
    made.delete(state, data, mask, jax.random.key(0))[0]
    .model_state["length"][0, 0]
    .item()
    == 0
  )


def test_shards_and_sequences_at_once_are_those_in_turn():
  model, data, base = problems.trained()
  for kind, made in (
    ("sisa", exact.sisa(model, where(), FIT, strategy="vmap")),
    (
      "s3t",
      exact.s3t(model, base, where(), ORDERS, FIT, rank=2, strategy="vmap"),
    ),
  ):
    state = jax.jit(made.fit)(data, jax.random.key(0))
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4),
      state.params,
      fitted(kind).params,
    )


def test_a_state_comes_back_from_its_checkpoint(tmp_path):
  for kind in ("sisa", "s3t"):
    state = fitted(kind)
    orbax.save(tmp_path / kind, state, key=jax.random.key(0))
    back = orbax.load(tmp_path / kind, state).variables
    jax.tree.map(np.testing.assert_array_equal, back, state)
    mask, data = of_slice(0, 2), problems.blobs()
    np.testing.assert_array_equal(
      outputs(kind, delete(kind, back, data, mask)[0]),
      outputs(kind, delete(kind, state, data, mask)[0]),
    )


def test_votes_and_probabilities():
  model, data, _ = problems.trained()
  state = fitted("sisa")
  shares = exact.sisa(model, where(), FIT, vote=False).model
  each = [
    model.predict(
      ju.Variables(jax.tree.map(lambda x, s=s: x[s, -1], state.params)),
      data["x"],
    )
    for s in range(SHARDS)
  ]
  mean = np.mean([jax.nn.softmax(z) for z in each], axis=0)
  np.testing.assert_allclose(
    np.exp(shares.predict(state, data["x"])), mean, rtol=1e-4, atol=1e-6
  )
  votes = np.stack([np.asarray(z.argmax(-1)) for z in each])
  found = outputs("sisa", state).argmax(-1)
  np.testing.assert_array_equal(found, votes.min(axis=0))  # Ties of two.


@pytest.mark.parametrize("slices", [1, 2, 4, 6])
def test_sequences_are_permutations(slices):
  for how in ("cyclic", "sampled", "budgeted"):
    made = exact.sequences(slices, slices, how, key=jax.random.key(0))
    assert (np.sort(made, axis=1) == np.arange(slices)).all()
    if how != "sampled":
      assert (np.arange(slices) == np.sort(made, axis=0).T).all()
  every = exact.sequences(slices, math.factorial(slices))
  assert len({tuple(row) for row in every}) == math.factorial(slices)
  few = exact.sequences(slices, 1)
  np.testing.assert_array_equal(few[0], np.arange(slices))


def test_slices_of_low_risk_come_first():
  risk = [0.9, 0.01, 0.5, 0.02]
  sampled = exact.sequences(4, 20, "sampled", risk=risk, key=jax.random.key(1))
  assert np.argsort(sampled, axis=1)[:, 0].mean() > 2
  best = exact.sequences(4, 1, "budgeted", risk=risk)
  np.testing.assert_array_equal(best[0], [1, 3, 2, 0])


def deletions_until_nothing(shards, slices, count, runs=400):
  """By `shorten`, the function that deletes, on random slices."""
  place = jnp.argsort(jnp.asarray(exact.sequences(slices, count)), axis=1)
  cells = shards * slices
  most = int(12 * exact.expected_deletions(shards, slices, count))

  def run(key):
    drawn = jax.random.randint(key, (most,), 0, cells)

    def step(length, cell):
      hit = (jnp.arange(cells) == cell).reshape(shards, slices)
      length = exact.shorten(length, hit, place)
      return length, (length > 0).any()

    start = jnp.full((shards, count), slices, jnp.int32)
    _, alive = jax.lax.scan(step, start, drawn)
    return alive.sum() + 1

  keys = jax.random.split(jax.random.key(shards + 10 * slices + count), runs)
  found = np.asarray(jax.jit(jax.vmap(run))(keys), float)
  assert found.max() < most
  return found.mean(), found.std() / math.sqrt(runs)


@pytest.mark.parametrize(
  ("shards", "slices", "count"), [(3, 4, 1), (3, 4, 4), (5, 6, 2), (2, 3, 6)]
)
def test_deletions_until_nothing_is_left(shards, slices, count):
  mean, error = deletions_until_nothing(shards, slices, count)
  wanted = exact.expected_deletions(shards, slices, count)
  assert abs(mean - wanted) < 3 * error
  if (shards, slices, count) == (3, 4, 4):
    assert mean > 1.5 * exact.expected_deletions(3, 4, 1)


@pytest.mark.parametrize(
  ("call", "line"),
  [
    (
      lambda: exact.layout(5, 2, 3, jax.random.key(0)),
      "a row for each of 2 x 3",
    ),
    (lambda: exact.layout(5, 0, 3, jax.random.key(0)), "num_shards"),
    (lambda: exact.sequences(3, 7), "count <= 6"),
    (lambda: exact.sequences(3, 4, "budgeted"), "count <= 3"),
    (lambda: exact.sequences(3, 2, "best"), "how to be one of"),
    (lambda: exact.sequences(3, 2, "sampled", risk=[1.0, 0, 0]), "risk"),
    (lambda: exact.s3t_delete(where(), np.zeros((1, 3), int)), "permutation"),
    (
      lambda: system("sisa").fit(problems.blobs(40), jax.random.key(0)),
      "a layout of 40 rows, got one of 60",
    ),
    (
      lambda: exact.s3t(
        problems.mlp(), problems.trained()[2], where(), ORDERS, FIT, rank=0
      ).fit(problems.blobs(), jax.random.key(0)),
      "rank",
    ),
  ],
)
def test_bad_input_is_one_line(call, line):
  with pytest.raises(ValueError, match=line) as found:
    call()
  assert "\n" not in str(found.value)
