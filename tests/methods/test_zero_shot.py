"""Unlearning without data: learned noise, and gated knowledge transfer."""

import pathlib

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import problems
import pytest
from sklearn.datasets import load_digits

import jaxunlearn as ju
from jaxunlearn import losses
from jaxunlearn.adapters.flax import from_linen
from jaxunlearn.adapters.functions import from_functions
from jaxunlearn.core.types import Carry, Env, Variables
from jaxunlearn.methods import gated_transfer, zero_shot
from jaxunlearn.methods.gated_transfer import band_pass, gkt
from jaxunlearn.methods.zero_shot import zero_shot_noise
from jaxunlearn.models import MLP
from jaxunlearn.models.generator import vector_generator

GOLDEN = pathlib.Path(__file__).parents[1] / "data"
KEY = jax.random.key(0)
TABLE = {"label": jnp.arange(4)}
NOISE = {
  "noise_steps": 5,
  "noise_batch": 6,
  "impair_steps": 3,
  "repair_steps": 3,
  "batch_size": 16,
}
TRANSFER = {
  "cycles": 3,
  "student_steps": 2,
  "batch_size": 16,
  "z_dim": 5,
  "gate": 0.3,
}
BOTH = {
  "zero_shot_noise": lambda model, **kw: zero_shot_noise(
    model, num_classes=4, **(NOISE | kw)
  ),
  "gkt": lambda model, **kw: gkt(model, num_classes=4, **(TRANSFER | kw)),
}
EACH = pytest.mark.parametrize("name", BOTH)


def hidden(variables, x):
  p = variables.params["hidden"]
  return {"hidden": jax.nn.relu(x @ p["kernel"] + p["bias"][None])}


def trained():
  model, data, variables = problems.trained()
  return model._replace(features=hidden), data, variables


def table_generator(rows):
  """Inputs that are learned one by one, so that z does not matter."""
  model = from_functions(lambda key, z: rows, lambda rows, z: rows)
  return lambda shape: model


def class_accuracy(model, variables, data, c):
  right = model.predict(variables, data["x"]).argmax(-1) == data["label"]
  mask = data["label"] == c
  count = mask.sum()
  kept = (right & ~mask).sum() / (mask.size - count)
  return (right & mask).sum() / count, kept


# Access to data.


@EACH
def test_no_row_of_data_is_drawn_or_read(name):
  model, data, variables = trained()
  method = BOTH[name](model)
  assert method.needs == ju.Draw()
  mask = data["label"] == 1
  poisoned = {**data, "x": jnp.full_like(data["x"], jnp.nan)}
  run = jax.jit(method)
  out = run(variables, data, mask, KEY)
  chex.assert_trees_all_equal(run(variables, poisoned, mask, KEY), out)
  kept_labels = jnp.where(mask, data["label"], data["label"][::-1] * 0)
  other = {**data, "label": kept_labels}
  chex.assert_trees_all_equal(run(variables, other, mask, KEY), out)


@EACH
def test_a_table_of_classes_gives_the_same_bits_as_the_data(name):
  model, data, variables = trained()
  run = jax.jit(BOTH[name](model, input_shape=(6,)))
  other = jax.jit(BOTH[name](model))
  for wanted in ([1], [0, 3]):
    mask = ju.requests.classes(data["label"], wanted)
    classes = ju.requests.classes(TABLE["label"], wanted)
    chex.assert_trees_all_equal(
      run(variables, TABLE, classes, KEY)[0],
      other(variables, data, mask, KEY)[0],
    )


@EACH
def test_forgetting_on_the_blobs(name):
  model, data, variables = trained()
  longer = {
    "zero_shot_noise": {
      "noise_steps": 60,
      "noise_batch": 32,
      "impair_optimizer": optax.adam(3e-2),
      "impair_steps": 30,
      "repair_optimizer": optax.adam(1e-2),
      "repair_steps": 60,
    },
    "gkt": {
      "cycles": 60,
      "student_steps": 10,
      "student_optimizer": optax.adam(5e-3),
      "batch_size": 128,
      "z_dim": 8,
      "gate": 0.2,
    },
  }
  method = jax.jit(BOTH[name](model, input_shape=(6,), **longer[name]))
  for c in (1, 2):
    out, _ = method(variables, TABLE, TABLE["label"] == c, KEY)
    forget, retain = class_accuracy(model, out, data, c)
    before, retain_before = class_accuracy(model, variables, data, c)
    assert before >= 0.9 and forget <= 0.1
    assert retain >= retain_before - 0.1


