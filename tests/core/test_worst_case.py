"""The worst rows to forget: projection, search and what it comes down to."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import problems
import pytest

import jaxunlearn as ju
from jaxunlearn import requests
from jaxunlearn.core.worst_case import _forget, project_capped_simplex


def oracle(a, total):
  """By float64 and sorted breakpoints: where the sum is linear in the shift."""
  a = np.asarray(a, np.float64)
  sum_at = lambda shift: np.clip(a - shift, 0, 1).sum()
  points = np.unique(np.concatenate([a, a - 1]))
  sums = np.array([sum_at(p) for p in points])  # Falls from n to 0.
  i = np.searchsorted(-sums, -float(total), side="right") - 1
  i = min(max(i, 0), len(points) - 2)
  low, high = points[i], points[i + 1]
  slope = (sums[i + 1] - sums[i]) / (high - low)
  shift = low if slope == 0 else low + (total - sums[i]) / slope
  return np.clip(a - shift, 0, 1)


@pytest.mark.parametrize("scale", [0.1, 1.0, 50.0])
def test_the_projection_is_that_of_float64(scale):
  rng = np.random.default_rng(int(scale * 10))
  a = rng.normal(size=(40, 17)).astype(np.float32) * scale
  totals = rng.uniform(0, 17, 40).astype(np.float32)
  totals[:4] = [0, 17, 1, 16]
  found = jax.jit(jax.vmap(project_capped_simplex))(a, totals)
  wanted = np.stack([oracle(row, m) for row, m in zip(a, totals)])
  np.testing.assert_allclose(found, wanted, atol=3e-5 * max(1, scale))
  np.testing.assert_allclose(found.sum(axis=1), totals, atol=1e-4 * 17)
  assert found.min() >= 0 and found.max() <= 1
  again = jax.jit(jax.vmap(project_capped_simplex))(found, totals)
  np.testing.assert_allclose(again, found, atol=1e-6 * max(1, scale))
  shifted = jax.vmap(project_capped_simplex)(a + 3, totals)
  np.testing.assert_allclose(shifted, found, atol=1e-5 * max(1, scale))


def test_the_projection_is_the_nearest_point():
  from scipy.optimize import minimize

  rng = np.random.default_rng(3)
  a = rng.normal(size=6) * 1.5
  for total in (0.5, 2.0, 4.7):
    best = minimize(
      lambda w: ((w - a) ** 2).sum(),
      np.full(6, total / 6),
      jac=lambda w: 2 * (w - a),
      bounds=[(0, 1)] * 6,
      constraints={"type": "eq", "fun": lambda w, m=total: w.sum() - m},
      method="SLSQP",
      options={"ftol": 1e-12},
    )
    found = project_capped_simplex(jnp.asarray(a, jnp.float32), total)
    np.testing.assert_allclose(found, best.x, atol=1e-4)


FEW = requests.Search(1, inner_steps=0, by_rank=False, penalty=0.0, rate=1e9)


@functools.cache
def program(search, units=False):
  model, data, variables = problems.trained()
  unit = data["label"] if units else None

  @jax.jit
  def run(count, key, easiest):
    return requests.worst_case(
      *(model, variables, data, count, key, search),
      easiest=easiest,
      units=unit,
      num_units=4 if units else None,
    )

  return run


def losses():
  model, data, variables = problems.trained()
  return np.asarray(model.loss(model.predict(variables, data["x"]), data))


@pytest.mark.parametrize("easiest", [False, True])
def test_one_step_without_a_lower_level_ranks_the_losses(easiest):
  found = program(FEW)(7, jax.random.key(0), easiest)
  order = np.argsort(losses() * (-1 if easiest else 1), kind="stable")
  wanted = np.isin(np.arange(60), order[:7])
  np.testing.assert_array_equal(found.mask, wanted)
  np.testing.assert_allclose(found.loss, losses(), rtol=1e-4, atol=1e-6)


def test_no_rate_leaves_the_first_set_and_a_penalty_makes_all_alike():
  still = FEW._replace(rate=0.0)
  found = program(still)(7, jax.random.key(0), False)
  np.testing.assert_array_equal(found.mask, found.score == 1)
  assert int(found.mask.sum()) == 7
  heavy = FEW._replace(rate=1e-6, penalty=4e5, outer_steps=40)
  found = program(heavy)(6, jax.random.key(0), False)
  np.testing.assert_allclose(found.score, np.full(60, 0.1), atol=2e-3)


def test_one_program_serves_every_size_and_side():
  run = program(requests.Search(2, inner_steps=3, batch_size=16))
  for count in (1, 5, 59):
    for easiest in (False, True):
      found = run(count, jax.random.key(1), easiest)
      assert int(found.mask.sum()) == count
  assert run._cache_size() == 1
  same = run(5, jax.random.key(1), False)
  np.testing.assert_array_equal(
    same.mask, run(5, jax.random.key(1), False).mask
  )
  assert np.isfinite(same.score).all()


def test_lanes_are_the_calls_alone():
  run = program(requests.Search(2, inner_steps=3, batch_size=16))
  keys = jax.random.split(jax.random.key(2), 3)
  counts, sides = jnp.array([4, 9, 30]), jnp.array([True, False, True])
  many = jax.jit(jax.vmap(run))(counts, keys, sides)
  for lane in range(3):
    alone = run(counts[lane], keys[lane], sides[lane])
    np.testing.assert_array_equal(many.mask[lane], alone.mask)
    np.testing.assert_allclose(many.score[lane], alone.score, atol=1e-4)


def test_the_lower_level_is_descent_by_signs():
  model, data, variables = problems.trained()
  search = requests.Search(
    1, inner_steps=1, inner_rate=1e-3, batch_size=ju.ALL, forget_weight=0.0
  )
  w = jnp.zeros(60)
  after = _forget(model.task, variables, data, w, search, jax.random.key(0))

  def total(params):
    return model.loss(
      model.predict(ju.Variables(params), data["x"]), data
    ).sum()

  slope = jax.jit(jax.grad(total))(variables.params)
  jax.tree.map(
    lambda a, b, g: np.testing.assert_allclose(
      a, b - 1e-3 * np.sign(g), atol=1e-6
    ),
    after.params,
    variables.params,
    slope,
  )
  # Of weight 1 - w a row with w = 1 is out, nan or not of its gradient.
  gone = w.at[:10].set(1.0)
  left = _forget(model.task, variables, data, gone, search, jax.random.key(0))
  slope = jax.grad(
    lambda p: model.loss(model.predict(ju.Variables(p), data["x"]), data)[
      10:
    ].sum()
  )(variables.params)
  jax.tree.map(
    lambda a, b, g: np.testing.assert_allclose(
      a, b - 1e-3 * np.sign(g), atol=1e-6
    ),
    left.params,
    variables.params,
    slope,
  )


def test_the_slope_of_the_upper_level_is_the_loss():
  """Of sum w l(theta(w)): signs, and so theta, stay for a small change of w."""
  model, data, variables = problems.trained()
  search = requests.Search(1, inner_steps=3, batch_size=ju.ALL)
  key = jax.random.key(0)
  penalty = 1e-2

  @jax.jit
  def both(w):
    after = _forget(model.task, variables, data, w, search, key)
    loss = model.loss(model.predict(after, data["x"]), data)
    return (w * loss).sum() + penalty * (w**2).sum(), loss

  w = jnp.full(60, 0.3)
  step = 1e-3
  for row in (0, 17, 42):
    above, below = (both(w.at[row].add(s))[0] for s in (step, -step))
    wanted = both(w)[1][row] + 2 * penalty * w[row]
    assert float((above - below) / (2 * step)) == pytest.approx(
      float(wanted), abs=6e-3
    )


def test_units_go_as_a_whole_and_copies_are_alike():
  found = program(FEW, units=True)(1, jax.random.key(0), True)
  _, data, _ = problems.trained()
  label = np.asarray(data["label"])
  mean = [losses()[label == c].mean() for c in range(4)]
  np.testing.assert_array_equal(found.mask, label == np.argmax(mean))
  np.testing.assert_allclose(found.loss, mean, rtol=1e-4)
  model, data, variables = problems.trained()
  twice = jax.tree.map(lambda x: x.at[1].set(x[0]), data)
  heavy = requests.Search(2, inner_steps=2, batch_size=16, rate=0.5)
  made = jax.jit(
    lambda: requests.worst_case(
      model, variables, twice, 30, jax.random.key(4), heavy
    )
  )()
  first = jax.random.permutation(ju.derive(jax.random.key(4), "first"), 60) < 30
  if bool(first[0]) == bool(first[1]):
    assert float(made.score[0]) == pytest.approx(float(made.score[1]), abs=1e-6)
  assert float(made.loss[0]) == pytest.approx(float(made.loss[1]), rel=1e-5)


def test_a_request_of_the_worst_is_served_as_any_other():
  model, data, variables = problems.trained()
  mask = program(FEW)(5, jax.random.key(0), False).mask
  method = ju.methods.finetune(model, optimizer=optax.adam(1e-3), num_steps=2)
  made, _ = ju.unlearn(method, variables, data, mask, jax.random.key(1))
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(made))


@pytest.mark.parametrize(
  ("change", "line"),
  [
    ({"count": 0}, r"count in 1 \.\. 59, got 0"),
    ({"count": 60}, r"count in 1 \.\. 59, got 60"),
    ({"units": jnp.zeros(3, int), "num_units": 2}, "units of shape"),
    ({"units": jnp.full(60, 5), "num_units": 2}, "units in 0 .. 1"),
    ({"units": jnp.zeros(60, int)}, "num_units"),
    ({"data": "nan"}, "finite"),
    ({"search": requests.Search(0)}, "outer_steps"),
  ],
)
def test_bad_input_is_one_line(change, line):
  model, data, variables = problems.trained()
  arguments = {
    "variables": variables,
    "data": data,
    "count": 5,
    "key": jax.random.key(0),
    **change,
  }
  if change.get("data") == "nan":
    arguments["data"] = {**data, "x": data["x"].at[0, 0].set(jnp.nan)}
  with pytest.raises(ValueError, match=line) as found:
    requests.worst_case(model, **arguments)
  assert "\n" not in str(found.value)
