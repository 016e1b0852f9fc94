"""Unlearning without data: what both ways see, and learned noise."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from golden.table import load
from problems import class_accuracy, trained_with_features

import jaxunlearn as ju
from jaxunlearn import losses
from jaxunlearn.adapters.functions import from_functions
from jaxunlearn.core.transform import Carry, Env
from jaxunlearn.core.types import Request, Variables, as_step
from jaxunlearn.methods import zero_shot
from jaxunlearn.methods.gated_transfer import GktOptions, gkt
from jaxunlearn.methods.zero_shot import zero_shot_noise

KEY = jax.random.key(0)
TABLE = {"label": jnp.arange(4)}
FIT = ju.Fit(optax.adam(1e-3), 3, 16)
NOISE = {"noise": ju.Fit(optax.adam(0.1), 5, 6), "impair": FIT, "repair": FIT}
TRANSFER = {"cycles": 3, "learn": FIT, "z_dim": 5, "gate": 0.3}


def transfer(model, **given):
  """`gkt` with the fields of its options as keywords."""
  given = TRANSFER | given
  fields = {n: given.pop(n) for n in GktOptions._fields if n in given}
  return gkt(model, 4, **given, options=GktOptions(**fields))


BOTH = {
  "zero_shot_noise": lambda model, **kw: zero_shot_noise(
    model, 4, **(NOISE | kw)
  ),
  "gkt": transfer,
}
EACH = pytest.mark.parametrize("name", BOTH)


# Access to data.


@pytest.mark.slow
@EACH
def test_a_table_of_classes_gives_the_same_bits_as_the_data(name):
  model, data, variables = trained_with_features()
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
  model, data, variables = trained_with_features()
  longer = {
    "zero_shot_noise": {
      "noise": ju.Fit(optax.adam(0.1), 60, 32),
      "impair": ju.Fit(optax.adam(3e-2), 30, 16),
      "repair": ju.Fit(optax.adam(1e-2), 60, 16),
    },
    "gkt": {
      "cycles": 60,
      "learn": ju.Fit(optax.adam(5e-3), 10, 128),
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


# Noise.


def test_the_objective_of_noise_is_that_of_the_published_formula():
  d = load("zero_shot__error_min_max_noise")

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
    step = as_step(TABLE, {zero_shot.CLASSES: jnp.full(7, forget)})
    step = step._replace(variables=Variables({}))
    loss = lambda noise: objective(noise, step, KEY).mean()
    grad = np.asarray(jax.jit(jax.grad(loss))(noise))
    kind = "maximising" if forget else "minimising"
    wanted = d[f"error_{kind}_grad"]
    for row, label in enumerate(d["labels"]):
      found = grad[label, row]
      assert np.abs(found - wanted[row]).max() <= 1e-5 * np.abs(wanted).max()


def test_noise_of_a_linear_model_errs_ever_more_or_ever_less():
  w = np.random.default_rng(0).standard_normal((6, 4)).astype(np.float32)
  model = from_functions(lambda key, x: w, lambda w, x: x @ w)
  variables = Variables(jnp.asarray(w))

  @functools.partial(jax.jit, static_argnums=0)
  def errors(steps):
    link = zero_shot.learn_noise(
      model,
      4,
      ju.Fit(optax.sgd(0.1), steps, 8),
      forget_penalty=0.0,
      retain_penalty=0.0,
      input_shape=(6,),
    )
    start = Carry(variables, variables, {})
    mask = jnp.arange(4) == 2
    carry, _ = link.run(start, TABLE, Request(mask, ~mask), KEY, Env())
    noise = carry[zero_shot.NOISE].reshape(32, 6)
    labels = np.repeat(np.arange(4), 8)
    return losses.cross_entropy(model.predict(variables, noise), labels)

  trace = np.stack([errors(steps) for steps in range(6)])
  forget = np.repeat(np.arange(4) == 2, 8)
  assert (np.diff(trace[:, forget], axis=0) > 0).all()
  assert (np.diff(trace[:, ~forget], axis=0) < 0).all()


@pytest.mark.parametrize(("copies", "share"), [(0.0, 0.0), (1.0, 0.25)])
def test_noise_of_a_forgotten_class_counts_by_its_copies(copies, share):
  model, _, variables = trained_with_features()
  seen = []

  def loss(outputs, rows):
    jax.debug.callback(
      lambda *drawn: seen.append(drawn), rows["x"], rows["label"]
    )
    return outputs.sum(axis=-1)

  noise = jnp.broadcast_to(jnp.arange(4.0)[:, None, None], (4, 5, 6))
  mask = jnp.arange(4) == 2
  slots = {zero_shot.CLASSES: mask, zero_shot.NOISE: noise}
  step = zero_shot.train_on_noise(
    model._replace(loss=loss, apply=lambda v, x, **_: (x, {})),
    ju.Fit(optax.sgd(0.1), 1, 4000),
    copies=copies,
    name="fit",
  )
  carry, request = Carry(variables, variables, slots), Request(mask, ~mask)
  run = lambda: step.run(carry, TABLE, request, KEY, Env())[1]
  jax.block_until_ready(jax.jit(run)())
  jax.effects_barrier()
  x, label = map(np.asarray, seen[0])
  assert (x[:, 0] == label).all()  # Each row is of the noise of its label.
  # Four standard errors of a share of a quarter of 4,000 rows.
  assert abs((label == 2).mean() - share) <= 4 * (0.25 * 0.75 / 4000) ** 0.5
  assert share > 0 or not (label == 2).any()


def test_noise_without_impairing_or_repairing_returns_the_params_bitwise():
  model, data, variables = trained_with_features()
  idle = FIT._replace(num_steps=0)
  method = BOTH["zero_shot_noise"](model, impair=idle, repair=idle)
  out, info = method(variables, data, data["label"] == 1, KEY)
  chex.assert_trees_all_equal(out, variables)
  assert set(info["noise"]) == {"learn_noise"}
  everything = BOTH["zero_shot_noise"](model, impair=idle)
  out, _ = jax.jit(everything)(variables, data, data["label"] >= 0, KEY)
  chex.assert_trees_all_equal(out, variables)  # Nothing is left to repair.
