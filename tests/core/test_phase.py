import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import problems
import pytest

from jaxunlearn.core.combinators import chain, masked
from jaxunlearn.core.links import edit, provide
from jaxunlearn.core.phase import phase, supervised
from jaxunlearn.core.recording import record
from jaxunlearn.core.tasks import Fit, Model
from jaxunlearn.core.transform import Carry, Env
from jaxunlearn.core.types import (
  ALL,
  Draw,
  Losses,
  Request,
  Slot,
  Variables,
  as_step,
)

DATA = {"x": jnp.array([1.0, 2.0, 3.0])}
MASK = jnp.array([True, False, False])
KEY = jax.random.key(0)
BOTH = Draw(forget=ALL, retain=ALL)


def test_several_steps_equal_a_numpy_loop():
  # Full-batch descent with momentum in float64.
  x, p, m = np.array([2.0, 3.0]), 0.0, 0.0
  for _ in range(7):
    m = 0.9 * m + (p - x.mean())
    p = p - 0.2 * m
  fit = phase(
    problems.quadratic(), optax.sgd(0.2, momentum=0.9), 7, draw=Draw(retain=ALL)
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
  chex.assert_trees_all_close(jax.jit(jax.grad(final))(w)[1], slope, rtol=1e-2)


def test_no_step_returns_the_params_bitwise():
  fit = phase(problems.quadratic(), optax.adam(0.1), 0, draw=BOTH)
  params, info = fit(jnp.float32(0.3), DATA, MASK, KEY)
  assert params == jnp.float32(0.3) and info.loss.shape == (0,)


def test_an_empty_kind_has_no_gradient():
  ascend = phase(problems.quadratic(), optax.adam(0.1), 5, draw=Draw(forget=4))
  params, info = ascend(jnp.float32(0.3), DATA, jnp.zeros(3, bool), KEY)
  assert params == jnp.float32(0.3) and (info.loss == 0).all()


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

  params, info = jax.jit(jax.vmap(run))(jnp.array([0.1, 5.0]))
  assert info.is_finite.tolist() == [True, False]
  chex.assert_trees_all_close(params[0], 2.5, rtol=1e-5)


def test_something_else_than_the_params_can_be_optimised():
  z: Slot[jax.Array] = Slot("z")
  pull = phase(
    lambda z, step, key: jnp.square(z - step.variables.params),
    optax.sgd(0.5),
    4,
    on=z,
  )
  read = phase(lambda v, step, key: v.params * step[z], optax.sgd(1.0), 1)
  both = chain(provide(z, lambda *_: jnp.zeros(2)), pull, read)
  params, info = both(jnp.float32(1), DATA, MASK, KEY)
  # z' = z - 0.5 * (z - 1) each step (the mean of two halves the gradient).
  found = 1 - 0.5**4
  chex.assert_trees_all_close(params, 1 - found, rtol=1e-6)
  assert set(info) == {"phase", "phase_2"}
  with pytest.raises(ValueError, match="earlier link to provide 'z', got"):
    pull(jnp.float32(1), DATA, MASK, KEY)


def test_a_slot_of_variables_brings_its_own_model_state():
  net: Slot[Variables] = Slot("net")

  def count(variables, step, key):
    state = {"seen": variables.model_state["seen"] + 1}
    return Losses((variables.params - 3.0) ** 2 * jnp.ones(1), None, state)

  start = provide(net, lambda *_: Variables(jnp.zeros(()), {"seen": 0.0}))
  read = edit(lambda v, *_: v)
  look = record("net", lambda carry: carry[net])
  fit = phase(count, optax.sgd(0.5), 4, on=net)
  _, info = chain(start, fit, read, look)(jnp.float32(1), DATA, MASK, KEY)
  assert info["net"].model_state["seen"] == 4 and info["net"].params == 3


def test_a_path_trains_a_part_of_the_params():
  variables = {"a": {"b": jnp.float32(1), "c": jnp.float32(1)}}
  loss = lambda v, step, key: jnp.stack(jax.tree.leaves(v.params)) ** 2
  after, info = phase(loss, optax.sgd(0.1), 3, on="a/b")(
    variables, DATA, MASK, KEY
  )
  assert after["a"]["c"] == 1 and after["a"]["b"] < 1 and info.moved == 1
  shut, _ = masked(phase(loss, optax.sgd(0.1), 3, on="a/b"), {"a": False})(
    variables, DATA, MASK, KEY
  )
  assert shut["a"]["b"] == 1
  with pytest.raises(ValueError, match="params below 'd', got"):
    phase(loss, optax.sgd(0.1), 1, on="d")(variables, DATA, MASK, KEY)


def test_rows_may_come_from_a_slot():
  made: Slot[dict] = Slot("made")
  fill = provide(made, lambda *_: {"x": jnp.array([5.0, 7.0])}, reads="nothing")
  fit = phase(
    problems.quadratic(), optax.sgd(1.0), 1, draw=Draw(retain=ALL, source=made)
  )
  method = chain(fill, fit)
  params, _ = method(jnp.float32(0), None, Request(concept=jnp.ones(1)), KEY)
  assert params == 6 and method.needs.sizes == (0, 0, 0)


@pytest.mark.parametrize(("parts", "weighted"), [(2, False), (4, True)])
def test_microbatches_and_remat_give_the_same_update(parts, weighted):
  model, data, variables = problems.trained()

  def loss(v, step, key):
    out = supervised(model)(v, step, key)
    tokens = (step.row_id % 3 + 1).astype(jnp.float32)
    return Losses(out.value * tokens, tokens) if weighted else out

  draw = Draw(forget=4, retain=8)
  run = lambda fit: phase(loss, fit, draw=draw, forget_weight=-0.1)(
    variables, data, data["label"] == 1, KEY
  )
  plain = run(Fit(optax.adam(0.01), 3))
  split = run(Fit(optax.adam(0.01), 3, microbatches=parts, remat=True))
  chex.assert_trees_all_close(split, plain, rtol=1e-4, atol=1e-5)


def test_a_mean_over_tokens_weighs_rows_by_how_many_they_have():
  tokens = jnp.array([1.0, 4.0, 2.0])
  loss = lambda v, step, key: Losses(
    tokens[step.row_id] * (v.params - step.rows["x"]), tokens[step.row_id]
  )
  fit = phase(loss, optax.sgd(1.0), 1, draw=Draw(mixed=ALL))
  _, info = fit(jnp.float32(0), DATA, MASK, KEY)
  wanted = -np.average([1, 2, 3], weights=[1, 4, 2])
  chex.assert_trees_all_close(info.loss[0], wanted, rtol=1e-6)


OPTIMIZERS = {
  "lbfgs": optax.lbfgs(),
  "polyak_sgd": optax.polyak_sgd(),
  "plateau": optax.chain(optax.adam(0.1), optax.contrib.reduce_on_plateau()),
  # It says that it takes further arguments, and takes none of these.
  "sam": optax.contrib.sam(optax.sgd(0.1), optax.sgd(0.01)),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimisers_find_the_loss_and_its_gradient(name):
  fit = phase(problems.quadratic(), OPTIMIZERS[name], 8, draw=Draw(retain=ALL))
  params, info = jax.jit(fit)(jnp.float32(0), DATA, MASK, KEY)
  assert info.loss[-1] < info.loss[0] and jnp.isfinite(params)


def test_small_steps_of_half_precision_add_up():
  start = {"w": jnp.full(4, 1.0, jnp.bfloat16)}
  loss = lambda v, step, key: v.params["w"].astype(jnp.float32)
  fit = phase(loss, optax.sgd(1e-3), 400)
  after, info = fit(start, DATA, MASK, KEY)
  # A quarter of the slope each: 400 steps of 2.5e-4, each far below half a
  # unit in the last place of 1.
  assert after["w"].dtype == jnp.bfloat16
  np.testing.assert_allclose(after["w"].astype(float), 0.9, atol=0.004)
  assert info.moved == 1
  _, info = phase(loss, optax.sgd(0.0), 2)(start, DATA, MASK, KEY)
  assert info.moved == 0


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
  batch = as_step(DATA)
  with pytest.raises(ValueError, match="the 2 rows that a step draws, got 3"):
    fit.step(fit.init(carry, KEY, Env()), batch, KEY, Env())


SGD = optax.sgd(0.1)


@pytest.mark.parametrize(
  ("make", "message"),
  [
    (lambda f: phase(f, SGD, -1), "num_steps .* >= 0"),
    (lambda f: phase(f, SGD, 2.5), "num_steps .* whole number"),
    (lambda f: phase(f, "adam", 1), "optimizer .* optax"),
    (lambda f: phase(f, Fit(SGD, 1), 1), "got a Fit"),
    (
      lambda f: phase(f, SGD, 1, draw=Draw(retain=-3)),
      "draw.retain to be a whole number >= -1",
    ),
    (
      lambda f: phase(f, Fit(SGD, 1, microbatches=2)),
      "draw for 2 microbatches",
    ),
    (
      lambda f: phase(f, Fit(SGD, 1, microbatches=3), draw=Draw(retain=4)),
      "3 microbatches divide",
    ),
    (
      lambda f: phase(f, SGD, 1)(jnp.float32(0), DATA, MASK, KEY),
      "draw of rows",
    ),
    (
      lambda f: phase(f, SGD, 1)(jnp.float32(0), DATA, MASK, 5),
      "key to be a typed PRNG key",
    ),
  ],
)
def test_bad_phases_are_rejected(make, message):
  with pytest.raises(ValueError, match=message):
    make(problems.quadratic())
