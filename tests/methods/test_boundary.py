"""Boundary shrinking and expanding, and l1-sparse fine-tuning."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import problems
import pytest
from closeness import change
from problems import setting

from jaxunlearn.adapters.functions import from_functions
from jaxunlearn.core.types import Variables
from jaxunlearn.methods.baselines import finetune, l1_sparse
from jaxunlearn.methods.boundary import boundary_expand, boundary_shrink

KEY = jax.random.key(0)
SGD = optax.sgd(0.1)
WIDE = {"optimizer": SGD, "num_steps": 1, "batch_size": 15}


def softmax(z):
  e = np.exp(z - z.max(axis=-1, keepdims=True))
  return e / e.sum(axis=-1, keepdims=True)


def forward(p, x):
  h = np.maximum(x @ p["hidden"]["kernel"] + p["hidden"]["bias"], 0)
  return h, h @ p["output"]["kernel"] + p["output"]["bias"]


def as_float64(tree):
  return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), tree)


def numpy_gradient(p, x, label, extra=None):
  """Gradient of the mean cross entropy; `extra` is one more output's weights."""
  h, z = forward(p, x)
  if extra is not None:
    z = np.concatenate([z, h @ extra[0] + extra[1]], axis=1)
  d = softmax(z)
  d[np.arange(len(x)), label] -= 1
  d /= len(x)
  kernel = p["output"]["kernel"]
  if extra is not None:
    kernel = np.concatenate([kernel, extra[0]], axis=1)
  back = (d @ kernel.T) * (h > 0)
  return {
    "hidden": {"kernel": x.T @ back, "bias": back.sum(0)},
    "output": {"kernel": (h.T @ d)[:, :4], "bias": d.sum(0)[:4]},
  }


@pytest.mark.parametrize("exclude_true", [False, True])
@pytest.mark.parametrize("radius", [0.3, 3.0])
def test_shrinking_fits_forget_rows_to_the_class_next_door(
  radius, exclude_true
):
  model, data, variables, mask = setting()
  method = boundary_shrink(
    model, radius=radius, exclude_true=exclude_true, **WIDE
  )
  out, _ = method(variables, data, mask, KEY)
  p = as_float64(variables.params)
  x, label = np.float64(data["x"][mask]), np.asarray(data["label"][mask])
  h, z = forward(p, x)
  d = softmax(z)
  d[np.arange(15), label] -= 1
  slope = ((d @ p["output"]["kernel"].T) * (h > 0)) @ p["hidden"]["kernel"].T
  near = forward(p, x + radius * np.sign(slope))[1]
  if exclude_true:
    near[np.arange(15), label] = -np.inf
  target = near.argmax(axis=1)
  assert exclude_true or radius < 1 or (target != label).any()
  grads = numpy_gradient(p, x, target)
  wanted = jax.tree.map(lambda a, g: np.float32(a - 0.1 * g), p, grads)
  chex.assert_trees_all_close(out.params, wanted, rtol=1e-4, atol=1e-5)


def test_shrinking_looks_for_neighbours_within_the_range_of_inputs():
  model, data, variables, mask = setting()
  top = float(data["x"].max())
  run = lambda span: boundary_shrink(
    model, radius=100.0, input_range=span, exclude_true=True, **WIDE
  )(variables, data, mask, KEY)[0]
  free = run(None)
  chex.assert_trees_all_equal(run((-1e6, 1e6)), free)
  assert change(run((top, top)), free) > 1e-4


def test_a_step_of_expanding_is_that_of_a_network_with_one_output_more():
  _, data, variables, mask = setting()
  seen = []

  # A first output of its own weights shows what the unit is.
  def apply(params, x):
    outputs = problems.mlp_apply(params, x)
    jax.debug.callback(seen.append, params["output"])
    return outputs

  watched = from_functions(problems.mlp_init, apply)
  out, _ = boundary_expand(watched, **WIDE)(variables, data, mask, KEY)
  jax.effects_barrier()
  p = as_float64(variables.params)
  kernels = [np.asarray(s["kernel"], np.float64)[:, :1] for s in seen]
  unit = next(
    k for k in kernels if not np.allclose(k, p["output"]["kernel"][:, :1])
  )
  x = np.float64(data["x"][mask])
  grads = numpy_gradient(p, x, np.full(15, 4), (unit, np.zeros(1)))
  wanted = jax.tree.map(lambda a, g: np.float32(a - 0.1 * g), p, grads)
  chex.assert_trees_all_close(out.params, wanted, rtol=1e-4, atol=1e-5)
  scale = np.sqrt((p["output"]["kernel"] ** 2).mean())
  assert 0.3 < np.sqrt((unit**2).mean()) / scale < 3


def test_expanding_learns_the_unit_and_gives_back_a_model_of_the_old_shape():
  model, data, variables, mask = setting()
  method = boundary_expand(
    model, optimizer=optax.adam(0.05), num_steps=40, batch_size=15
  )
  out, info = jax.jit(method)(variables, data, mask, KEY)
  chex.assert_trees_all_equal_shapes_and_dtypes(out, variables)
  loss = info["expand"].loss
  assert loss[-1] < 0.1 * loss[0]
  right = model.predict(out, data["x"]).argmax(-1) == data["label"]
  assert right[mask].mean() < 0.7


def test_expanding_needs_a_last_layer_with_a_column_for_each_output():
  _, data, _, mask = setting()
  turned = from_functions(
    lambda key, x: {"w": jnp.ones((4, 6))}, lambda p, x: x @ p["w"].T
  )
  start = Variables({"w": jnp.ones((4, 6))})
  with pytest.raises(ValueError, match=r"a kernel \[\.\.\., 4\]"):
    boundary_expand(turned, **WIDE)(start, data, mask, KEY)


def test_l1_sparse_without_penalty_is_fine_tuning():
  model, data, variables, mask = setting()
  steps = {"optimizer": SGD, "num_steps": 4, "batch_size": 8}
  one, _ = l1_sparse(model, penalty=0.0, **steps)(variables, data, mask, KEY)
  two, _ = finetune(model, **steps)(variables, data, mask, KEY)
  chex.assert_trees_all_close(one, two, rtol=1e-6, atol=1e-7)


def test_the_l1_penalty_falls_linearly_to_zero_and_stays_there():
  model, data, variables, mask = setting()
  still = model._replace(loss=lambda o, rows: 0.0 * o.sum(axis=-1))
  method = l1_sparse(
    still,
    optimizer=SGD,
    num_steps=5,
    batch_size=45,
    penalty=0.002,
    plain_steps=1,
  )
  out, info = method(variables, data, mask, KEY)
  # A step moves each weight by rate * a_t, 0.1 * 0.002 * (1, .75, .5, .25, 0).
  old = np.asarray(variables.params["output"]["kernel"], np.float64)
  assert np.abs(old).min() > 0.0005
  wanted = old - np.sign(old) * 0.1 * 0.002 * 2.5
  np.testing.assert_allclose(
    out.params["output"]["kernel"], wanted, rtol=1e-4, atol=1e-6
  )
  norm = sum(np.abs(leaf).sum() for leaf in jax.tree.leaves(variables.params))
  assert info.loss[0] == pytest.approx(0.002 * norm, rel=1e-4)
  assert info.loss[4] == 0
