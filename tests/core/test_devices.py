"""A batch shared by devices gives what one device gives."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import problems
import pytest
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from jaxunlearn.core.combinators import chain
from jaxunlearn.core.phase import phase, supervised
from jaxunlearn.core.types import ALL, Draw

KEY = jax.random.key(0)


def method(model):
  return chain(
    phase(supervised(model), optax.adam(0.01), 4, draw=Draw(retain=16)),
    phase(
      supervised(model),
      optax.sgd(0.02),
      3,
      draw=Draw(forget=8, retain=24),
      forget_weight=-0.3,
      retain_weight=0.7,
    ),
    phase(supervised(model), optax.sgd(0.02), 2, draw=Draw(mixed=16)),
    phase(supervised(model), optax.sgd(0.02), 2, draw=Draw(retain=ALL)),
  )


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["pmap", "shard_map", "shard_map_unchecked"])
def test_eight_devices_that_share_each_batch_equal_one(kind):
  model, data, variables = problems.trained()
  mask = data["label"] == 1
  transform = method(model)
  one, info = jax.jit(transform)(variables, data, mask, KEY)
  call = lambda v: transform(v, data, mask, KEY, axis_name="batch")
  if kind == "pmap":
    copies = jax.tree.map(
      lambda x: jnp.broadcast_to(x, (8, *x.shape)), variables
    )
    many, infos = jax.pmap(call, axis_name="batch")(copies)
    chex.assert_trees_all_equal(
      many, jax.tree.map(lambda x: x[:1].repeat(8, 0), many)
    )
    many, infos = jax.tree.map(lambda x: x[0], (many, infos))
  else:
    mesh = Mesh(np.array(jax.devices()), ("batch",))
    many, infos = jax.jit(
      jax.shard_map(
        call,
        mesh=mesh,
        in_specs=P(),
        out_specs=P(),
        check_vma=kind == "shard_map",
      )
    )(variables)
  chex.assert_trees_all_close(many, one, rtol=1e-4, atol=1e-5)
  chex.assert_trees_all_close(infos, info, rtol=1e-4, atol=1e-5)


def test_rows_spread_over_devices_give_the_full_batch_result():
  model, data, variables = problems.trained()
  data = jax.tree.map(lambda x: x[:56], data)
  mask = data["label"] == 1
  fit = phase(supervised(model), optax.sgd(0.1), 5, draw=Draw(retain=ALL))
  one, info = fit(variables, data, mask, KEY)
  mesh = Mesh(np.array(jax.devices()), ("rows",))
  many, infos = jax.jit(
    jax.shard_map(
      lambda v, d, m: fit(v, d, m, KEY, axis_name="rows", sharded_rows=True),
      mesh=mesh,
      in_specs=(P(), P("rows"), P("rows")),
      out_specs=P(),
    )
  )(variables, data, mask)
  chex.assert_trees_all_close(many, one, rtol=1e-4, atol=1e-5)
  assert int(infos.retain_count) == int(info.retain_count)


def test_each_device_draws_from_its_own_rows_once_an_epoch():
  seen = {"x": jnp.arange(64.0)}
  mask = jnp.zeros(64, bool)
  collect = phase(
    # The gradient is the one-hot of the rows drawn.
    lambda v, batch, key: v.params[batch.rows["x"].astype(int)],
    optax.sgd(1.0),
    4,
    draw=Draw(retain=16),
  )
  mesh = Mesh(np.array(jax.devices()), ("rows",))
  params, _ = jax.jit(
    jax.shard_map(
      lambda v, d, m: collect(
        v, d, m, KEY, axis_name="rows", sharded_rows=True
      ),
      mesh=mesh,
      in_specs=(P(), P("rows"), P("rows")),
      out_specs=P(),
    )
  )(jnp.zeros(64), seen, mask)
  # Four steps of two rows cover the eight rows of each device exactly once.
  chex.assert_trees_all_close(params, jnp.full(64, -1 / 16), rtol=1e-6)
