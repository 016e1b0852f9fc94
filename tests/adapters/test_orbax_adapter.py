"""Checkpoints: what goes in comes out, and nothing complete is ever lost."""

import os
import signal
import subprocess
import sys
import textwrap
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from flax import linen as nn
from flax import nnx
from refusals import refused

from jaxunlearn.adapters import orbax
from jaxunlearn.adapters.flax import from_linen, from_nnx
from jaxunlearn.core.types import Variables

KEY = jax.random.key(0)
X = jnp.ones((2, 4))


class Net(nn.Module):
  @nn.compact
  def __call__(self, x, train=False):
    x = nn.Dense(3)(x)
    return nn.BatchNorm(use_running_average=not train)(x)


class Layers(nnx.Module):
  def __init__(self, rngs):
    self.layers = nnx.List([nnx.Linear(4, 4, rngs=rngs) for _ in range(12)])
    self.norm = nnx.BatchNorm(4, rngs=rngs)
    self.dropout = nnx.Dropout(0.5, rngs=rngs)

  def __call__(self, x):
    for layer in self.layers:
      x = layer(x)
    return self.dropout(self.norm(x))


def mixed_tree():
  """Leaves of every dtype that a run carries, with odd bit patterns."""
  return {
    "bf16": jnp.array([1.0, -0.0, jnp.inf, 3e-39], jnp.bfloat16),
    "f32": jnp.array([[1e-45, -0.0], [jnp.nan, 1 / 3]], jnp.float32),
    "int": jnp.array([-(2**31), 2**31 - 1], jnp.int32),
    "uint": jnp.array([0, 2**32 - 1], jnp.uint32),
    "bool": jnp.array([True, False, True]),
    "scalar": jnp.float32(0.1),
  }


def assert_same_bits(found, wanted):
  chex.assert_trees_all_equal_structs(found, wanted)
  for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted)):
    assert isinstance(a, jax.Array)
    assert a.dtype == b.dtype and a.shape == b.shape
    if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
      a, b = jax.random.key_data(a), jax.random.key_data(b)
    assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def save_tree(directory, tree):
  with ocp.StandardCheckpointer() as checkpointer:
    checkpointer.save(directory, tree)


def run_python(code, *arguments, devices=1):
  flags = f"--xla_force_host_platform_device_count={devices}"
  return subprocess.run(
    [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)],
    env={**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
    capture_output=True,
    text=True,
    timeout=120,
    check=False,
  )


def test_a_result_comes_back_bit_for_bit(tmp_path):
  variables = Variables(mixed_tree(), {"batch_stats": {"mean": jnp.ones(3)}})
  mask = jnp.array([True, False, True])
  config = {"method": "unsir", "rate": 0.1, "sizes": [1, 2], "none": None}
  orbax.save(
    tmp_path / "r", variables, forget_mask=mask, key=KEY, config=config
  )
  for like in (None, jax.eval_shape(lambda: variables)):
    saved = orbax.load(tmp_path / "r", like)
    assert_same_bits(saved.variables, variables)
    assert_same_bits(saved.forget_mask, mask)
    assert_same_bits(saved.key, KEY)
    assert saved.config == config
    assert saved.version


def test_what_is_frozen_comes_back_beside_the_rest(tmp_path):
  base = {"layers": {"kernel": X, "bias": X + 1}}
  variables = Variables({"kernel": X + 2}, {"mean": X + 3}, base)
  orbax.save(tmp_path / "r", variables)
  assert_same_bits(orbax.load(tmp_path / "r").variables, variables)
  for read in (orbax.load_params, lambda *a: orbax.load(*a).variables):
    assert_same_bits(read(tmp_path / "r", variables), variables)
    wider = variables._replace(frozen={"layers": base["layers"] | {"more": X}})
    refused("missing frozen/layers/more", read, tmp_path / "r", wider)
    less = variables._replace(frozen={"layers": {"kernel": X}})
    refused("unexpected frozen/layers/bias", read, tmp_path / "r", less)


def test_the_key_keeps_its_generator(tmp_path):
  key = jax.random.key(3, impl="rbg")
  orbax.save(tmp_path, Variables({"w": X}), key=key)
  found = orbax.load(tmp_path).key
  assert found.dtype == key.dtype
  assert jax.random.bits(found) == jax.random.bits(key)


