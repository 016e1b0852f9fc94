"""Weights over four times two devices: one device's numbers."""

import chex
import jax
import numpy as np
import optax
import pytest
from conformance import worlds
from jax.sharding import PartitionSpec as P

import jaxunlearn as ju
from jaxunlearn.language.sharding import sharded, shardings

MESH = {"fsdp": 4, "tensor": 2}


@pytest.mark.slow
def test_eight_devices_equal_one_and_hold_a_share_each():
  """Two requests by one program; its result lies as what it was given."""
  world, mesh = worlds.texts(), ju.core.make_mesh(**MESH)
  lm, variables, data = world.subject, world.variables, world.data
  method = ju.methods.neggrad_plus(
    lm, ju.Fit(optax.adam(1e-2), 3, 8), retain_batch_size=8
  )
  run = sharded(method, mesh, variables)
  lie = shardings(mesh, variables)
  placed = jax.device_put(variables, lie)
  for request in world.requests:
    key = jax.random.key(0)
    out, info = run(placed, data, request, key)
    one, one_info = jax.jit(method)(variables, data, request, key)
    chex.assert_trees_all_close(out, one, rtol=1e-3, atol=2e-4)
    chex.assert_trees_all_close(info.loss, one_info.loss, rtol=1e-3)
    same = jax.tree.map(
      lambda leaf, wanted: leaf.sharding.is_equivalent_to(wanted, leaf.ndim),
      *(out, lie),
    )
    assert all(jax.tree.leaves(same))
  assert run._cache_size() == 1
  size = lambda tree: sum(leaf.nbytes for leaf in jax.tree.leaves(tree))
  share = sum(
    leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(out)
  )
  assert size(out) / share > 6


def test_every_matrix_has_a_rule_and_heads_are_not_cut():
  mesh = ju.core.make_mesh(**MESH)
  params = worlds.texts().variables.params
  lie = shardings(mesh, params)
  attention = lie["blocks"]["attention"]
  assert attention["q"]["kernel"].spec == P(None, "fsdp", "tensor")
  assert attention["o"]["kernel"].spec == P(None, "tensor", "fsdp")
  assert lie["embed"]["embedding"].spec == P("tensor", "fsdp")
  assert lie["norm"]["scale"].spec == P()
  for leaf, place in zip(jax.tree.leaves(params), jax.tree.leaves(lie)):
    if leaf.ndim - (leaf.shape[0] == 2) > 1:
      assert "fsdp" in place.spec and "tensor" in place.spec


def test_axes_that_do_not_divide_or_are_not_there_split_nothing():
  tree = {"head": {"kernel": np.zeros((6, 5))}}
  lie = shardings(ju.core.make_mesh(**MESH), tree)
  assert lie["head"]["kernel"].spec == P(None, None)
  alone = shardings(ju.core.make_mesh(batch=8), tree)
  assert alone["head"]["kernel"].spec == P(None, None)
  with pytest.raises(ValueError, match="head/kernel to have 2 axes"):
    shardings(ju.core.make_mesh(**MESH), {"head": {"kernel": np.zeros(4)}})
