import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import problems
import pytest

from jaxunlearn.core.phase import phase, supervised
from jaxunlearn.core.types import (
  ALL,
  Batch,
  Carry,
  Draw,
  Env,
  Model,
  Variables,
)

DATA = {"x": jnp.array([1.0, 2.0, 3.0])}
MASK = jnp.array([True, False, False])
KEY = jax.random.key(0)
BOTH = Draw(forget=ALL, retain=ALL)


def test_one_step_has_its_closed_form():
  step = phase(
    problems.quadratic(), optax.sgd(0.1), 1, draw=BOTH, forget_weight=-1.0
  )
  for wrap in (lambda f: f, jax.jit):
    params, info = wrap(step)(jnp.float32(0), DATA, MASK, KEY)
    # -0.1 * (mean(-2, -3) - (-1)) from mean(2, 4.5) - 0.5 of loss.
    chex.assert_trees_all_close(params, 0.15, rtol=1e-6)
    chex.assert_trees_all_close(info.loss, np.array([2.75]), rtol=1e-6)
    assert info.is_finite and info.forget_count == 1 and info.retain_count == 2


def test_several_steps_equal_a_numpy_loop():
  # Full-batch descent with momentum in float64.
  x, p, m = np.array([2.0, 3.0]), 0.0, 0.0
  for _ in range(7):
    m = 0.9 * m + (p - x.mean())
    p = p - 0.2 * m
  fit = phase(
    problems.quadratic(),
    optax.sgd(0.2, momentum=0.9),
    7,
    draw=Draw(retain=ALL),
  )
  params, _ = fit(jnp.float32(0), DATA, MASK, KEY)
  chex.assert_trees_all_close(params, p, rtol=1e-5)


def test_a_soft_request_weighs_the_means():
  weights = jnp.array([1.0, 0.25, 0.5])
  fit = phase(problems.quadratic(), optax.sgd(1.0), 1, draw=BOTH)
  params, _ = fit(jnp.float32(0), DATA, weights, KEY)
  forget = np.average([1, 2, 3], weights=[1, 0.25, 0.5])
  retain = np.average([1, 2, 3], weights=[0, 0.75, 0.5])
  chex.assert_trees_all_close(params, forget + retain, rtol=1e-6)


def test_a_soft_request_can_be_differentiated():
  fit = phase(problems.quadratic(), optax.sgd(0.5), 3, draw=BOTH)
  final = lambda w: fit(jnp.float32(0), DATA, w, KEY)[0]
  w, eps = jnp.array([0.9, 0.25, 0.5]), 1e-2
  slope = (final(w.at[1].add(eps)) - final(w.at[1].add(-eps))) / (2 * eps)
  chex.assert_trees_all_close(jax.grad(final)(w)[1], slope, rtol=1e-2)


def test_no_step_returns_the_params_bitwise():
  fit = phase(problems.quadratic(), optax.adam(0.1), 0, draw=BOTH)
  params, info = fit(jnp.float32(0.3), DATA, MASK, KEY)
  assert params == jnp.float32(0.3) and info.loss.shape == (0,)


def test_an_empty_kind_has_no_gradient():
  ascend = phase(problems.quadratic(), optax.adam(0.1), 5, draw=Draw(forget=4))
  params, info = ascend(jnp.float32(0.3), DATA, jnp.zeros(3, bool), KEY)
  assert params == jnp.float32(0.3) and (info.loss == 0).all()


def test_a_retain_phase_never_reads_forget_rows():
  fit = phase(problems.quadratic(), optax.sgd(0.1), 9, draw=Draw(retain=2))
  poisoned = {"x": jnp.where(MASK, jnp.nan, DATA["x"])}
  clean, _ = fit(jnp.float32(0), DATA, MASK, KEY)
  other, info = fit(jnp.float32(0), poisoned, MASK, KEY)
  assert clean == other and info.is_finite


def test_full_batches_read_no_row_of_weight_zero():
  fit = phase(problems.quadratic(), optax.sgd(0.1), 3, draw=Draw(retain=ALL))
  poisoned = {"x": jnp.where(MASK, jnp.nan, DATA["x"])}
  assert jnp.isfinite(fit(jnp.float32(0), poisoned, MASK, KEY)[0])


def test_rows_and_mask_permuted_together_change_nothing_in_full_batches():
  fit = phase(problems.quadratic(), optax.adam(0.1), 4, draw=BOTH)
  order = jnp.array([2, 0, 1])
  first, _ = fit(jnp.float32(0), DATA, MASK, KEY)
  second, _ = fit(jnp.float32(0), {"x": DATA["x"][order]}, MASK[order], KEY)
  chex.assert_trees_all_close(first, second, rtol=1e-6)


def test_a_diverging_lane_is_flagged_and_leaves_the_others_alone():
  def run(scale):
    blow_up = phase(
      lambda v, batch, key: scale * (v.params - batch.rows["x"]) ** 2,
      optax.sgd(1.0),
      300,
      draw=Draw(retain=ALL),
    )
    return blow_up(jnp.float32(0), DATA, MASK, KEY)

  params, info = jax.vmap(run)(jnp.array([0.1, 5.0]))
  assert info.is_finite.tolist() == [True, False]
  chex.assert_trees_all_close(params[0], 2.5, rtol=1e-5)