def test_what_was_not_given_comes_back_as_none(tmp_path):
  soft = jnp.array([0.25, 0.0])
  orbax.save(tmp_path / "r", Variables({"w": X}), forget_mask=soft)
  saved = orbax.load(tmp_path / "r")
  assert saved.key is None and saved.config is None
  assert saved.variables.model_state == {}
  assert_same_bits(saved.forget_mask, soft)


def test_bare_params_and_a_relative_path_are_taken(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  orbax.save("nested/r", {"w": X})
  assert_same_bits(orbax.load("nested/r").variables, Variables({"w": X}, {}))


def test_dicts_with_integer_keys_and_lists_come_back_as_they_were(tmp_path):
  tree = {"d": {i: jnp.full(2, float(i)) for i in range(12)}, "l": [X, X + 1]}
  orbax.save(tmp_path, Variables(tree))
  assert_same_bits(orbax.load(tmp_path).variables.params, tree)


def test_other_containers_need_a_tree_to_go_by(tmp_path):
  class Layer(NamedTuple):
    kernel: jax.Array

  variables = Variables((Layer(X), Layer(X + 1)), ())
  orbax.save(tmp_path, variables)
  assert_same_bits(orbax.load(tmp_path, variables).variables, variables)
  assert_same_bits(
    orbax.load(tmp_path).variables.params, [{"kernel": X}, {"kernel": X + 1}]
  )


def test_saving_again_replaces_the_result(tmp_path):
  for i in range(3):
    variables = Variables({"w": X * i, f"only_{i}": X})
    orbax.save(tmp_path, variables, config={"i": i})
  saved = orbax.load(tmp_path)
  assert saved.config == {"i": 2}
  assert_same_bits(saved.variables, Variables({"only_2": X, "w": X * 2}, {}))
  assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"config": {"f": X}}, "Expected config to be a dict of JSON"),
    ({"key": jnp.zeros(2, jnp.uint32)}, "Expected key to be typed"),
    ({"forget_mask": jnp.zeros(0, bool)}, r"forget_mask of shape \(0,\)"),
  ],
)
def test_a_save_that_fails_leaves_the_old_result(tmp_path, options, message):
  orbax.save(tmp_path, Variables({"w": X}), config={"old": True})
  refused(message, orbax.save, tmp_path, Variables({"w": X + 1}), **options)
  saved = orbax.load(tmp_path)
  assert saved.config == {"old": True}
  assert_same_bits(saved.variables.params["w"], X)


def test_another_programs_checkpoint_is_never_overwritten(tmp_path):
  save_tree(tmp_path / "tree", {"w": X})
  with ocp.CheckpointManager(tmp_path / "steps") as manager:
    manager.save(7, args=ocp.args.StandardSave({"w": X}))
  for name in ("tree", "steps"):
    with pytest.raises(ValueError, match="got another checkpoint"):
      orbax.save(tmp_path / name, Variables({"w": X + 1}))
    refused("got another checkpoint", orbax.load, tmp_path / name)
    found = orbax.load_params(tmp_path / name, Variables({"w": X}))
    assert_same_bits(found.params["w"], X)


def test_loading_from_nowhere_says_so(tmp_path):
  like = Variables({"w": X})
  (tmp_path / "text").write_text("no checkpoint")
  (tmp_path / "empty").mkdir()
  refused(r"of a saved result, got .*missing", orbax.load, tmp_path / "missing")
  with pytest.raises(ValueError, match="missing, which does not exist"):
    orbax.load_params(tmp_path / "missing", like)
  for name in ("empty", "text"):
    with pytest.raises(ValueError, match=f"{name}, which holds none"):
      orbax.load_params(tmp_path / name, like)


def test_a_damaged_checkpoint_says_so(tmp_path):
  save_tree(tmp_path / "c", {"w": X})
  (tmp_path / "c" / "_METADATA").write_text('{"tree_metadata": ')
  with pytest.raises(ValueError, match="Expected a readable Orbax checkpoint"):
    orbax.load_params(tmp_path / "c", Variables({"w": X}))


