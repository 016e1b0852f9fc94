"""Gated transfer: its loop against the paper's, the gate, and what it takes."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from closeness import change
from golden.table import load
from problems import class_accuracy, hidden, trained_with_features

import jaxunlearn as ju
from jaxunlearn.adapters.functions import from_functions
from jaxunlearn.core.types import Variables
from jaxunlearn.methods import gated_transfer
from jaxunlearn.methods.gated_transfer import GktOptions, band_pass, gkt
from jaxunlearn.models.generator import vector_generator

KEY = jax.random.key(0)
TABLE = {"label": jnp.arange(4)}


FIT = ju.Fit(optax.adam(1e-3), 2, 16)
FEW = {"cycles": 3, "learn": FIT, "z_dim": 5, "gate": 0.3}


def transfer(model, **given):
  """`gkt` with the fields of its options as keywords."""
  given = FEW | given
  fields = {n: given.pop(n) for n in GktOptions._fields if n in given}
  return gkt(model, 4, **given, options=GktOptions(**fields))


def table_generator(rows):
  """Inputs that are learned one by one, so that z does not matter."""
  model = from_functions(lambda key, z: rows, lambda rows, z: rows)
  return lambda shape: model


def by_hand(model, start, rows, teacher, classes, *, options, steps):
  """The paper's loop with plain optax, rows dropped by indexing."""
  optimizer = optax.chain(
    optax.clip_by_global_norm(options["clip"]), optax.adam(1e-2)
  )
  student, s_state = start, optimizer.init(start.params)
  g_state = optimizer.init(rows)
  temperature, beta = options["temperature"], options["attention"]
  shares, found = [], []

  def gap(x, student):
    kl = optax.losses.kl_divergence(
      jax.nn.log_softmax(model.predict(student, x) / temperature),
      jax.nn.softmax(model.predict(teacher, x) / temperature),
    )
    return kl / 4 if options["reduction"] == "released" else kl

  def attention(variables, x):
    energy = hidden(variables, x)["hidden"] ** 2
    return energy / jnp.linalg.norm(energy, axis=1, keepdims=True)

  def keep(x):
    p = jax.nn.softmax(model.predict(teacher, x))
    seen = np.asarray(p)[:, np.asarray(classes)].max(axis=1)
    return np.flatnonzero(seen <= options["gate"])

  def student_loss(params, x):
    student = Variables(params)
    difference = attention(student, x) - attention(teacher, x)
    if options["reduction"] == "released":
      apart = (difference**2).mean(axis=1)
    else:
      apart = jnp.sqrt((difference**2).sum(axis=1))
    return (gap(x, student) + beta * apart).mean()

  @functools.partial(jax.jit, static_argnums=0)
  def step(loss, value, state, *args):
    loss, grad = jax.value_and_grad(loss)(value, *args)
    updates, state = optimizer.update(grad, state)
    return optax.apply_updates(value, updates), state, loss

  def rows_loss(rows, student, kept):
    return -gap(rows[kept], student).mean()

  for _ in range(3):
    for _ in range(steps[0]):
      rows, g_state, _ = step(rows_loss, rows, g_state, student, keep(rows))
    x = rows[keep(rows)]
    shares.append(len(x) / len(rows))
    for _ in range(steps[1]):
      params, s_state, value = step(student_loss, student.params, s_state, x)
      student = Variables(params)
      found.append(value)
  return student, shares, found


