"""Lanes and batches spread over devices, donation, and budgets of memory.

Devices agree with one device within rtol 1e-4 and atol 1e-5: the order of the
sums over a batch is another.
"""

import functools

import chex
import jax
import jax.numpy as jnp
import optax
import problems
import pytest
from refusals import refused

from jaxunlearn.core import devices
from jaxunlearn.core.combinators import chain
from jaxunlearn.core.devices import make_mesh, program_bytes, rows_for_budget
from jaxunlearn.core.drivers import unlearn
from jaxunlearn.core.per_example import map_rows
from jaxunlearn.core.phase import phase, supervised
from jaxunlearn.core.tasks import Fit
from jaxunlearn.core.training import (
  fitting,
  lanes_for_budget,
  map_many,
  train,
  train_many,
  unlearn_many,
)
from jaxunlearn.core.types import Draw

KEY = jax.random.key(0)
KEYS = jax.random.split(KEY, 8)
RECIPE = {"optimizer": optax.adam(0.01), "num_steps": 6, "batch_size": 16}
SAME = {"rtol": 1e-4, "atol": 1e-5}
FORMS = {
  "lanes": ({"models": 8}, None, "vmap"),
  "batch": ({"batch": 8}, "batch", "map"),
  "both": ({"models": 4, "batch": 2}, "batch", "vmap"),
  "both, the batch first": ({"batch": 2, "models": 4}, "batch", 1),
}


def placed(form):
  axes, batch_axis, strategy = FORMS[form]
  return {
    "mesh": make_mesh(**axes),
    "batch_axis": batch_axis,
    "strategy": strategy,
  }


def masks(rate=0.7):
  return jax.random.bernoulli(jax.random.key(3), rate, (8, 60))


def method(model):
  return chain(
    phase(
      supervised(model),
      optax.sgd(0.02),
      3,
      draw=Draw(forget=8, retain=24),
      forget_weight=-0.3,
    ),
    phase(supervised(model), optax.adam(0.01), 3, draw=Draw(retain=16)),
  )


def train_all(**where):
  model, data = problems.mlp(), problems.blobs()
  return jax.jit(lambda m, k: train_many(model, data, m, k, **where, **RECIPE))(
    masks(), KEYS
  )


def unlearn_all(**where):
  model, data, variables = problems.trained()
  return jax.jit(
    lambda m, k: unlearn_many(method(model), variables, data, m, k, **where)
  )(masks(0.3), KEYS)


trained_on_one_device = functools.cache(train_all)
unlearned_on_one_device = functools.cache(unlearn_all)


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_models_trained_on_eight_devices_equal_one_device(form):
  spread = train_all(**placed(form))
  kernel = spread[0].params["output"]["kernel"]
  assert len(kernel.sharding.device_set) == 8
  chex.assert_trees_all_close(spread, trained_on_one_device(), **SAME)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["batch", "both"])
def test_requests_served_on_eight_devices_equal_one_device(form):
  spread = unlearn_all(**placed(form))
  chex.assert_trees_all_close(spread, unlearned_on_one_device(), **SAME)


def test_requests_served_together_equal_one_by_one():
  model, data, variables = problems.trained()
  one = jax.jit(method(model))
  for i in (0, 5):
    chex.assert_trees_all_close(
      jax.tree.map(lambda leaf, i=i: leaf[i], unlearned_on_one_device()),
      one(variables, data, masks(0.3)[i], KEYS[i]),
      **SAME,
    )


@pytest.mark.slow
def test_models_of_their_own_go_on_training_over_a_mesh():
  model, data = problems.mlp(), problems.blobs()
  inits = jax.vmap(lambda k: model.init(k, data["x"]))(KEYS)
  fit = fitting(model, Fit(**RECIPE))
  nothing = jnp.zeros((8, 60), bool)
  many, _ = jax.jit(
    lambda v: unlearn_many(
      fit, v, data, nothing, KEYS, is_stacked=True, **placed("both")
    )
  )(inits)
  for i in (0, 7):
    start = jax.tree.map(lambda leaf, i=i: leaf[i], inits)
    one, _ = fit.compiled(start, data, nothing[i], KEYS[i])
    chex.assert_trees_all_close(
      jax.tree.map(lambda leaf, i=i: leaf[i], many), one, **SAME
    )


