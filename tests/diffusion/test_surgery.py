"""Cutting one gradient by another, against float64 NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from refusals import refused

from jaxunlearn.core.phase import phase
from jaxunlearn.core.types import Variables
from jaxunlearn.diffusion.surgery import (
  conflicts,
  gradient_surgery,
  with_gradient,
)


def trees(seed=0):
  """The leaf "a" conflicts, "b" agrees, "c" has nothing to preserve."""
  rng = np.random.default_rng(seed)
  a, b, c = rng.normal(size=(2, 3)), rng.normal(size=4), rng.normal(size=2)
  unlearn = {"a": a, "b": b, "c": c}
  preserve = {
    "a": -0.7 * a + 0.1 * rng.normal(size=(2, 3)),
    "b": 0.05 * b,
    "c": np.zeros(2),
  }
  cast = lambda t: {k: jnp.asarray(v, jnp.float32) for k, v in t.items()}
  return unlearn, preserve, cast(unlearn), cast(preserve)


@pytest.mark.parametrize("mode", ["exact", "released"])
@pytest.mark.parametrize("strength", [0.4, 1.0])
def test_only_tensors_that_conflict_are_cut(mode, strength):
  u, p, u32, p32 = trees()
  cut = jax.jit(lambda a, b, s: gradient_surgery(a, b, s, mode=mode))(
    u32, p32, strength
  )
  product = (u["a"] * p["a"]).sum()
  assert product < 0
  scale = (p["a"] ** 2).sum()
  if mode == "released":
    scale *= np.linalg.norm(u["a"])
  wanted = u["a"] - strength * product / scale * p["a"]
  np.testing.assert_allclose(cut["a"], wanted, rtol=1e-5, atol=1e-6)
  np.testing.assert_array_equal(cut["b"], u32["b"])
  np.testing.assert_array_equal(cut["c"], u32["c"])


def test_the_released_rule_is_exact_for_unit_gradients_and_descends_for_short():
  _, _, u, p = trees()
  norm = jnp.linalg.norm(u["a"])
  unit = {"a": u["a"] / norm}
  other = {"a": p["a"]}
  np.testing.assert_allclose(
    gradient_surgery(unit, other, mode="released")["a"],
    gradient_surgery(unit, other)["a"],
    atol=1e-6,
  )
  short = {"a": 0.2 * unit["a"]}
  kept = gradient_surgery(short, other, mode="released")["a"]
  assert float((kept * other["a"]).sum()) > 0.01


def test_globally_all_leaves_are_one_vector():
  u, p, u32, p32 = trees()
  flat = lambda t: np.concatenate([t[k].ravel() for k in "abc"])
  fu, fp = flat(u), flat(p)
  assert fu @ fp < 0
  wanted = fu - fu @ fp / (fp @ fp) * fp
  cut = gradient_surgery(u32, p32, per="global")
  np.testing.assert_allclose(flat(cut), wanted, rtol=1e-5, atol=1e-6)
  assert float(jnp.abs(cut["b"] - u32["b"]).max()) > 1e-3


def test_conflicts_are_counted_a_tensor():
  _, _, u, p = trees()
  found = conflicts(u, p)
  assert [bool(found[k]) for k in "abc"] == [True, False, False]
  assert all(map(bool, jax.tree.leaves(conflicts(u, p, per="global"))))


def test_dtypes_stay_and_sums_are_float32():
  u = {"a": jnp.full(4096, 0.1, jnp.float16)}
  p = {"a": jnp.full(4096, -300.0, jnp.float16)}  # |p|^2 overflows a float16.
  cut = gradient_surgery(u, p)["a"]
  assert cut.dtype == jnp.float16
  np.testing.assert_allclose(cut, np.zeros(4096), atol=1e-3)


def test_a_phase_steps_along_the_lent_gradient():
  params = {"w": jnp.array([1.0, 2.0]), "b": jnp.float32(3.0)}
  lent = {"w": jnp.array([0.5, -1.0]), "b": jnp.float32(4.0)}

  def objective(variables, batch, key):
    loss = (variables.params["w"] ** 2).sum()[None]
    return with_gradient(loss, variables.params, lent)

  move = phase(objective, optax.sgd(0.1), 1)
  data = {"x": jnp.zeros((2, 1))}
  out, info = jax.jit(move)(
    Variables(params), data, jnp.array([True, False]), jax.random.key(0)
  )
  np.testing.assert_allclose(out.params["w"], [0.95, 2.1], rtol=1e-6)
  np.testing.assert_allclose(out.params["b"], 2.6, rtol=1e-6)
  np.testing.assert_allclose(info.loss, [5.0])


def test_a_lent_gradient_passes_the_chain_rule():
  """d(3 loss)/d(scale of params) by the lent gradient, not the loss's own."""
  lent = jnp.array([2.0, 5.0])

  def total(s):
    params = s * jnp.array([1.0, -1.0])
    return 3 * with_gradient((params**2).sum(), params, lent)

  assert float(jax.grad(total)(1.0)) == 3 * (2.0 - 5.0)


@pytest.mark.parametrize(
  "change, message",
  [
    ({"mode": "code"}, "mode to be one of"),
    ({"per": "row"}, "per to be one of"),
    ({"strength": -1.0}, "strength >= 0"),
    ({"preserve": {"a": jnp.zeros(3)}}, r"preserve\['a'\] of shape \(2,\)"),
  ],
)
def test_errors_say_what_was_found(change, message):
  given = {"unlearn": {"a": jnp.ones(2)}, "preserve": {"a": jnp.ones(2)}}
  refused(message, gradient_surgery, **{**given, **change})


def test_a_gradient_of_another_shape_is_refused():
  refused("gradient", with_gradient, jnp.float32(0), jnp.ones(2), jnp.ones(3))
