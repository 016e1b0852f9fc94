import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import problems
import pytest
from refusals import refused

from jaxunlearn.core.drivers import predict
from jaxunlearn.core.keys import derive
from jaxunlearn.core.tasks import Fit, Task
from jaxunlearn.core.training import map_many, train
from jaxunlearn.core.types import Losses, Variables

KEY = jax.random.key(0)
ONES = jnp.ones(60, bool)


def test_training_learns_the_rows_it_is_given():
  model, data, variables = problems.trained()
  right = model.predict(variables, data["x"]).argmax(-1) == data["label"]
  assert right.mean() > 0.9


def test_float_weights_of_zero_and_one_are_the_mask():
  model, data = problems.mlp(), problems.blobs()
  mask = data["label"] != 2
  fit = jax.jit(lambda w: train(model, data, w, KEY, **problems.RECIPE)[0])
  hard, soft = fit(mask), fit(mask.astype(jnp.float32))
  chex.assert_trees_all_close(hard, soft, rtol=1e-6)


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


ADAM = optax.adam(0.01)
FIT = Fit(ADAM, 2, 8)


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"weights": ONES[:5]}, r"weights of shape \(60,\)"),
    ({"weights": jnp.ones(60, jnp.int32)}, "weights of dtype bool"),
    ({"weights": ~ONES}, "weights to select rows"),
    ({"weights": jnp.full(60, jnp.nan)}, r"weights in \[0, 1\]"),
    ({"weights": -jnp.ones(60)}, r"weights in \[0, 1\]"),
    ({"key": 5}, "typed PRNG key"),
    ({"key": jnp.zeros(2, jnp.uint32)}, "typed PRNG key"),
    ({"fit": "adam"}, "fit to be a Fit, got str"),
    ({"fit": None}, "num_steps and optimizer by keyword"),
    ({"fit": FIT._replace(num_steps=2.5)}, "num_steps .* whole number"),
    ({"fit": FIT._replace(batch_size=0)}, "batch_size .* >= 1"),
    ({"fit": FIT._replace(optimizer="adam")}, "optax"),
    ({"task": print}, "Task or a model with one"),
    ({"data": {"y": ONES}}, "data .*'x'"),
    ({"label": -ONES.astype(int)}, r"data\['label'\] in 0 .. 3, got -1"),
    ({"label": np.full(60, 2**40)}, "in 0 .. 3, got 1099511627776"),
    ({"label": np.zeros((60, 1), int)}, r"shape \(60,\), .*\(60, 1\)"),
  ],
)
def test_what_cannot_be_trained_is_rejected(change, message):
  data = problems.blobs()
  if "label" in change:
    change = {"data": {**data, "label": change["label"]}}
  asked = {"task": problems.mlp(), "data": data, "weights": ONES, "key": KEY}
  refused(message, train, **{**asked, "fit": FIT, **change})


def test_a_training_begins_where_it_is_told():
  model, data, variables = problems.trained()
  none = FIT._replace(num_steps=0)
  same, _ = train(model, data, ONES, KEY, none, start=variables)
  chex.assert_trees_all_equal(same, variables)
  made, _ = train(
    model, data, ONES, KEY, none, start=lambda key: model.init(key, data["x"])
  )
  fresh, _ = train(model, data, ONES, KEY, none)
  chex.assert_trees_all_equal(made, fresh)


def test_a_recipe_is_a_fit_or_its_fields():
  model, data = problems.mlp(), problems.blobs()
  whole, _ = train(model, data, ONES, KEY, FIT)
  parts, _ = train(model, data, ONES, KEY, **FIT._asdict())
  changed, _ = train(model, data, ONES, KEY, FIT, num_steps=0)
  chex.assert_trees_all_equal(whole, parts)
  none, _ = train(model, data, ONES, KEY, FIT._replace(num_steps=0))
  chex.assert_trees_all_equal(changed, none)


def test_a_task_that_is_no_supervised_network_is_trained_as_any_other():
  # A mean of angles: the loss draws noise per row and sees no label.
  def loss(variables, step, key, *, train=False):
    noise = jax.vmap(jax.random.normal)(step.keys(key))
    off = variables.params - step.rows["angle"] - 0.1 * noise
    return Losses(1 - jnp.cos(off))

  task = Task(lambda key, data: Variables(jnp.float32(0)), loss)
  data = {"angle": jnp.full(40, 1.0)}
  found, info = train(task, data, ONES[:40], KEY, Fit(optax.sgd(0.3), 40, 20))
  assert abs(float(found.params) - 1) < 0.1 and info.loss.shape == (40,)


def test_keys_by_name_differ_and_stack():
  keys = jax.random.split(KEY, 5)
  many = derive(keys, "mask")
  assert (many[3] == derive(keys[3], "mask")).all()
  names = ["mask", "noise", "gone", "unlearn"]
  found = {str(jax.random.key_data(derive(KEY, n))) for n in names}
  taken = {str(jax.random.key_data(k)) for k in jax.random.split(KEY, 64)}
  assert len(found) == 4 and not found & taken


def test_a_mask_may_be_a_list():
  model, data = problems.mlp(), problems.blobs()
  recipe = {**problems.RECIPE, "num_steps": 2}
  mask = [row % 2 == 0 for row in range(60)]
  given, _ = train(model, data, mask, KEY, **recipe)
  wanted, _ = train(model, data, jnp.array(mask), KEY, **recipe)
  chex.assert_trees_all_equal(given, wanted)


@pytest.mark.parametrize("chunk_size", [1, 7, 60, 64])
def test_predictions_in_chunks_equal_one_pass(chunk_size):
  model, data, variables = problems.trained()
  whole = model.predict(variables, data["x"])
  chunked = jax.jit(
    lambda v: predict(model, v, data["x"], chunk_size=chunk_size)
  )(variables)
  chex.assert_trees_all_close(chunked, whole, rtol=1e-5, atol=1e-5)