def linen_checkpoints(variables):
  collections = {"params": variables.params, **variables.model_state}
  moments = optax.adam(0.1).init(variables.params)
  return {
    "collections": collections,
    "train state": {**collections, "opt_state": moments, "step": 3},
    "train state of collections": {"params": collections, "step": 3},
    "owned train state": {"model": collections, "opt_state": moments},
    "ours, as a tree": variables._asdict(),
  }


@pytest.mark.parametrize("kind", linen_checkpoints(Variables({}, {})))
@pytest.mark.parametrize("manager", [False, True])
def test_linen_checkpoints_of_many_shapes_load(tmp_path, kind, manager):
  model = from_linen(Net())
  variables = model.init(KEY, X)
  variables = jax.tree.map(lambda a: a + 0.25, variables)
  tree = linen_checkpoints(variables)[kind]
  if manager:
    with ocp.CheckpointManager(tmp_path / "c") as steps:
      older = jax.tree.map(jnp.zeros_like, tree)
      steps.save(9, args=ocp.args.StandardSave(older))
      steps.save(10, args=ocp.args.StandardSave(tree))
  else:
    save_tree(tmp_path / "c", tree)
  like = jax.eval_shape(model.init, KEY, X)
  assert_same_bits(orbax.load_params(tmp_path / "c", like), variables)


def items_of(variables):
  """Steps of several items, and whether they hold the model's variables."""
  tree, json = ocp.args.StandardSave, ocp.args.JsonSave
  params, stats = variables.params, variables.model_state["batch_stats"]
  other = jax.tree.map(jnp.zeros_like, variables)
  zeros = other.params
  moments = optax.adam(0.1).init(zeros)
  state = {"params": params, "batch_stats": stats, "opt_state": moments}
  return {
    "params, batch_stats": {"params": params, "batch_stats": stats},
    "params, stats": {"params": params, "stats": stats},
    "collections apart": {
      "params": {"params": params},
      "batch_stats": {"batch_stats": stats},
    },
    "params, model_state": {
      "params": params,
      "model_state": variables.model_state,
    },
    "with optimizer and config": {
      "params": params,
      "batch_stats": stats,
      "opt_state": moments,
      "config": {"layers": 2},
    },
    "with averages": {
      "ema_params": zeros,
      "params": params,
      "ema_batch_stats": other.model_state["batch_stats"],
      "batch_stats": stats,
    },
    "averages in other items": {
      "net": {"params": params, "batch_stats": stats},
      "net_ema": {"params": zeros, "batch_stats": stats},
    },
    "train state and config": {"train_state": state, "config": {"a": 1}},
    "train state, history": {"my_state": state, "history": {"loss": X}},
    "flat names": {
      "weights": {f"Dense_0/{n}": v for n, v in params["Dense_0"].items()}
      | {f"BatchNorm_0/{n}": v for n, v in params["BatchNorm_0"].items()},
      "batch_stats": stats,
    },
  }, lambda name, value: (json if name == "config" else tree)(value)


def save_items(directory, items, save):
  saved = {name: save(name, value) for name, value in items.items()}
  with ocp.CheckpointManager(directory) as manager:
    manager.save(3, args=ocp.args.Composite(**saved))


def net_variables():
  model = from_linen(Net())
  variables = model.init(KEY, X)
  made = jax.tree.map(lambda a: a + 0.25, variables)
  return made, jax.eval_shape(model.init, KEY, X)


NOTHING = Variables({"Dense_0": {}, "BatchNorm_0": {}}, {"batch_stats": {}})


@pytest.mark.parametrize("kind", items_of(NOTHING)[0])
def test_the_items_of_a_step_are_joined(tmp_path, kind):
  variables, like = net_variables()
  items, save = items_of(variables)
  save_items(tmp_path / "run", items[kind], save)
  for place in (tmp_path / "run", tmp_path / "run" / "3"):
    assert_same_bits(orbax.load_params(place, like), variables)