def test_same_key_same_bits_and_another_key_another_result():
  model, data, variables = problems.trained()
  fit = jax.jit(
    phase(supervised(model), optax.adam(0.01), 5, draw=Draw(retain=8))
  )
  mask = data["label"] == 1
  one, _ = fit(variables, data, mask, KEY)
  two, _ = fit(variables, data, mask, KEY)
  other, _ = fit(variables, data, mask, jax.random.key(1))
  chex.assert_trees_all_equal(one, two)
  assert not np.allclose(
    one.params["output"]["kernel"], other.params["output"]["kernel"]
  )


def test_hyper_parameters_may_be_traced_and_vmapped():
  def run(lr, weight):
    fit = phase(
      problems.quadratic(),
      optax.sgd(lr),
      3,
      draw=BOTH,
      forget_weight=weight,
    )
    return fit(jnp.float32(0), DATA, MASK, KEY)[0]

  lrs, weights = jnp.array([0.1, 0.2]), jnp.array([-1.0, 0.5])
  many = jax.vmap(run)(lrs, weights)
  loop = jnp.stack([run(a, b) for a, b in zip(lrs, weights)])
  chex.assert_trees_all_close(many, loop, rtol=1e-6)


def test_something_else_than_the_params_can_be_optimised():
  from jaxunlearn.core.combinators import chain, provide

  pull = phase(
    lambda z, batch, key: jnp.square(z - batch.context.variables.params),
    optax.sgd(0.5),
    4,
    target="z",
  )
  read = phase(
    lambda v, batch, key: v.params * batch.context.extra["z"],
    optax.sgd(1.0),
    1,
  )
  both = chain(provide("z", lambda *_: jnp.zeros(2)), pull, read)
  params, info = both(jnp.float32(1), DATA, MASK, KEY)
  # z' = z - 0.5 * (z - 1) each step (the mean of two halves the gradient).
  z = 1 - 0.5**4
  chex.assert_trees_all_close(params, 1 - z, rtol=1e-6)
  assert set(info) == {"phase", "phase_2"}
  with pytest.raises(ValueError, match="earlier link to provide 'z', got"):
    pull(jnp.float32(1), DATA, MASK, KEY)


def test_bfloat16_params_stay_bfloat16():
  fit = phase(problems.quadratic(), optax.sgd(0.1), 3, draw=Draw(retain=ALL))
  params, info = fit(jnp.bfloat16(0), DATA, MASK, KEY)
  assert params.dtype == jnp.bfloat16 and info.loss.dtype == jnp.float32


def counter_model():
  """A model whose state counts the rows that it was trained on."""

  def apply(variables, inputs, *, train=False, key=None):
    state = variables.model_state
    if train:
      state = {"seen": state["seen"] + inputs.sum()}
    return variables.params * inputs, state

  loss = lambda outputs, rows: (outputs - rows["x"]) ** 2
  return Model(lambda key, x: None, apply, loss)


def test_model_state_moves_in_train_mode_only():
  variables = Variables(jnp.float32(0.5), {"seen": jnp.float32(0)})
  for train, wanted in [(False, 0.0), (True, 3 * 5.0)]:
    fit = phase(
      supervised(counter_model(), train=train),
      optax.sgd(0.01),
      3,
      draw=Draw(retain=2),
    )
    after, _ = fit(variables, DATA, MASK, KEY)
    assert after.model_state["seen"] == wanted


def test_an_objective_of_wrong_length_is_rejected():
  bad = phase(
    lambda v, batch, key: v.params * jnp.ones(5),
    optax.sgd(0.1),
    1,
    draw=Draw(retain=2),
  )
  with pytest.raises(
    ValueError, match=r"each of the 2 drawn rows, got shape .5,"
  ):
    bad(jnp.float32(0), DATA, MASK, KEY)


def test_a_host_batch_of_another_size_is_rejected():
  fit = phase(problems.quadratic(), optax.sgd(0.1), 1, draw=Draw(retain=2))
  carry = Carry(Variables(jnp.float32(0)), Variables(jnp.float32(0)), {})
  batch = Batch(
    DATA,
    jnp.ones(3),
    MASK,
    *(jnp.arange(3, dtype=jnp.int32),) * 2,
    jnp.zeros(3, jnp.int32),
  )
  with pytest.raises(ValueError, match="the 2 rows that a step draws, got 3"):
    fit.step(fit.init(carry, KEY, Env()), batch, KEY, Env())


def test_bad_sizes_are_rejected():
  with pytest.raises(ValueError, match="num_steps >= 0"):
    phase(problems.quadratic(), optax.sgd(0.1), -1)
  with pytest.raises(ValueError, match=r"draw.retain >= -1, got -3"):
    phase(problems.quadratic(), optax.sgd(0.1), 1, draw=Draw(retain=-3))


def test_shapes_alone_are_enough():
  model, data, variables = problems.trained()
  fit = phase(supervised(model), optax.adam(0.01), 5, draw=Draw(retain=8))
  out, _ = jax.eval_shape(fit, variables, data, data["label"] == 1, KEY)
  chex.assert_trees_all_equal_shapes_and_dtypes(out, variables)
