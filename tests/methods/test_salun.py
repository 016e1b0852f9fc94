"""SalUn and sequential random labels, against the released code and limits."""

import importlib

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import problems
import pytest
from closeness import change
from golden.table import load
from problems import setting
from sklearn.datasets import load_digits

from jaxunlearn.adapters.flax import from_linen
from jaxunlearn.adapters.functions import from_functions
from jaxunlearn.core.combinators import masked
from jaxunlearn.core.phase import phase, remember, supervised
from jaxunlearn.core.tasks import Fit, as_task
from jaxunlearn.core.training import train
from jaxunlearn.core.transform import Carry, Env
from jaxunlearn.core.types import Draw, Losses, Request, Slot, Variables
from jaxunlearn.methods.random_label import random_label
from jaxunlearn.models import ResNet

sal = importlib.import_module("jaxunlearn.methods.salun")

KEY = jax.random.key(0)
NAMES = ("w1", "b1", "w2", "b2")
ROUNDS = {"num_epochs": 2, "forget_steps": 2}
# The same in the words of `random_label`.
ALIKE = {"order": "sequential", "num_epochs": 2, "forget_steps": 2}
ALIKE |= {"num_steps": 5, "redraw": "batch", "exclude_true": False}


def salun(model, **options):
  fit = Fit(sal.sgd(0.05), 3, 8)
  return sal.salun(model, fit, **({"num_classes": 4} | ROUNDS | options))


def saliency(model, variables, data, mask, keep, **options):
  mark = sal.saliency_mask(model, keep, **options)
  return mark(variables, data, Request(mask, ~mask), KEY)


def count(mask):
  return int(sum(m.sum() for m in jax.tree.leaves(mask)))


def torch_mlp():
  def apply(p, x):
    hidden = jax.nn.relu(x @ p["w1"].T + p["b1"][None])
    return hidden @ p["w2"].T + p["b2"][None]

  return from_functions(lambda key, x: None, apply)


def test_an_empty_request_marks_nothing_and_keeps_the_params_bits():
  model, data, variables, mask = setting()
  none = jnp.zeros_like(mask)
  marked = saliency(model, variables, data, none, 0.5)
  assert not any(leaf.any() for leaf in jax.tree.leaves(marked))
  out, _ = jax.jit(salun(model, keep=0.5))(variables, data, none, KEY)
  chex.assert_trees_all_equal(out.params, variables.params)


def test_the_mask_ignores_the_scale_of_the_loss_and_the_order_of_rows():
  model, data, variables, mask = setting()
  wanted = saliency(model, variables, data, mask, 0.3)
  scaled = model._replace(loss=lambda o, rows: 8.0 * model.loss(o, rows))
  found = saliency(scaled, variables, data, mask, 0.3)
  chex.assert_trees_all_equal(found, wanted)
  order = np.random.default_rng(1).permutation(60)
  mixed = jax.tree.map(lambda leaf: leaf[order], data)
  found = saliency(model, variables, mixed, mask[order], 0.3, chunk_size=7)
  chex.assert_trees_all_equal(found, wanted)


def test_a_task_that_draws_does_so_by_row_whatever_the_chunk():
  model, data, variables, mask = setting()

  def loss(variables, step, key, *, train=False):
    noise = jax.vmap(lambda k: jax.random.normal(k, (6,)))(step.keys(key))
    outputs = model.predict(variables, step.rows["x"] + noise)
    return Losses(model.loss(outputs, step.rows))

  task = as_task(model)._replace(loss=loss)
  one, two = (
    saliency(task, variables, data, mask, 0.3, chunk_size=size)
    for size in (7, 60)
  )
  chex.assert_trees_all_equal(one, two)
  plain = saliency(model, variables, data, mask, 0.3)
  assert count(jax.tree.map(lambda a, b: a != b, one, plain)) > 0