def test_items_that_do_not_fit_are_listed_in_one_line(tmp_path):
  variables, like = net_variables()
  tree = lambda name, value: ocp.args.StandardSave(value)
  whole = {"params": variables.params, **variables.model_state}
  for items, message in (
    (
      {"params": variables.params, "history": {"loss": X}},
      r"missing model_state/batch_stats/.* The items are history, params\.$",
    ),
    (
      {"student": whole, "other": whole},
      "one tree that fits the model, got several: other/params, student/params",
    ),
  ):
    folder = tmp_path / "_".join(items)
    save_items(folder, items, tree)
    with pytest.raises(ValueError, match=message) as caught:
      orbax.load_params(folder, like)
    assert "\n" not in str(caught.value)
  found = orbax.load_params(folder / "3" / "student", like)
  assert_same_bits(found, variables)
  for name in ("a", "b"):
    save_tree(tmp_path / "runs" / name, whole)
  with pytest.raises(ValueError, match="holds none, but a, b in it"):
    orbax.load_params(tmp_path / "runs", like)


def test_bare_params_load_and_results_of_save_do_too(tmp_path):
  model = from_linen(nn.Dense(3))
  variables = model.init(KEY, X)
  save_tree(tmp_path / "bare", variables.params)
  orbax.save(tmp_path / "ours", variables, key=KEY)
  like = jax.eval_shape(model.init, KEY, X)
  for name in ("bare", "ours"):
    assert_same_bits(orbax.load_params(tmp_path / name, like), variables)


def test_nnx_checkpoints_load_with_lists_of_over_ten_layers(tmp_path):
  model = from_nnx(Layers)
  variables = model.init(KEY, X)
  module = Layers(nnx.Rngs(KEY))
  values = nnx.state(module, nnx.Any(nnx.Param, nnx.BatchStat))
  save_tree(tmp_path / "pure", nnx.to_pure_dict(values))
  save_tree(tmp_path / "state", values)
  save_tree(
    tmp_path / "owned", {"model": nnx.to_pure_dict(values), "step": np.int32(1)}
  )
  orbax.save(tmp_path / "ours", variables)
  like = jax.eval_shape(model.init, KEY, X)
  for name in ("pure", "state", "owned", "ours"):
    assert_same_bits(orbax.load_params(tmp_path / name, like), variables)


def test_floats_are_cast_to_the_models_dtype_and_nothing_else_is(tmp_path):
  save_tree(tmp_path / "c", {"w": X / 3})
  like = Variables({"w": jax.ShapeDtypeStruct(X.shape, jnp.bfloat16)})
  found = orbax.load_params(tmp_path / "c", like).params["w"]
  assert_same_bits(found, (X / 3).astype(jnp.bfloat16))
  whole = Variables({"w": jax.ShapeDtypeStruct(X.shape, jnp.int32)})
  with pytest.raises(ValueError, match="params/w of dtype int32, got float32"):
    orbax.load_params(tmp_path / "c", whole)


def test_a_leaf_of_another_shape_is_named(tmp_path):
  save_tree(
    tmp_path / "c", {"params": {"Dense_0": {"kernel": jnp.ones((10, 3))}}}
  )
  like = Variables({"Dense_0": {"kernel": jnp.ones((64, 128))}})
  message = (
    r"^Expected checkpoint leaf params/Dense_0/kernel of shape \(64, 128\), "
    r"got \(10, 3\)\.$"
  )
  refused(message, orbax.load_params, tmp_path / "c", like)


def test_leaves_missing_or_left_over_are_listed_the_first_few(tmp_path):
  model = from_linen(Net())
  variables = model.init(KEY, X)
  save_tree(
    tmp_path / "c", {"params": {"Dense_0": variables.params["Dense_0"]}}
  )
  like = jax.eval_shape(model.init, KEY, X)
  message = (
    "got missing model_state/batch_stats/BatchNorm_0/mean, "
    "model_state/batch_stats/BatchNorm_0/var, params/BatchNorm_0/bias and 1 "
    "more.$"
  )
  refused(message, orbax.load_params, tmp_path / "c", like)
  save_tree(tmp_path / "d", {"params": {**variables.params, "Dense_9": X}})
  small = from_linen(nn.Sequential([nn.Dense(3)]))
  with pytest.raises(
    ValueError, match=r"missing params/.*unexpected params/Ba"
  ):
    orbax.load_params(tmp_path / "d", jax.eval_shape(small.init, KEY, X))