@pytest.mark.slow
@EACH
def test_every_class_of_digits_is_forgotten(name):
  images = load_digits()
  x = jnp.asarray(images.images[..., None] / 16, jnp.float32)
  data = {"x": x, "label": jnp.asarray(images.target, jnp.int32)}
  model = from_linen(MLP(10))
  train_key, key = jax.random.split(KEY)
  variables, _ = jax.jit(
    lambda key: ju.train(
      model,
      data,
      jnp.arange(len(x)) % 10 > 2,
      key,
      optimizer=optax.adam(1e-3),
      num_steps=600,
      batch_size=128,
    )
  )(train_key)
  unseen = {k: v[jnp.arange(len(x)) % 10 <= 2] for k, v in data.items()}
  options = {"num_classes": 10, "input_shape": (8, 8, 1)}
  method = {
    "zero_shot_noise": zero_shot_noise(model, **options),
    "gkt": gkt(model, cycles=150, generator=vector_generator, **options),
  }[name]
  table = {"label": jnp.arange(10)}

  def one(c):
    out, _ = method(variables, table, table["label"] == c, key)
    after = class_accuracy(model, out, unseen, c)
    return after, class_accuracy(model, variables, unseen, c)

  after, before = jax.jit(lambda: jax.lax.map(one, jnp.arange(10)))()
  assert before[0].min() > 0.85 and after[0].max() <= 0.05
  assert (before[1] - after[1]).max() <= 0.1


# Noise.


def test_the_objective_of_noise_is_that_of_the_published_formula():
  with np.load(GOLDEN / "zero_shot__error_min_max_noise.npz") as file:
    d = dict(file)

  def apply(params, x):
    h = jax.nn.relu(x @ d["model_w1"].T + d["model_b1"][None])
    return h @ d["model_w2"].T + d["model_b2"][None]

  model = from_functions(lambda key, x: {}, apply)
  penalty = float(d["reg_weight"])
  objective = zero_shot.noise_objective(model, penalty, penalty)
  # A class has as many inputs as any, so a row of each label goes with copies
  # that count for nothing: the gradient of a row is its own.
  noise = np.zeros((7, 6, 30), np.float32)
  for row, label in enumerate(d["labels"]):
    noise[label, row] = d["noise"][row]
  for forget in (True, False):
    context = ju.Context(
      Variables({}), Variables({}), {"classes": jnp.full(7, forget)}, 0
    )
    batch = ju.Batch(*[None] * 6, context)
    loss = lambda noise: objective(noise, batch, KEY).mean()
    grad = np.asarray(jax.grad(loss)(noise))
    kind = "maximising" if forget else "minimising"
    wanted = d[f"error_{kind}_grad"]
    for row, label in enumerate(d["labels"]):
      found = grad[label, row]
      assert np.abs(found - wanted[row]).max() <= 1e-5 * np.abs(wanted).max()


def test_noise_of_a_linear_model_errs_ever_more_or_ever_less():
  w = np.random.default_rng(0).standard_normal((6, 4)).astype(np.float32)
  model = from_functions(lambda key, x: w, lambda w, x: x @ w)
  variables = Variables(jnp.asarray(w))

  def errors(steps):
    link = zero_shot.learn_noise(
      model,
      num_classes=4,
      optimizer=optax.sgd(0.1),
      num_steps=steps,
      batch_size=8,
      forget_penalty=0.0,
      retain_penalty=0.0,
      input_shape=(6,),
    )
    start = Carry(variables, variables, {})
    carry, _ = link.run(start, TABLE, jnp.arange(4) == 2, KEY, Env())
    noise = carry.extra["noise"].reshape(32, 6)
    labels = np.repeat(np.arange(4), 8)
    return losses.cross_entropy(model.predict(variables, noise), labels)

  trace = np.stack([errors(steps) for steps in range(6)])
  forget = np.repeat(np.arange(4) == 2, 8)
  assert (np.diff(trace[:, forget], axis=0) > 0).all()
  assert (np.diff(trace[:, ~forget], axis=0) < 0).all()