@pytest.mark.parametrize("with_mask", [True, False])
def test_an_epoch_of_random_labels_is_that_of_the_released_code(with_mask):
  file = load("salun__random_label_epoch")
  params = {n: jnp.asarray(file[f"param_{n}"]) for n in NAMES}
  weight_mask = {n: jnp.asarray(file[f"mask_{n}"] == 1) for n in NAMES}
  masks = (weight_mask,) if with_mask else ()
  optimizer = sal.sgd(
    float(file["lr"]),
    momentum=float(file["momentum"]),
    weight_decay=float(file["weight_decay"]),
  )
  state, size = params, int(file["batch_size"])
  slot, slots = Slot("optimizer"), {}
  for x, y in (
    (file["forget_x"], file["random_labels"]),
    (file["retain_x"], file["retain_y"]),
  ):
    for start in range(0, len(x), size):
      rows = {"x": x[start : start + size], "label": y[start : start + size]}
      rows = jax.tree.map(jnp.asarray, rows)
      # One step on exactly these rows, with the optimiser handed on.
      draw = Draw(retain=len(rows["x"]))
      fit = phase(supervised(torch_mlp()), optimizer, 1, draw=draw)
      whole = Variables(state)
      every = jnp.ones(len(rows["x"]), bool)
      carry, _ = remember(fit, slot).run(
        Carry(whole, whole, slots),
        rows,
        Request(~every, every),
        KEY,
        Env(weight_masks=masks),
      )
      state, slots = carry.variables.params, carry.slots
  prefix = "masked" if with_mask else "unmasked"
  for n in NAMES:
    np.testing.assert_allclose(
      state[n], file[f"{prefix}_param_{n}"], rtol=2e-5, atol=2e-6
    )
    if with_mask:
      frozen = file[f"mask_{n}"] == 0
      np.testing.assert_array_equal(state[n][frozen], params[n][frozen])


@pytest.mark.parametrize("schedule", ["sequential", "mixed"])
def test_keeping_all_weights_is_random_label_bit_for_bit(schedule):
  model, data, variables, mask = setting()
  alike = ALIKE
  if schedule == "mixed":
    alike = {"num_steps": 10, "redraw": "epoch", "exclude_true": False}
  plain = random_label(
    model, num_classes=4, batch_size=8, optimizer=sal.sgd(0.05), **alike
  )
  one = salun(model, keep=1.0, schedule=schedule)
  found, _ = jax.jit(one)(variables, data, mask, KEY)
  wanted, _ = jax.jit(plain)(variables, data, mask, KEY)
  chex.assert_trees_all_equal(found, wanted)
  assert one.num_steps == plain.num_steps == 10


@pytest.mark.slow
@pytest.mark.parametrize("schedule", ["sequential", "mixed"])
def test_weights_outside_the_mask_keep_their_bits_and_others_move(schedule):
  model, data, variables, mask = setting()
  marked = saliency(model, variables, data, mask, 0.4)
  out, _ = salun(model, keep=0.4, schedule=schedule)(variables, data, mask, KEY)
  for m, new, old in zip(
    *map(jax.tree.leaves, (marked, out.params, variables.params))
  ):
    np.testing.assert_array_equal(new[~m], old[~m])
    assert (new[m] != old[m]).all()
  none, _ = salun(model, keep=0.0, schedule=schedule)(
    variables, data, mask, KEY
  )
  chex.assert_trees_all_equal(none, variables)


def recorded(method_of, data, variables, mask):
  """The forget flags and labels that each step trains on, in order."""
  seen = []
  model = problems.mlp()

  def loss(outputs, rows):
    jax.debug.callback(
      lambda x, label: seen.append((x, label)), rows["x"], rows["label"]
    )
    return jnp.zeros(len(rows["label"])) * outputs.sum()

  method_of(model._replace(loss=loss))(variables, data, mask, KEY)
  jax.effects_barrier()
  forgotten = {float(x) for x in np.asarray(data["x"])[np.asarray(mask), 0]}
  flags = [np.array([float(r) in forgotten for r in x[:, 0]]) for x, _ in seen]
  return flags, [label for _, label in seen]