def test_arrays_sharded_over_other_devices_load_in_silence(tmp_path):
  code = """
    import sys
    import jax, jax.numpy as jnp
    from jaxunlearn.adapters import orbax
    from jaxunlearn.core.types import Variables
    mesh = jax.sharding.Mesh(jax.devices(), ("d",))
    spec = jax.sharding.PartitionSpec("d")
    sharding = jax.sharding.NamedSharding(mesh, spec)
    w = jax.device_put(jnp.arange(24.0).reshape(12, 2), sharding)
    assert len(w.sharding.device_set) == 3
    for i in range(2):
      orbax.save(sys.argv[1], Variables({"w": w}))
    found = orbax.load(sys.argv[1]).variables.params["w"]
    assert len(found.sharding.device_set) == 1
  """
  done = run_python(code, tmp_path / "r", devices=3)
  assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
  like = Variables({"w": jax.ShapeDtypeStruct((12, 2), jnp.float32)})
  wanted = jnp.arange(24.0).reshape(12, 2)
  for found in (
    orbax.load(tmp_path / "r").variables,
    orbax.load_params(tmp_path / "r", like),
  ):
    assert_same_bits(found, Variables({"w": wanted}, {}))


def test_an_abstract_leaf_says_where_its_array_goes(tmp_path):
  orbax.save(tmp_path, Variables({"w": X}))
  device = jax.devices()[-1]
  sharding = jax.sharding.SingleDeviceSharding(device)
  like = jax.ShapeDtypeStruct(X.shape, X.dtype, sharding=sharding)
  found = orbax.load_params(tmp_path, Variables({"w": like})).params["w"]
  assert found.devices() == {device}


def run_state():
  """What a host loop carries: NamedTuples, optax states, empties, keys."""
  tx = optax.chain(
    optax.clip_by_global_norm(1.0), optax.trace(0.9), optax.adamw(1e-3)
  )
  params = {"w": X, "b": jnp.ones(3, jnp.bfloat16)}
  return {
    "variables": Variables({**params, "none": None, "empty": {}}, {}),
    "opt_state": tx.init(params),
    "mixed": mixed_tree(),
    "key": jax.random.key(5),
    "keys": jax.random.split(jax.random.key(6, impl="rbg"), 3),
    "rows": jnp.zeros((0, 4), jnp.int32),
    "layers": {i: (X * i,) for i in range(11)},
  }


def test_a_step_comes_back_with_its_structure_and_bits(tmp_path):
  tree = run_state()
  store = orbax.open_store(tmp_path)
  orbax.save_step(store, 10, tree, {"epoch": 2, "name": "repair"})
  orbax.close_store(store)
  store = orbax.open_store(tmp_path)
  assert orbax.latest(store) == 10
  for abstract in (tree, jax.eval_shape(lambda: tree)):
    found, metadata = orbax.restore_step(store, 10, abstract)
    assert_same_bits(found, tree)
    assert metadata == {"epoch": 2, "name": "repair"}
  orbax.close_store(store)


def test_the_store_keeps_the_latest_steps(tmp_path):
  store = orbax.open_store(tmp_path, keep=2)
  assert orbax.latest(store) is None
  for step in (1, 2, 30):
    orbax.save_step(store, step, {"w": X * step})
  assert orbax.latest(store) == 30
  found, metadata = orbax.restore_step(store, 2, {"w": X})
  assert metadata is None
  assert_same_bits(found, {"w": X * 2})
  with pytest.raises(ValueError, match=r"step among \[2, 30\], got step=1"):
    orbax.restore_step(store, 1, {"w": X})
  with pytest.raises(ValueError, match=r"Expected step > 30.*got step=30"):
    orbax.save_step(store, 30, {"w": X})
  orbax.close_store(store)


def test_a_tree_without_arrays_is_a_step_too(tmp_path):
  store = orbax.open_store(tmp_path)
  tree = (optax.EmptyState(), {}, jnp.zeros((0,)))
  orbax.save_step(store, 0, tree)
  assert_same_bits(orbax.restore_step(store, 0, tree)[0], tree)
  orbax.close_store(store)