def test_a_new_stack_of_requests_compiles_nothing():
  model, data, variables = problems.trained()
  counted, traces = problems.counting(model)
  fit = fitting(counted, Fit(**RECIPE))
  run = jax.jit(
    lambda m: unlearn_many(fit, variables, data, m, KEYS, **placed("both"))
  )
  run(masks(0.3))
  before = len(traces)
  run(masks(0.6))
  assert len(traces) == before > 0


def test_a_mesh_takes_its_names_sizes_and_the_rest_of_the_devices():
  mesh = make_mesh(models=-1, batch=2)
  assert dict(mesh.shape) == {"models": 4, "batch": 2}
  # The devices of a batch are neighbours.
  assert list(mesh.devices[1]) == jax.devices()[2:4]
  assert make_mesh(jax.devices()[:3], models=3).size == 3
  for axes in ({"models": 3}, {}, {"models": 0, "batch": -1}, {"a": -2}):
    refused("multiply to the 8 devices, got", make_mesh, **axes)
  refused("multiply to the 8 devices, got", make_mesh, models=-1, batch=3)


@pytest.mark.slow
def test_what_the_devices_do_not_divide_is_rejected():
  model, data = problems.mlp(), problems.blobs()
  with pytest.raises(ValueError, match=r"the 4 devices of .*models.*got 6"):
    map_many(
      lambda x: x,
      jnp.zeros(6),
      mesh=make_mesh(models=4, batch=2),
      batch_axis="batch",
    )
  with pytest.raises(ValueError, match="2 devices can share, got 15 rows"):
    train_many(
      model,
      data,
      masks(),
      KEYS,
      **placed("both"),
      **{**RECIPE, "batch_size": 15},
    )


def test_a_batch_axis_needs_a_mesh_that_has_it():
  with pytest.raises(ValueError, match="batch_axis='batch', got mesh=None"):
    map_many(lambda x: x, jnp.zeros(8), batch_axis="batch")
  with pytest.raises(ValueError, match="one of 'models', got 'batch'"):
    map_many(
      lambda x: x, jnp.zeros(8), mesh=make_mesh(models=8), batch_axis="batch"
    )


def test_a_donated_original_gives_its_memory_to_the_unlearned_model():
  model, data, variables = problems.trained()
  counted, traces = problems.counting(model)
  fit = fitting(counted, Fit(**RECIPE))
  mask = data["label"] == 1
  kept, _ = unlearn(fit, variables, data, mask, KEY)
  copies = [jax.tree.map(jnp.copy, variables) for _ in range(2)]
  given, _ = unlearn(fit, copies[0], data, mask, KEY, donate=True)
  chex.assert_trees_all_equal(given, kept)
  assert all(leaf.is_deleted() for leaf in jax.tree.leaves(copies[0]))
  assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(variables))
  before = len(traces)
  unlearn(fit, copies[1], data, data["label"] == 2, KEY, donate=True)
  assert len(traces) == before  # A second request compiles nothing.


def test_donated_stacks_of_models_are_aliased_on_every_device():
  model, data = problems.mlp(), problems.blobs()
  fit = fitting(model, Fit(**RECIPE))
  nothing = jnp.zeros((8, 60), bool)
  run = jax.jit(
    lambda v, k: unlearn_many(
      fit, v, data, nothing, k, is_stacked=True, **placed("both")
    )[0],
    donate_argnums=0,
  )
  mesh = placed("both")["mesh"]
  lanes = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("models"))
  stacked = jax.device_put(
    jax.vmap(lambda k: model.init(k, data["x"]))(KEYS), lanes
  )
  compiled = run.lower(stacked, KEYS).compile()
  per_device = sum(
    leaf.nbytes // mesh.shape["models"] for leaf in jax.tree.leaves(stacked)
  )
  stats = compiled.memory_analysis()
  assert stats.alias_size_in_bytes == per_device
  header = compiled.as_text().splitlines()[0]
  assert header.count("may-alias") + header.count("must-alias") == 4
  run(stacked, KEYS)
  assert all(leaf.is_deleted() for leaf in jax.tree.leaves(stacked))


def wide_lane(x):
  """A lane whose temporaries, 64 KiB, are far larger than its result."""
  square = jnp.tanh(x[:, None] * x[None, :])
  return jnp.sort(square, axis=0) @ x