@pytest.mark.parametrize(
  ("gate", "reduction", "attention"),
  [(1.0, "paper", 0.0), (0.3, "released", 20.0), (0.3, "paper", 0.5)],
)
def test_the_loop_is_that_of_the_paper(gate, reduction, attention):
  model, data, variables = trained_with_features()
  rows = data["x"][:24]
  fresh = jax.jit(model.init)(jax.random.key(3), rows)
  options = {
    "gate": gate,
    "reduction": reduction,
    "attention": attention,
    "temperature": 2.0,
    "clip": 0.5,
  }
  classes = jnp.array([True, False, True, False])
  method = transfer(
    model,
    generate=ju.Fit(optax.adam(1e-2), 2),
    learn=ju.Fit(optax.adam(1e-2), 3, 24),
    generator=table_generator(rows),
    student_variables=fresh,
    input_shape=(6,),
    **options,
  )
  out, info = jax.jit(method)(variables, TABLE, classes, KEY)
  wanted, shares, found = by_hand(
    model, fresh, rows, variables, classes, options=options, steps=(2, 3)
  )
  cycles = info["cycles"]
  np.testing.assert_allclose(cycles["kept"], shares, rtol=1e-6)
  assert (gate == 1) == (min(shares) == 1) and min(shares) > 0
  np.testing.assert_allclose(
    cycles["learn"].loss.ravel(), found, rtol=1e-4, atol=1e-6
  )
  chex.assert_trees_all_close(out, wanted, rtol=1e-3, atol=1e-5)
  assert change(out, fresh) > 0.02


@pytest.mark.slow
def test_nothing_kept_changes_nothing_whatever_the_optimiser():
  model, data, variables = trained_with_features()
  start = jax.jit(model.init)(KEY, data["x"])
  options = {
    "student_variables": start,
    "learn": FIT._replace(optimizer=optax.adamw(0.1, weight_decay=0.1)),
  }
  for more, mask in (
    ({"gate": 0.0}, data["label"] == 1),
    ({"gate": 0.2}, data["label"] >= 0),  # Some class has a quarter at least.
  ):
    method = transfer(model, **options, **more)
    out, info = jax.jit(method)(variables, data, mask, KEY)
    chex.assert_trees_all_equal(out, start)
    assert (info["cycles"]["kept"] == 0).all()
    assert (info["cycles"]["learn"].loss == 0).all()


def test_an_empty_batch_neither_moves_params_nor_ages_the_optimiser():
  optimizer = gated_transfer._patient(optax.adam(0.1), 1.0)
  params = {"a": jnp.ones(2), "b": jnp.ones(3)}
  state = optimizer.init(params)
  updates, moved = optimizer.update(
    {"a": params["a"], "b": 0 * params["b"]}, state
  )
  assert (updates["a"] != 0).all()
  nothing = jax.tree.map(jnp.zeros_like, params)
  updates, same = optimizer.update(nothing, moved)
  chex.assert_trees_all_equal(same, moved)
  chex.assert_trees_all_equal(updates, nothing)


def test_any_of_several_classes_closes_the_gate_and_none_leaves_it_open():
  logits = jnp.asarray(load("zero_shot__band_pass_filter")["teacher_logits"])
  p = np.asarray(jax.nn.softmax(logits))
  two = jnp.isin(jnp.arange(10), jnp.array([3, 4]))
  wanted = (p[:, 3] <= 0.01) & (p[:, 4] <= 0.01)
  assert (band_pass(logits, two, 0.01) == wanted).all()
  assert band_pass(logits, jnp.zeros(10, bool), 0.0).all()


def test_dropped_rows_give_their_place_to_kept_ones_in_turn():
  kept = jnp.array([False, True, False, False, True])
  rows, weight = gated_transfer._kept_in_turn(kept)
  assert rows.tolist() == [1, 4, 1, 4, 1]
  assert weight.tolist() == [1, 1, 0, 0, 0]
  rows, weight = gated_transfer._kept_in_turn(jnp.ones(3, bool))
  assert rows.tolist() == [0, 1, 2] and weight.all()


def standardising_model():
  """One that centres its inputs by the batch in training, and counts batches."""

  def apply(variables, x, *, train=False, key=None):
    state = variables.model_state
    mean = x.mean(axis=0) if train else state["mean"]
    logits = (x - mean[None]) @ variables.params
    return logits, {"mean": mean, "steps": state["steps"] + 1}

  def init(key, x):
    state = {"mean": jnp.zeros(6), "steps": jnp.zeros((), jnp.int32)}
    return Variables(jax.random.normal(key, (6, 4)), state)

  return from_functions(init, apply, has_state=True)