@pytest.mark.parametrize(
  ("wanted", "message"),
  [
    ({"w": X[:1]}, r"leaf w of shape \[1, 4\], got \[2, 4\]"),
    ({"w": X.astype(jnp.bfloat16)}, "leaf w of dtype bfloat16, got float32"),
    ({"v": X}, "missing v; unexpected w"),
    ({"w": X, "v": X}, "missing v"),
  ],
)
def test_a_step_of_another_tree_is_refused(tmp_path, wanted, message):
  store = orbax.open_store(tmp_path)
  orbax.save_step(store, 1, {"w": X})
  refused(message, orbax.restore_step, store, 1, wanted)
  orbax.close_store(store)


def test_the_store_refuses_what_it_cannot_write(tmp_path):
  with pytest.raises(
    ValueError, match="keep to be a whole number >= 1, got keep=0"
  ):
    orbax.open_store(tmp_path, keep=0)
  store = orbax.open_store(tmp_path)
  with pytest.raises(ValueError, match="Expected array leaves, got a/0=3"):
    orbax.save_step(store, 1, {"a": [3]})
  refused("Expected metadata", orbax.save_step, store, 1, {"a": X}, {"f": X})
  assert orbax.latest(store) is None
  orbax.close_store(store)


# A thread that kills the process as soon as a second save has begun to write.
KILL = """
  import os, pathlib, signal, sys, threading
  import numpy as np
  from jaxunlearn.adapters import orbax
  from jaxunlearn.core.types import Variables
  path = pathlib.Path(sys.argv[1])
  def kill(known):
    while set(os.listdir(path)) <= known:
      pass
    os.kill(os.getpid(), signal.SIGKILL)
  def soon():
    known = set(os.listdir(path))
    threading.Thread(target=kill, args=(known,), daemon=True).start()
  small = np.arange(4, dtype=np.float32)
  large = np.random.default_rng(0).random(2**25, np.float32)
"""


def assert_killed(done, path):
  assert done.returncode == -signal.SIGKILL, done.stderr
  # The kill came in the middle: something half written lies there.
  assert any("tmp" in child.name for child in path.iterdir())


def test_a_kill_in_the_middle_of_a_step_leaves_the_earlier_one(tmp_path):
  code = (
    KILL
    + """
  store = orbax.open_store(path)
  orbax.save_step(store, 1, {"w": small}, {"done": 1})
  soon()
  orbax.save_step(store, 2, {"w": large})
  """
  )
  assert_killed(run_python(code, tmp_path), tmp_path)
  store = orbax.open_store(tmp_path)
  assert orbax.latest(store) == 1
  like = {"w": jax.ShapeDtypeStruct((4,), jnp.float32)}
  found, metadata = orbax.restore_step(store, 1, like)
  assert_same_bits(found, {"w": jnp.arange(4.0)})
  assert metadata == {"done": 1}
  # The run goes on, and the remains of the killed step are cleared.
  orbax.save_step(store, 3, {"w": jnp.ones(4)})
  assert_same_bits(orbax.restore_step(store, 3, like)[0], {"w": jnp.ones(4)})
  orbax.close_store(store)
  assert {c.name for c in tmp_path.iterdir()} == {"1", "3"}


def test_a_kill_in_the_middle_of_a_save_leaves_the_old_result(tmp_path):
  code = (
    KILL
    + """
  orbax.save(path, Variables({"w": small}), config={"old": True})
  soon()
  orbax.save(path, Variables({"w": large}), config={"old": False})
  """
  )
  assert_killed(run_python(code, tmp_path), tmp_path)
  saved = orbax.load(tmp_path)
  assert saved.config == {"old": True}
  assert_same_bits(saved.variables.params, {"w": jnp.arange(4.0)})
  like = Variables({"w": jnp.zeros(4)})
  assert_same_bits(
    orbax.load_params(tmp_path, like).params, {"w": jnp.arange(4.0)}
  )
  orbax.save(tmp_path, like)
  assert_same_bits(orbax.load(tmp_path).variables.params, {"w": jnp.zeros(4)})
