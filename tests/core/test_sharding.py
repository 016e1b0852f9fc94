"""Weights over eight simulated devices: one device's numbers, a share each."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxunlearn as ju
from jaxunlearn.adapters.flax import from_linen
from jaxunlearn.core.devices import make_mesh
from jaxunlearn.core.sharding import FSDP, LAYERS, sharded, shardings
from jaxunlearn.core.transform import Carry, Env
from jaxunlearn.models import MLP

MODEL = from_linen(MLP(4, hidden=(64, 64)))
KEY = jax.random.key(0)
# Rounding only: sums over devices are in another order.
SAME = {"rtol": 1e-4, "atol": 2e-5}
LAYOUTS = {
  "batch": ({"fsdp": 4, "batch": 2}, FSDP, 4),
  "tensor": ({"tensor": 2, "fsdp": 4}, LAYERS, 8),
}


@functools.cache
def problem():
  """Rows and a model whose every matrix eight devices divide."""
  rng = np.random.default_rng(0)
  data = {
    "x": jnp.asarray(rng.normal(size=(32, 8)), jnp.float32),
    "label": jnp.asarray(np.arange(32) % 4, jnp.int32),
  }
  return data, jax.jit(MODEL.init)(jax.random.key(1), data["x"][:1])


def share(tree):
  """The part of a pytree's bytes that the fullest device holds."""
  held = {}
  for leaf in jax.tree.leaves(tree):
    for shard in leaf.addressable_shards:
      held[shard.device] = held.get(shard.device, 0) + shard.data.nbytes
  return max(held.values()) / sum(x.nbytes for x in jax.tree.leaves(tree))


def placed(layout):
  axes, rules, devices = LAYOUTS[layout]
  mesh, (_, variables) = make_mesh(**axes), problem()
  lie = shardings(mesh, variables, rules)
  return mesh, rules, devices, jax.device_put(variables, lie)


def test_eight_devices_give_the_result_of_one():
  mesh, rules, devices, spread = placed("tensor")
  data, variables = problem()
  mask = data["label"] == 1
  method = ju.methods.ssd(MODEL, alpha=1.0, batch_size=8)
  run = sharded(method, mesh, variables, rules)
  found, _ = run(spread, data, mask, KEY)
  wanted, _ = jax.jit(method)(variables, data, mask, KEY)
  chex.assert_trees_all_close(found, wanted, **SAME)
  moved = jax.tree.map(lambda a, b: np.any(a != b), wanted, variables)
  assert any(jax.tree.leaves(moved))
  # The original and the result.
  assert share((spread.params, found.params)) <= 1.1 / devices


@pytest.mark.parametrize("layout", LAYOUTS)
def test_params_and_moments_are_held_in_shares_between_steps(layout):
  _, _, devices, spread = placed(layout)
  data, _ = problem()
  link = ju.phase(
    ju.supervised(MODEL), optax.adam(1e-3), 2, draw=ju.Draw(retain=8)
  )
  state = jax.jit(lambda v: link.init(Carry(v, v, {}), KEY, Env()))(spread)
  batch = ju.core.host_batch(
    jax.tree.map(lambda leaf: leaf[:8], data), np.zeros(8, bool)
  )
  carry = state.carry._replace(variables=spread, original=spread)
  moving, _ = link.compiled_step(
    jax.tree.map(jnp.copy, state.moving()), state.begin, carry, batch, KEY
  )
  trained, _, (adam, _), _ = moving
  for tree in (trained, adam.mu, adam.nu):
    assert share(tree) <= 1.1 / devices
