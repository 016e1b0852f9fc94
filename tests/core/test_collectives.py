"""What devices say to each other, read from the compiled program."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import problems
import pytest

from jaxunlearn.adapters.flax import from_linen
from jaxunlearn.adapters.functions import from_functions
from jaxunlearn.core.devices import make_mesh
from jaxunlearn.core.phase import phase, supervised
from jaxunlearn.core.sharding import FSDP, LAYERS, sharded
from jaxunlearn.core.training import train_many, unlearn_many
from jaxunlearn.core.types import Draw, Variables
from jaxunlearn.models import MLP

pytestmark = pytest.mark.optimized(reason="It reads the optimised program.")

KEYS = jax.random.split(jax.random.key(0), 8)
MASKS = jax.random.bernoulli(jax.random.key(1), 0.7, (8, 60))
RECIPE = {"optimizer": optax.adam(0.01), "num_steps": 5, "batch_size": 16}
NUM_PARAMS = 6 * 8 + 8 + 8 * 4 + 4
COLLECTIVE = re.compile(
  r"= (.*?) (all-reduce|all-gather|all-to-all|reduce-scatter|"
  r"collective-permute|collective-broadcast|send|recv)(?:-start)?\("
)


def collectives(fn, *args):
  """(kind, elements, groups, whether in a loop) of each one of a program."""
  text = jax.jit(fn).lower(*args).compile().as_text()
  found, calls, inside, where = [], {}, set(), ""
  for line in text.splitlines():
    if line.endswith("{") and "->" in line:
      where = re.match(r"(?:ENTRY )?%([\w.-]+)", line).group(1)
    calls.setdefault(where, set()).update(
      re.findall(r"(?:calls|to_apply|body|condition)=%([\w.-]+)", line)
    )
    inside.update(re.findall(r"body=%([\w.-]+)", line))
    match = COLLECTIVE.search(line)
    if match:
      shapes = re.findall(r"\w+\[([\d,]*)\]", match.group(1))
      sizes = [np.prod([int(d) for d in s.split(",") if d]) for s in shapes]
      groups = re.search(
        r"(?:replica_groups|source_target_pairs)=(mesh\[\S*\] \{.*?\}|\S*?),? ",
        line,
      ).group(1)
      found.append((match.group(2), int(sum(sizes)), listed(groups), where))
  reached = set()
  while inside:
    name = inside.pop()
    reached.add(name)
    inside |= calls.get(name, set()) - reached
  return [(kind, size, g, w in reached) for kind, size, g, w in found]


def listed(groups):
  """Groups by axes of a mesh, as JAX 0.12 tells them, as lists of devices."""
  if "] {" not in groups:
    return groups
  of, over = groups.split("] ")
  axes = re.findall(r"'(\w+)'=(\d+)", of)
  places = [
    [name for name, _ in axes].index(n) for n in re.findall(r"\w+", over)
  ]
  devices = np.arange(8).reshape([int(size) for _, size in axes])
  devices = np.moveaxis(devices, places, range(-len(places), 0))
  shape = (-1, int(np.prod(devices.shape[-len(places) :])))
  rows = [",".join(map(str, row)) for row in devices.reshape(shape)]
  return "{" + ",".join(f"{{{row}}}" for row in rows) + "}"


def training(model, **where):
  data = problems.blobs()
  return collectives(
    lambda m, k: train_many(model, data, m, k, **where, **RECIPE), MASKS, KEYS
  )


@pytest.mark.parametrize("strategy", ["vmap", "map"])
def test_lanes_on_devices_of_their_own_say_nothing_to_each_other(strategy):
  mesh = make_mesh(models=8)
  assert training(problems.mlp(), mesh=mesh, strategy=strategy) == []


@pytest.mark.parametrize(
  ("axes", "lanes", "groups"),
  [
    ({"batch": 8}, 8, "{{0,1,2,3,4,5,6,7}}"),
    ({"models": 4, "batch": 2}, 2, "{{0,1},{2,3},{4,5},{6,7}}"),
  ],
)
def test_devices_that_share_a_batch_exchange_its_mean_gradients_only(
  axes, lanes, groups
):
  mesh = make_mesh(**axes)
  found = training(problems.mlp(), mesh=mesh, batch_axis="batch")
  assert {kind for kind, *_ in found} == {"all-reduce"}
  assert {g for _, _, g, _ in found} == {groups}
  assert all(in_loop for *_, in_loop in found)
  # A lane's gradient, its loss, and how many rows the batch holds.
  assert sum(size for _, size, *_ in found) == lanes * (NUM_PARAMS + 2)


def test_model_state_is_averaged_and_each_kind_of_row_counted():
  def apply(variables, x, *, train=False, key=None):
    moved = {"mean": 0.9 * variables.model_state["mean"] + 0.1 * x.mean(axis=0)}
    return problems.mlp_apply(variables.params, x), moved

  model = from_functions(
    lambda key, x: Variables(
      problems.mlp_init(key, x), {"mean": jnp.zeros(problems.DIM)}
    ),
    apply,
    has_state=True,
  )
  data = problems.blobs()
  variables = jax.jit(model.init)(jax.random.key(2), data["x"])
  transform = phase(
    supervised(model, train=True),
    optax.sgd(0.1),
    5,
    draw=Draw(forget=8, retain=16),
  )
  found = collectives(
    lambda m, k: unlearn_many(
      transform,
      variables,
      data,
      m,
      k,
      mesh=make_mesh(models=4, batch=2),
      batch_axis="batch",
    ),
    MASKS,
    KEYS,
  )
  assert {kind for kind, *_ in found} == {"all-reduce"}
  assert all(in_loop for *_, in_loop in found)
  wanted = NUM_PARAMS + 1 + 2 + problems.DIM
  assert sum(size for _, size, *_ in found) == 2 * wanted


@pytest.mark.parametrize(
  ("axes", "rules", "more"),
  [
    ({"fsdp": 4, "batch": 2}, FSDP, set()),
    ({"tensor": 2, "fsdp": 4}, LAYERS, {"collective-permute"}),
  ],
)
def test_weights_in_shares_are_gathered_and_gradients_summed_in_each_step(
  axes, rules, more
):
  model = from_linen(MLP(4, hidden=(64, 64)))
  data = {"x": jnp.ones((32, 8)), "label": jnp.arange(32) % 4}
  shapes = jax.eval_shape(model.init, KEYS[0], data["x"])
  link = phase(
    supervised(model), optax.adam(1e-3), 3, draw=Draw(retain=8), name="fit"
  )
  run = sharded(link, make_mesh(**axes), shapes, rules)
  found = collectives(run, shapes, data, data["label"] == 1, KEYS[0])
  once = [size for _, size, _, in_loop in found if not in_loop]
  every_step = [(kind, size) for kind, size, _, in_loop in found if in_loop]
  # Gathered for use (a layer's weights, or its rows where those are fewer);
  # summed over the devices of a batch; turned from rows to columns.
  usual = {"all-gather", "all-reduce", "all-to-all"}
  assert {"all-gather", "all-reduce"} <= {kind for kind, _ in every_step}
  assert {kind for kind, _ in every_step} <= usual | more
  # Less than what gathers all weights twice and sums all gradients once.
  num_params = sum(leaf.size for leaf in jax.tree.leaves(shapes.params))
  assert sum(size for _, size in every_step) < 3 * num_params
  # Around the loop only what the info counts: a number for each leaf.
  assert sum(once) <= 4 * len(jax.tree.leaves(shapes.params))


def test_the_reader_of_programs_sees_other_collectives():
  mesh = make_mesh(models=8)
  spec = jax.sharding.PartitionSpec("models")
  gather = jax.shard_map(
    lambda x: jax.lax.all_gather(x, "models"),
    mesh=mesh,
    in_specs=spec,
    out_specs=spec,
  )
  found = collectives(gather, jnp.ones((8, 3)))
  assert [(kind, in_loop) for kind, _, _, in_loop in found] == [
    ("all-gather", False)
  ]