@pytest.mark.slow
@pytest.mark.parametrize("train_mode", [True, False])
def test_statistics_of_the_student_are_those_of_kept_rows(train_mode):
  model = standardising_model()
  _, data, _ = trained_with_features()
  x = data["x"][:16]
  variables = jax.jit(model.init)(jax.random.key(8), x)
  classes = jnp.array([True, False, False, False])
  p = jax.nn.softmax(model.predict(variables, x))[:, 0]
  gate = float(jnp.sort(p)[7])  # Eight of sixteen pass, so each comes twice.
  method = transfer(
    model,
    cycles=1,
    generate=ju.Fit(optax.sgd(0.0), 1),
    learn=FIT,
    gate=gate,
    generator=table_generator(x),
    train_mode=train_mode,
    input_shape=(6,),
  )
  out, info = jax.jit(method)(variables, TABLE, classes, KEY)
  assert info["cycles"]["kept"][0] == 0.5
  if train_mode:
    assert out.model_state["steps"] == 2
    wanted = np.asarray(x, np.float64)[np.asarray(p <= gate)].mean(axis=0)
    np.testing.assert_allclose(out.model_state["mean"], wanted, atol=1e-6)
    none = transfer(model, cycles=1, gate=0.0, input_shape=(6,))
    out, _ = jax.jit(none)(variables, TABLE, classes, KEY)
  assert out.model_state["steps"] == 0


@pytest.mark.slow
def test_the_curve_is_that_of_the_student_and_changes_no_bit():
  model, data, variables = trained_with_features()
  mask = data["label"] == 1

  def evaluate(v):
    forget, retain = class_accuracy(model, v, data, 1)
    return {"forget": forget, "retain": retain, "norm": optax.tree.norm(v)}

  plain, info = jax.jit(transfer(model, cycles=4))(variables, data, mask, KEY)
  assert "curve" not in info["cycles"]
  method = transfer(model, cycles=4, evaluate=evaluate, evaluate_every=2)
  out, info = jax.jit(method)(variables, data, mask, KEY)
  chex.assert_trees_all_equal(out, plain)
  curve = info["cycles"]["curve"]
  assert curve["norm"].shape == (2,) and curve["norm"][0] != curve["norm"][1]
  np.testing.assert_allclose(curve["norm"][1], optax.tree.norm(out), rtol=1e-6)


def test_another_architecture_can_be_taught():
  model, data, variables = trained_with_features()
  linear = from_functions(
    lambda key, x: {"w": 0.1 * jax.random.normal(key, (x.shape[1], 4))},
    lambda params, x: x @ params["w"],
  )
  method = transfer(
    model,
    cycles=60,
    learn=ju.Fit(optax.adam(1e-2), 5, 16),
    student=linear,
    generator=lambda shape: vector_generator(shape, hidden=(16,)),
  )
  mask = data["label"] == 1
  out, info = jax.jit(method)(variables, data, mask, KEY)
  assert set(out.params) == {"w"} and out.params["w"].shape == (6, 4)
  forget, retain = class_accuracy(linear, out, data, 1)
  assert forget <= 0.1 and retain >= 0.8
  assert info["cycles"]["learn"].is_finite.all()


def test_attention_needs_features_of_both_networks_by_their_names():
  model, data, variables = trained_with_features()
  bare = model._replace(features=None)
  with pytest.raises(ValueError, match=r"student\.features, .* got None"):
    transfer(model, attention=1.0, student=bare)
  transfer(bare, attention=0.0)
  method = transfer(model, attention=1.0, attention_features=("last",))
  with pytest.raises(ValueError, match=r"among \['hidden'\], got 'last'"):
    method(variables, data, data["label"] == 1, KEY)