@pytest.mark.parametrize(("copies", "share"), [(0.0, 0.0), (1.0, 0.25)])
def test_noise_of_a_forgotten_class_counts_by_its_copies(copies, share):
  model, _, variables = trained()
  seen = []

  def loss(outputs, rows):
    seen.append(np.asarray(rows["label"]))
    # Each row is of the noise of its label.
    assert (np.asarray(rows["x"])[:, 0] == seen[-1]).all()
    return outputs.sum(axis=-1)

  noise = jnp.broadcast_to(jnp.arange(4.0)[:, None, None], (4, 5, 6))
  extra = {"classes": jnp.arange(4) == 2, "noise": noise}
  step = zero_shot.train_on_noise(
    model._replace(loss=loss, apply=lambda v, x, **_: (x, {})),
    optimizer=optax.sgd(0.1),
    num_steps=1,
    batch_size=4000,
    copies=copies,
    name="fit",
  )
  with jax.disable_jit():
    carry = Carry(variables, variables, extra)
    step.run(carry, TABLE, extra["classes"], KEY, Env())
  # Four standard errors of a share of a quarter of 4,000 rows.
  assert abs((seen[0] == 2).mean() - share) <= 4 * (0.25 * 0.75 / 4000) ** 0.5
  assert share > 0 or not (seen[0] == 2).any()


def test_noise_without_impairing_or_repairing_returns_the_params_bitwise():
  model, data, variables = trained()
  method = BOTH["zero_shot_noise"](model, impair_steps=0, repair_steps=0)
  out, info = method(variables, data, data["label"] == 1, KEY)
  chex.assert_trees_all_equal(out, variables)
  assert set(info["noise"]) == {"learn_noise"}
  everything = BOTH["zero_shot_noise"](model, impair_steps=0)
  out, _ = jax.jit(everything)(variables, data, data["label"] >= 0, KEY)
  chex.assert_trees_all_equal(out, variables)  # Nothing is left to repair.


# Gated transfer.


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
    return x[
      np.asarray(p[:, np.asarray(classes)].max(axis=1) <= options["gate"])
    ]

  def student_loss(params, x):
    student = Variables(params)
    difference = attention(student, x) - attention(teacher, x)
    if options["reduction"] == "released":
      apart = (difference**2).mean(axis=1)
    else:
      apart = jnp.sqrt((difference**2).sum(axis=1))
    return (gap(x, student) + beta * apart).mean()

  def step(loss, value, state):
    loss, grad = jax.value_and_grad(loss)(value)
    updates, state = optimizer.update(grad, state)
    return optax.apply_updates(value, updates), state, loss

  for _ in range(3):
    for _ in range(steps[0]):
      loss = lambda rows: -gap(keep(rows), student).mean()
      rows, g_state, _ = step(loss, rows, g_state)
    x = keep(rows)
    shares.append(len(x) / len(rows))
    for _ in range(steps[1]):
      loss = lambda params, x=x: student_loss(params, x)
      params, s_state, value = step(loss, student.params, s_state)
      student = Variables(params)
      found.append(value)
  return student, shares, found


