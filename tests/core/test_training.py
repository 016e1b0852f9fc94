import chex
import jax
import jax.numpy as jnp
import numpy as np
import problems
import pytest

from jaxunlearn.core.drivers import predict
from jaxunlearn.core.training import map_many, train, train_many

KEY = jax.random.key(0)
ONES = jnp.ones(60, bool)


def test_training_learns_the_rows_it_is_given():
  model, data, variables = problems.trained()
  right = model.predict(variables, data["x"]).argmax(-1) == data["label"]
  assert right.mean() > 0.9


def test_a_row_outside_the_mask_is_never_read():
  model, data = problems.mlp(), problems.blobs()
  mask = data["label"] != 2
  poisoned = {
    "x": jnp.where(mask[:, None], data["x"], jnp.nan),
    "label": jnp.where(mask, data["label"], 99),
  }
  clean, _ = train(model, data, mask, KEY, **problems.RECIPE)
  other, info = train(model, poisoned, mask, KEY, **problems.RECIPE)
  chex.assert_trees_all_equal(clean, other)
  assert info.is_finite and int(info.retain_count) == int(mask.sum())


def test_float_weights_of_zero_and_one_are_the_mask():
  model, data = problems.mlp(), problems.blobs()
  mask = data["label"] != 2
  hard, _ = train(model, data, mask, KEY, **problems.RECIPE)
  soft, _ = train(model, data, mask.astype(jnp.float32), KEY, **problems.RECIPE)
  chex.assert_trees_all_close(hard, soft, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["vmap", "map", 2])
def test_many_models_equal_a_loop(strategy):
  model, data = problems.mlp(), problems.blobs()
  masks = data["label"][None, :] != jnp.arange(4)[:, None]
  keys = jax.random.split(KEY, 4)
  many, _ = jax.jit(
    lambda m, k: train_many(
      model, data, m, k, strategy=strategy, **problems.RECIPE
    )
  )(masks, keys)
  for i in range(4):
    one, _ = jax.jit(lambda m, k: train(model, data, m, k, **problems.RECIPE))(
      masks[i], keys[i]
    )
    chex.assert_trees_all_close(
      jax.tree.map(lambda leaf, i=i: leaf[i], many), one, rtol=1e-4, atol=1e-5
    )


@pytest.mark.slow
def test_many_models_over_eight_devices_equal_one_device():
  model, data = problems.mlp(), problems.blobs()
  masks = jax.random.bernoulli(KEY, 0.7, (16, 60))
  keys = jax.random.split(KEY, 16)
  mesh = jax.sharding.Mesh(np.array(jax.devices()), ("models",))
  assert mesh.size == 8

  def run(mesh):
    return jax.jit(
      lambda m, k: train_many(
        model, data, m, k, strategy="map", mesh=mesh, **problems.RECIPE
      )[0]
    )(masks, keys)

  spread = run(mesh)
  kernel = spread.params["output"]["kernel"]
  assert len(kernel.sharding.device_set) == 8
  chex.assert_trees_all_close(spread, run(None), rtol=1e-4, atol=1e-5)


def test_a_mesh_that_does_not_divide_is_rejected():
  mesh = jax.sharding.Mesh(np.array(jax.devices()), ("models",))
  with pytest.raises(
    ValueError, match=r"the 8 devices of mesh axes .*divide, got 3"
  ):
    map_many(lambda x: x, jnp.zeros(3), mesh=mesh)


def test_unknown_strategies_are_rejected():
  with pytest.raises(ValueError, match="'vmap', 'map', got 'loop'"):
    map_many(lambda x: x, jnp.zeros(3), strategy="loop")
  with pytest.raises(ValueError, match="strategy > 0, got strategy=0"):
    map_many(lambda x: x, jnp.zeros(3), strategy=0)


def test_weights_that_do_not_fit_are_rejected():
  model, data = problems.mlp(), problems.blobs()
  with pytest.raises(ValueError, match=r"weights of shape \(60,\)"):
    train(model, data, ONES[:5], KEY, **problems.RECIPE)
  with pytest.raises(ValueError, match="weights of dtype bool"):
    train(model, data, jnp.ones(60, jnp.int32), KEY, **problems.RECIPE)


def test_a_mask_may_be_a_list():
  model, data = problems.mlp(), problems.blobs()
  recipe = {**problems.RECIPE, "num_steps": 2}
  mask = [row % 2 == 0 for row in range(60)]
  given, _ = train(model, data, mask, KEY, **recipe)
  wanted, _ = train(model, data, jnp.array(mask), KEY, **recipe)
  chex.assert_trees_all_equal(given, wanted)


@pytest.mark.parametrize("batch_size", [1, 7, 60, 64])
def test_predictions_in_chunks_equal_one_pass(batch_size):
  model, data, variables = problems.trained()
  whole = model.predict(variables, data["x"])
  chunked = jax.jit(
    lambda v: predict(model, v, data["x"], batch_size=batch_size)
  )(variables)
  chex.assert_trees_all_close(chunked, whole, rtol=1e-5, atol=1e-5)