def test_a_chunk_of_lanes_keeps_within_its_budget_and_uses_it():
  stacked = jax.ShapeDtypeStruct((64, 128), jnp.float32)
  cost = lambda k: program_bytes(
    lambda s: map_many(wide_lane, s, strategy=k), stacked
  )
  budget = 10 * cost(1)
  k = lanes_for_budget(wide_lane, stacked, budget_bytes=budget)
  assert cost(k) <= budget < cost(2 * k)
  assert lanes_for_budget(wide_lane, stacked, budget_bytes=2**40) == 64
  assert lanes_for_budget(wide_lane, stacked, budget_bytes=cost(1)) == 1
  with pytest.raises(
    ValueError, match=rf"budget_bytes >= {cost(1)}, .*1 lanes.*got .*={99}"
  ):
    lanes_for_budget(wide_lane, stacked, budget_bytes=99)


def test_a_chunk_of_lanes_on_a_mesh_is_that_of_one_device():
  stacked = jax.ShapeDtypeStruct((64, 128), jnp.float32)
  mesh = make_mesh(models=4, batch=2)
  k = lanes_for_budget(
    wide_lane, stacked, budget_bytes=2**40, mesh=mesh, batch_axis="batch"
  )
  assert k == 16


@pytest.mark.slow
def test_training_many_models_fits_the_budget_that_chose_the_chunk():
  model, data = problems.mlp(), problems.blobs()
  recipe = {"optimizer": optax.sgd(0.1), "num_steps": 2, "batch_size": 16}
  one = lambda m, key: train(model, data, m, key, **recipe)
  run = lambda k: lambda *args: map_many(one, *args, strategy=k)
  budget = 3 * program_bytes(run(1), masks(), KEYS)
  k = lanes_for_budget(one, masks(), KEYS, budget_bytes=budget)
  assert 1 < k <= 8 and program_bytes(run(k), masks(), KEYS) <= budget


def test_a_chunk_of_rows_keeps_within_its_budget_and_uses_it():
  rows = jax.ShapeDtypeStruct((5_000, 128), jnp.float32)
  kernel = lambda d, k: map_rows(lambda x: wide_lane(x).sum(), d, chunk_size=k)
  cost = lambda k: program_bytes(lambda d: kernel(d, k), rows)
  budget = 4_000_000
  k = rows_for_budget(kernel, rows, budget_bytes=budget)
  assert cost(k) <= budget < cost(2 * k)
  # Below the eight rows that it starts from.
  assert 1 <= rows_for_budget(kernel, rows, budget_bytes=cost(3)) < 8
  with pytest.raises(ValueError, match=r"a chunk of 1 rows takes, got"):
    rows_for_budget(kernel, rows, budget_bytes=1_000)
  refused("budget_bytes > 0", rows_for_budget, kernel, rows, budget_bytes=0)
  with pytest.raises(ValueError, match="num_rows > 0"):
    rows_for_budget(kernel, jnp.zeros((0, 3)), budget_bytes=10)


def test_a_line_that_promises_too_much_is_corrected_by_measuring():
  measured = []

  def measure(k):
    measured.append(k)
    return k**1.2

  k = devices.largest_within(measure, 1_000, 400, "lanes")
  best = int(400 ** (1 / 1.2))
  assert 0.7 * best <= k <= best and max(measured) > best
  assert len(measured) <= 5


def test_a_backend_without_figures_is_an_error(monkeypatch):
  monkeypatch.setattr(jax.stages.Compiled, "memory_analysis", lambda self: None)
  with pytest.raises(ValueError, match="reports the memory of a program, got"):
    program_bytes(lambda x: x, jnp.ones(3))


def test_params_and_moments_keep_their_sharding():
  """Hidden units over devices: a layer by its outputs, the next by its inputs."""
  model, data, variables = problems.trained()
  mesh = make_mesh(models=8)
  spec = jax.sharding.PartitionSpec
  specs = {
    "hidden": {"kernel": spec(None, "models"), "bias": spec("models")},
    "output": {"kernel": spec("models"), "bias": spec()},
  }
  placed = variables._replace(
    params=jax.tree.map(
      lambda leaf, where: jax.device_put(
        leaf, jax.sharding.NamedSharding(mesh, where)
      ),
      variables.params,
      specs,
    )
  )
  fit = phase(supervised(model), optax.adam(0.01), 3, draw=Draw(retain=16))
  mask = data["label"] == 1
  whole, _ = jax.jit(fit)(variables, data, mask, KEY)
  spread, _ = jax.jit(fit)(placed, data, mask, KEY)
  chex.assert_trees_all_close(spread, whole, **SAME)
  kept = jax.tree.map(
    lambda a, b: a.sharding.is_equivalent_to(b.sharding, a.ndim),
    spread.params,
    placed.params,
  )
  assert all(jax.tree.leaves(kept)), kept