@pytest.mark.slow
def test_sequential_epochs_visit_forget_rows_first_with_labels_of_their_own():
  _, data, variables, mask = setting()
  plain = lambda redraw: (
    lambda m: random_label(
      m,
      num_classes=4,
      batch_size=15,
      optimizer=optax.sgd(0.0),
      order="sequential",
      num_epochs=4,
      forget_steps=1,
      num_steps=3,
      redraw=redraw,
      exclude_true=False,
    )
  )
  for redraw in ("once", "epoch", "batch"):
    flags, labels = recorded(plain(redraw), data, variables, mask)
    assert len(flags) == 12
    for i, (flag, label) in enumerate(zip(flags, labels)):
      assert flag.all() if i % 3 == 0 else not flag.any()
      if i % 3:
        assert (label != 1).all()  # True labels, none of the forgotten class.
    drawn = [np.sort(labels[i]).tolist() for i in (0, 3, 6, 9)]
    assert (len({tuple(d) for d in drawn}) == 1) == (redraw == "once")
    assert 1 in np.concatenate(drawn)  # A fresh label may be the true one.


@pytest.mark.slow
def test_the_retain_weight_scales_the_retain_steps_alone():
  model, data, variables, mask = setting()
  for schedule in ("sequential", "mixed"):
    # Without retain loss nothing depends on the retain rows' labels.
    other = {**data, "label": jnp.where(mask, data["label"], 3)}
    method = salun(model, keep=1.0, schedule=schedule, retain_weight=0.0)
    one, _ = method(variables, data, mask, KEY)
    two, _ = method(variables, other, mask, KEY)
    chex.assert_trees_all_close(one, two, rtol=1e-6, atol=1e-7)
    three, _ = salun(model, keep=1.0, schedule=schedule)(
      variables, other, mask, KEY
    )
    assert change(one, three) > 1e-3


def test_any_transform_can_wear_the_mask():
  model, data, variables, mask = setting()
  ascent = phase(
    supervised(model),
    optax.sgd(0.05),
    3,
    draw=Draw(forget=8),
    forget_weight=-1.0,
  )
  worn = masked(ascent, sal.saliency_mask(model, 0.25), needs=Draw(forget=-1))
  out, _ = jax.jit(worn)(variables, data, mask, KEY)
  changed = jax.tree.map(lambda a, b: a != b, out.params, variables.params)
  assert 0 < count(changed) <= 23


def test_the_soft_variant_thresholds_the_change_since_the_start():
  rng = np.random.default_rng(0)
  start = rng.normal(size=10)
  grads = rng.normal(size=(4, 10))
  soft = optax.chain(optax.sgd(0.1), sal.soft_threshold(0.6, 4))
  params = jnp.asarray(start, jnp.float32)
  state = soft.init(params)
  value = start.copy()
  for t in range(4):
    updates, state = soft.update(
      jnp.asarray(grads[t], jnp.float32), state, params
    )
    params = optax.apply_updates(params, updates)
    value = value - 0.1 * grads[t]
    change, k = value - start, int(0.6 * (1 - (t + 1) / 4) * 10)
    tau = np.sort(np.abs(change))[k - 1] if k else 0.0
    value = start + np.sign(change) * np.maximum(np.abs(change) - tau, 0)
    np.testing.assert_allclose(params, value, rtol=1e-5, atol=1e-6)
    still = np.isclose(params, start.astype(np.float32), rtol=1e-6).sum()
    assert still >= k


@pytest.mark.slow
def test_under_its_defaults_a_network_with_batch_norm_stays_finite():
  digits = load_digits()
  data = {
    "x": jnp.asarray(digits.images[..., None] / 16, jnp.float32),
    "label": jnp.asarray(digits.target, jnp.int32),
  }
  model = from_linen(ResNet(10, stage_sizes=(1, 1), num_filters=8))
  everything = jnp.ones(len(digits.target), bool)
  fit = Fit(optax.adam(1e-3), 150, 64)
  variables, _ = jax.jit(lambda k: train(model, data, everything, k, fit))(KEY)
  method = sal.salun(model, num_classes=10, num_epochs=2, num_steps=6)
  out, _ = jax.jit(method)(variables, data, data["label"] == 3, KEY)
  assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(out))