@pytest.mark.parametrize(
  ("gate", "reduction", "attention"),
  [(1.0, "paper", 0.0), (0.3, "released", 20.0), (0.3, "paper", 0.5)],
)
def test_the_loop_is_that_of_the_paper(gate, reduction, attention):
  model, data, variables = trained()
  rows = data["x"][:24]
  fresh = model.init(jax.random.key(3), rows)
  options = {
    "gate": gate,
    "reduction": reduction,
    "attention": attention,
    "temperature": 2.0,
    "clip": 0.5,
  }
  classes = jnp.array([True, False, True, False])
  method = gkt(
    model,
    num_classes=4,
    cycles=3,
    generator_steps=2,
    student_steps=3,
    batch_size=24,
    generator=table_generator(rows),
    generator_optimizer=optax.adam(1e-2),
    student_optimizer=optax.adam(1e-2),
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
  gap = jax.tree.map(lambda a, b: jnp.abs(a - b).max(), out, fresh)
  assert max(jax.tree.leaves(gap)) > 0.02


def test_nothing_kept_changes_nothing_whatever_the_optimiser():
  model, data, variables = trained()
  start = model.init(KEY, data["x"])
  options = {
    "student_variables": start,
    "student_optimizer": optax.adamw(0.1, weight_decay=0.1),
  }
  for more, mask in (
    ({"gate": 0.0}, data["label"] == 1),
    ({"gate": 0.2}, data["label"] >= 0),  # Some class has a quarter at least.
  ):
    method = BOTH["gkt"](model, **options, **more)
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


def test_a_student_that_is_the_teacher_has_nothing_to_learn():
  model, data, variables = trained()
  method = BOTH["gkt"](
    model, cycles=1, attention=1.0, student_variables=variables
  )
  _, info = method(variables, data, data["label"] == 1, KEY)
  assert info["cycles"]["kept"][0] > 0
  assert jnp.abs(info["cycles"]["generate"].loss).max() <= 1e-6
  assert jnp.abs(info["cycles"]["learn"].loss[0, 0]) <= 1e-6


def test_the_gate_keeps_what_the_published_filter_keeps():
  with np.load(GOLDEN / "zero_shot__band_pass_filter.npz") as file:
    d = dict(file)
  logits = jnp.asarray(d["teacher_logits"])
  classes = jnp.arange(10) == int(d["forget_class"])
  kept = band_pass(logits, classes, float(d["threshold"]))
  assert (kept == d["keep_mask"].astype(bool)).all()
  # Any of several classes closes the gate; none leaves it open.
  two = classes | (jnp.arange(10) == 4)
  p = np.asarray(jax.nn.softmax(logits))
  wanted = (p[:, int(d["forget_class"])] <= 0.01) & (p[:, 4] <= 0.01)
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


@pytest.mark.parametrize("train_mode", [True, False])
def test_statistics_of_the_student_are_those_of_kept_rows(train_mode):
  model = standardising_model()
  _, data, _ = trained()
  x = data["x"][:16]
  variables = model.init(jax.random.key(8), x)
  classes = jnp.array([True, False, False, False])
  p = jax.nn.softmax(model.predict(variables, x))[:, 0]
  gate = float(jnp.sort(p)[7])  # Eight of sixteen pass, so each comes twice.
  method = gkt(
    model,
    num_classes=4,
    cycles=1,
    student_steps=2,
    batch_size=16,
    gate=gate,
    generator=table_generator(x),
    generator_optimizer=optax.sgd(0.0),
    train_mode=train_mode,
    input_shape=(6,),
  )
  out, info = method(variables, TABLE, classes, KEY)
  assert info["cycles"]["kept"][0] == 0.5
  if train_mode:
    assert out.model_state["steps"] == 2
    wanted = np.asarray(x, np.float64)[np.asarray(p <= gate)].mean(axis=0)
    np.testing.assert_allclose(out.model_state["mean"], wanted, atol=1e-6)
    none = (
      method._replace
      if False
      else gkt(model, num_classes=4, cycles=1, gate=0.0, input_shape=(6,))
    )
    out, _ = none(variables, TABLE, classes, KEY)
  assert out.model_state["steps"] == 0


def test_the_curve_is_that_of_the_student_and_changes_no_bit():
  model, data, variables = trained()
  mask = data["label"] == 1

  def evaluate(v):
    forget, retain = class_accuracy(model, v, data, 1)
    return {"forget": forget, "retain": retain, "norm": optax.tree.norm(v)}

  plain, info = jax.jit(BOTH["gkt"](model, cycles=4))(
    variables, data, mask, KEY
  )
  assert "curve" not in info["cycles"]
  method = BOTH["gkt"](model, cycles=4, evaluate=evaluate, evaluate_every=2)
  out, info = jax.jit(method)(variables, data, mask, KEY)
  chex.assert_trees_all_equal(out, plain)
  curve = info["cycles"]["curve"]
  assert curve["norm"].shape == (2,) and curve["norm"][0] != curve["norm"][1]
  np.testing.assert_allclose(curve["norm"][1], optax.tree.norm(out), rtol=1e-6)


def test_gate_attention_and_rates_may_be_swept_by_vmap():
  model, data, variables = trained()
  mask = data["label"] == 1

  def one(gate, attention, rate):
    method = BOTH["gkt"](
      model,
      gate=gate,
      attention=attention,
      temperature=1.0 + gate,
      clip=1.0 + gate,
      student_optimizer=optax.adam(rate),
    )
    return method(variables, data, mask, KEY)[0]

  sweep = (
    jnp.array([0.2, 1.0]),
    jnp.array([0.0, 30.0]),
    jnp.array([1e-2, 1e-3]),
  )
  many = jax.jit(jax.vmap(one))(*sweep)
  for i in range(2):
    single = jax.jit(one)(*(float(v[i]) for v in sweep))
    found = jax.tree.map(lambda leaf, i=i: leaf[i], many)
    chex.assert_trees_all_close(found, single, rtol=1e-3, atol=1e-5)


def test_another_architecture_can_be_taught():
  model, data, variables = trained()
  linear = from_functions(
    lambda key, x: {"w": 0.1 * jax.random.normal(key, (x.shape[1], 4))},
    lambda params, x: x @ params["w"],
  )
  method = BOTH["gkt"](
    model,
    cycles=60,
    student_steps=5,
    student=linear,
    student_optimizer=optax.adam(1e-2),
    generator=lambda shape: vector_generator(shape, hidden=(16,)),
  )
  mask = data["label"] == 1
  out, info = jax.jit(method)(variables, data, mask, KEY)
  assert set(out.params) == {"w"} and out.params["w"].shape == (6, 4)
  forget, retain = class_accuracy(linear, out, data, 1)
  assert forget <= 0.1 and retain >= 0.8
  assert info["cycles"]["learn"].is_finite.all()


def test_a_host_loop_does_the_same():
  model, _, variables = trained()
  mask = TABLE["label"] == 1
  method = BOTH["gkt"](model, cycles=2, input_shape=(6,))
  wanted, _ = method(variables, TABLE, mask, KEY)
  out, _ = ju.stream(
    method,
    variables,
    [],
    KEY,
    data=TABLE,
    forget_mask=mask,
    progress=False,
  )
  chex.assert_trees_all_close(out, wanted, rtol=1e-4, atol=1e-6)


# Mistakes.


@pytest.mark.parametrize(
  ("option", "message"),
  [
    ({"gate": 1.5}, r"gate in \[0, 1\]"),
    ({"gate": -0.1}, r"gate in \[0, 1\]"),
    ({"student_steps": 0}, "student_steps > 0"),
    ({"generator_steps": 0}, "generator_steps > 0"),
    ({"batch_size": 0}, "batch_size > 0"),
    ({"z_dim": 0}, "z_dim > 0"),
    ({"cycles": -1}, "cycles >= 0"),
    ({"temperature": 0.0}, "temperature > 0"),
    ({"clip": 0.0}, "clip > 0"),
    ({"attention": -1.0}, "attention >= 0"),
    ({"reduction": "mean"}, "reduction to be one of 'paper', 'released'"),
    ({"evaluate_every": 0}, "every > 0"),
    ({"num_classes": 0}, "num_classes > 0"),
    (
      {"attention": 1.0, "attention_features": ("last",)},
      r"attention_features among \['hidden'\], got 'last'",
    ),
  ],
)
def test_options_of_transfer_out_of_range_are_rejected(option, message):
  model, data, variables = trained()
  with pytest.raises(ValueError, match=message):
    method = gkt(model, **({"num_classes": 4, **TRANSFER} | option))
    method(variables, data, data["label"] == 1, KEY)


@pytest.mark.parametrize(
  ("option", "message"),
  [
    ({"forget_penalty": -1.0}, "forget_penalty >= 0"),
    ({"retain_penalty": -1.0}, "retain_penalty >= 0"),
    ({"noise_batch": 0}, "batch_size > 0"),
    ({"batch_size": 0}, "batch_size > 0"),
    ({"noise_steps": -1}, "num_steps >= 0"),
    ({"copies": -1.0}, "copies >= 0"),
  ],
)
def test_options_of_noise_out_of_range_are_rejected(option, message):
  model, _, _ = trained()
  with pytest.raises(ValueError, match=message):
    BOTH["zero_shot_noise"](model, **option)


def test_attention_needs_features_of_both_networks():
  model, _, _ = trained()
  bare = model._replace(features=None)
  with pytest.raises(ValueError, match=r"model\.features, .* got None"):
    BOTH["gkt"](bare, attention=1.0)
  with pytest.raises(ValueError, match=r"student\.features, .* got None"):
    BOTH["gkt"](model, attention=1.0, student=bare)
  BOTH["gkt"](bare, attention=0.0)


@EACH
def test_requests_that_name_no_class_are_rejected(name):
  model, data, variables = trained()
  method = BOTH[name](model)
  label = data["label"]
  for mask, count in ((label < 0, 0), (jnp.arange(60) < 30, 4)):
    with pytest.raises(ValueError, match=f"1 .. 3 classes of 4, got {count}"):
      method(variables, data, mask, KEY)
  with pytest.raises(ValueError, match=r"in 0 \.\. 3, got 1 \.\. 4"):
    method(variables, {**data, "label": label + 1}, label == 1, KEY)
  with pytest.raises(ValueError, match="dtype bool for this method"):
    method(variables, data, (label == 1) * 0.9, KEY)


@EACH
def test_the_shape_of_an_input_must_come_from_somewhere(name):
  model, data, variables = trained()
  method = BOTH[name](model)
  with pytest.raises(ValueError, match="Expected input_shape, or data with"):
    method(variables, TABLE, TABLE["label"] == 1, KEY)
  whole = {**data, "x": data["x"].astype(jnp.int32)}
  with pytest.raises(ValueError, match="float dtype, since inputs are to be"):
    method(variables, whole, data["label"] == 1, KEY)
