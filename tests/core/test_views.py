"""Methods through a part of a model's params."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import problems
import pytest
from refusals import refused

import jaxunlearn as ju
from jaxunlearn.core.views import View, through

KEY = jax.random.key(0)
ADAM = optax.adam(0.05)


def head():
  """The output layer alone."""
  return View(
    lambda variables, data, request, key: (
      variables.params["output"],
      variables.params["hidden"],
    ),
    lambda part, rest: {"output": part, "hidden": rest},
  )


def setting():
  model, data, variables = problems.trained()
  return model, data, variables, data["label"] == 1


METHODS = [
  lambda m: ju.methods.neggrad_plus(m, ADAM_FIT),
  lambda m: ju.methods.scrub(
    m, ADAM_FIT, num_epochs=2, max_epochs=1, max_steps=2
  ),
  lambda m: ju.methods.ssd(m, alpha=1.0, dampening=0.5),
]
ADAM_FIT = ju.Fit(ADAM, 4, 16)


@pytest.mark.parametrize("make", METHODS)
def test_any_method_moves_the_part_and_leaves_the_rest(make):
  model, data, variables, mask = setting()
  method = through(head(), make, model)
  out, _ = method.compiled(variables, data, mask, KEY)
  chex.assert_trees_all_equal_shapes_and_dtypes(out, variables)
  chex.assert_trees_all_equal(out.params["hidden"], variables.params["hidden"])
  assert not jnp.array_equal(
    out.params["output"]["kernel"], variables.params["output"]["kernel"]
  )


def test_it_is_the_masked_method_and_the_optimiser_sees_the_part_only():
  model, data, variables, mask = setting()
  seen = []

  def init(params):
    seen.append(jax.tree.map(jnp.shape, params))
    return ADAM.init(params)

  fit = ju.Fit(optax.GradientTransformation(init, ADAM.update), 4, 16)
  make = lambda m: ju.methods.finetune(m, fit)
  out, _ = through(head(), make, model)(variables, data, mask, KEY)
  assert seen == [jax.tree.map(jnp.shape, variables.params["output"])]
  # The method has a key of its own inside.
  key = ju.derive(KEY, "method")
  free = {"output": True, "hidden": False}
  masked = ju.masked(make(model), free)
  wanted, _ = masked(variables, data, mask, key)
  chex.assert_trees_all_close(out, wanted, atol=1e-6)


def test_the_reference_of_a_method_in_a_chain_is_the_original():
  """Scrub stays near its teacher, which is no later model."""
  model, data, variables, mask = setting()
  far = ju.edit(
    lambda v, d, r, k: v._replace(
      params=jax.tree.map(lambda p: p + 1.0, v.params)
    ),
    reads="nothing",
  )
  slot = ju.Slot("outputs")
  seen = []

  def make(m):
    look = ju.per_row(slot, lambda v, rows: m.predict(v, rows["x"]))
    return ju.chain(look, ju.edit(lambda v, d, r, k: v, reads="nothing"))

  method = ju.chain(far, through(head(), make, model))

  def read(carry, data, request, key):
    seen.append(carry[slot])
    return ()

  method = ju.chain(method, ju.provide(ju.Slot("seen"), read))
  method(variables, data, mask, KEY)
  np.testing.assert_allclose(
    seen[0], model.predict(variables, data["x"]), rtol=1e-5
  )


def test_lanes_share_what_is_frozen():
  model, data, variables, mask = setting()
  view = head()
  apart = view.apart(variables, KEY)
  inner = view.of(model)

  def one(rate):
    method = ju.methods.finetune(inner, ju.Fit(optax.adam(rate), 3, 16))
    out, _ = method(apart, data, mask, KEY)
    return out.params

  rates = jnp.array([0.01, 0.1])
  program = jax.jit(jax.vmap(one))
  both = program(rates)
  for lane, rate in enumerate(rates):
    alone = jax.jit(one)(rate)
    chex.assert_trees_all_close(
      jax.tree.map(lambda p, i=lane: p[i], both), alone, rtol=1e-4, atol=1e-6
    )
  # No lane has a hidden layer of its own among the results.
  assert set(both) == {"kernel", "bias"}


def test_a_mask_around_a_view_keeps_bits():
  model, data, variables, mask = setting()
  free = {
    "hidden": True,
    "output": {"kernel": False, "bias": True},
  }
  method = ju.masked(
    through(head(), lambda m: ju.methods.finetune(m, ADAM_FIT), model), free
  )
  out, _ = method(variables, data, mask, KEY)
  np.testing.assert_array_equal(
    out.params["output"]["kernel"], variables.params["output"]["kernel"]
  )
  assert (
    out.params["output"]["bias"] != variables.params["output"]["bias"]
  ).any()


def test_training_afresh_through_a_view_keeps_the_rest():
  model, data, variables, mask = setting()
  method = through(head(), lambda m: ju.methods.retrain(m, ADAM_FIT), model)
  out, _ = method(variables, data, mask, KEY)
  chex.assert_trees_all_equal(out.params["hidden"], variables.params["hidden"])
  assert jnp.abs(out.params["output"]["kernel"]).max() < 5


def test_bad_views_are_refused():
  model = problems.mlp()
  with pytest.raises(ValueError, match="to be a NamedTuple"):
    head().of(3)
  with pytest.raises(ValueError, match="Expected a Transform"):
    through(head(), lambda m: m, model)
  method = through(head(), lambda m: ju.methods.finetune(m, ADAM_FIT), model)
  refused("Expected a host loop over the part", method.expand, KEY)
