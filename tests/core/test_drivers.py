import gc
import weakref

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import problems
import pytest
from refusals import refused

import jaxunlearn as ju

KEY = jax.random.key(0)
STEPS = {"optimizer": optax.adam(0.01), "num_steps": 3, "batch_size": 8}


def test_the_driver_gives_what_the_call_gives():
  model, data, variables = problems.trained()
  fit, mask = ju.methods.finetune(model, **STEPS), data["label"] == 1
  driven, _ = ju.unlearn(fit, variables, data, mask, KEY, model=model)
  called, _ = jax.jit(fit)(variables, data, mask, KEY)
  chex.assert_trees_all_equal(driven, called)


def test_a_transform_and_its_program_die_together():
  model, data, variables = problems.trained()
  fit = ju.methods.finetune(model, **STEPS)
  ju.unlearn(fit, variables, data, data["label"] == 1, KEY)
  seen = weakref.ref(fit)
  del fit
  gc.collect()
  assert seen() is None


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_nan_in_the_variables_is_named(dtype):
  model, data, variables = problems.trained()
  broken = jax.tree.map(lambda x: x.astype(dtype), variables)
  broken.params["output"]["bias"] = jnp.full(4, jnp.nan, dtype)
  with pytest.raises(ValueError, match=r"'bias'\] to be finite, got 4"):
    ju.unlearn(
      ju.methods.finetune(model, **STEPS), broken, data, data["label"] == 1, KEY
    )


def test_variables_that_do_not_fit_the_model_are_named():
  model, data, variables = problems.trained()
  run = lambda v, d=data: ju.unlearn(
    ju.methods.finetune(model, **STEPS),
    v,
    d,
    data["label"] == 1,
    KEY,
    model=model,
  )
  wide = {**variables.params, "hidden": {"kernel": jnp.ones((6, 9))}}
  refused(r"'bias'\] of shape \(8,\), got nothing", run, ju.Variables(wide))
  with pytest.raises(ValueError, match=r"in 0 .. 3, got 0 .. 9"):
    run(variables, {**data, "label": data["label"].at[3].set(9)})


def test_layers_are_found_through_inner_casts_and_from_shapes_alone():
  cast = jax.jit(lambda w: w.astype(jnp.bfloat16))

  def apply(variables, x, *, train=False, key=None):
    p = variables.params
    scaled = (x * variables.model_state["scale"]) @ p["z"]["w"]
    return scaled.astype(jnp.bfloat16) @ cast(
      p["a"]["w"]
    ), variables.model_state

  model = ju.Model(lambda key, x: None, apply, lambda o, r: o)
  shape = jax.ShapeDtypeStruct
  variables = ju.Variables(
    {
      "a": {"w": shape((5, 2), jnp.float32)},
      "z": {"w": shape((3, 5), jnp.float32)},
    },
    {"scale": shape((), jnp.float32)},
  )
  mask = ju.core.last_layers(model, variables, shape((1, 3), jnp.float32), 1)
  assert mask["a"]["w"].all() and not mask["z"]["w"].any()


@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_last_layers_of_a_flax_network_are_those_near_the_output(count):
  from jaxunlearn.adapters.flax import from_linen
  from jaxunlearn.models import MLP

  model = from_linen(MLP(num_classes=3, hidden=(7, 5)))
  variables = jax.jit(model.init)(KEY, jnp.zeros((1, 4)))
  mask = ju.core.last_layers(model, variables, jnp.zeros((1, 4)), count)
  chosen = {
    leaf.shape[-1]
    for leaf, flag in zip(
      jax.tree.leaves(variables.params), jax.tree.leaves(mask)
    )
    if np.asarray(flag).all()
  }
  assert chosen == set([3, 5, 7][:count])
