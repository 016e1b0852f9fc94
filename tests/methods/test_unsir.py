import importlib

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import problems
import pytest
from golden.table import load

import jaxunlearn as ju
from jaxunlearn.core.transform import Carry, Env

unsir = importlib.import_module("jaxunlearn.methods.unsir")

KEY = jax.random.key(0)
SMALL = {
  "num_classes": 4,
  "max_classes": 1,
  "noise": ju.Fit(optax.adam(0.1), 10, 8),
  "impair": ju.Fit(optax.adam(0.02), 6, 16),
  "repair": ju.Fit(optax.adam(0.01), 5, 16),
}


def classes(label, present):
  wanted = jnp.asarray(label), jnp.asarray(present), jnp.int32(0)
  return unsir.NoiseClasses(*wanted)


def request(mask):
  return ju.Request(mask, ~mask)


def close(a, b, tolerance=1e-5):
  a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
  assert np.abs(a - b).max() <= tolerance * np.abs(b).max()


def test_noise_in_train_mode_follows_the_released_loop():
  g = load("unsir__noise_conv_bn_train_mode")
  p = {k[6:]: jnp.asarray(g[k]) for k in g if k.startswith("model_")}

  def apply(variables, x, *, train=False, key=None):
    v = variables.params
    y = jax.lax.conv_general_dilated(x, v["conv_w"], (1, 1), ((1, 1), (1, 1)))
    y = y + v["conv_b"].reshape(1, -1, 1, 1)
    axes = (0, 2, 3)
    mean, var = y.mean(axes), y.var(axes)
    if not train:
      mean, var = v["bn_mean"], v["bn_var"]
    side = lambda a: a.reshape(1, -1, 1, 1)
    y = (y - side(mean)) / jnp.sqrt(side(var) + 1e-5)
    y = jax.nn.relu(y * side(v["bn_scale"]) + side(v["bn_bias"]))
    return y.mean((2, 3)) @ v["w"].T + v["b"][None], variables.model_state

  model = ju.Model(lambda key, x: None, apply, lambda o, r: o)
  learn = ju.chain(
    ju.provide(unsir.CLASSES, lambda *_: classes([g["target_class"]], [True])),
    ju.provide(unsir.NOISE, lambda *_: jnp.asarray(g["noise"])[None]),
    ju.phase(
      unsir.noise_objective(model, float(g["reg_weight"]), train_mode=True),
      optax.adam(float(g["lr"])),
      3,
      on=unsir.NOISE,
    ),
  )
  variables = ju.Variables(p)
  data = {"x": jnp.zeros((1, 3, 6, 6)), "label": jnp.zeros(1, jnp.int32)}
  carry, info = learn.run(
    Carry(variables, variables, {}),
    data,
    request(jnp.zeros(1, bool)),
    KEY,
    Env(),
  )
  close(info["phase"].loss[0], g["out_code"])
  close(carry[unsir.NOISE][0], g["noise_after_3_steps"], 1e-4)


def learned_noise(num_steps=40, penalty=0.1):
  model, data, variables = problems.trained()
  fit = ju.Fit(optax.adam(0.1), num_steps, 8)
  link = unsir.learn_noise(model, 4, fit, max_classes=2, penalty=penalty)
  mask = data["label"] == 2

  @jax.jit
  def run(variables):
    carry = Carry(variables, variables, {})
    carry, info = link.run(carry, data, request(mask), KEY, Env())
    return carry[unsir.CLASSES], carry[unsir.NOISE], info["learn_noise"].loss

  return model, variables, *run(variables)


def test_noise_makes_the_model_wrong_about_its_class():
  model, variables, found, noise, loss = learned_noise()
  assert found.label[0] == 2 and found.present.tolist() == [True, False]
  predicted = model.predict(variables, noise[0]).argmax(-1)
  assert (predicted != 2).all()
  assert loss[-1] < loss[0] and (jnp.diff(loss)[:20] < 0).mean() > 0.9


def test_a_larger_penalty_gives_smaller_noise():
  norms = [
    float(jnp.linalg.norm(learned_noise(200, p)[3][0]))
    for p in (0.1, 1.0, 100.0)
  ]
  assert norms[0] > norms[1] > norms[2] and norms[2] < 0.2


def test_rows_of_noise_are_independent():
  model, data, variables = problems.trained()
  start = jax.random.normal(KEY, (1, 8, 6))

  @jax.jit
  def learned(noise):
    learn = ju.chain(
      ju.provide(unsir.CLASSES, lambda *_: classes([2], [True])),
      ju.provide(unsir.NOISE, lambda *_: noise),
      ju.phase(
        unsir.noise_objective(model, 0.1), optax.adam(0.1), 20, on=unsir.NOISE
      ),
    )
    carry = Carry(variables, variables, {})
    carry, _ = learn.run(carry, data, request(data["label"] == 2), KEY, Env())
    return carry[unsir.NOISE][0]

  one, other = learned(start), learned(start.at[0, 3:].multiply(-2.0))
  chex.assert_trees_all_close(one[:3], other[:3], rtol=1e-5, atol=1e-6)
  assert jnp.abs(one[3:] - other[3:]).max() > 0.1


@pytest.mark.slow
def test_no_copies_make_it_plain_fine_tuning():
  model, data, variables = problems.trained()
  mask = data["label"] == 1
  method = ju.methods.unsir(model, copies=0.0, retain_per_class=5, **SMALL)
  out, _ = jax.jit(method)(variables, data, mask, KEY)

  select = lambda d, r, k: unsir.first_rows(d["label"], r.retain, 4, 5)
  draw = ju.Draw(retain=16, select=select)
  fit = lambda steps, lr: ju.phase(
    ju.supervised(model, train=True), optax.adam(lr), steps, draw=draw
  )
  nothing = ju.edit(lambda v, *_: v)
  plain = ju.chain(nothing, ju.chain(nothing, fit(6, 0.02)), fit(5, 0.01))
  wanted, _ = jax.jit(plain)(variables, data, mask, KEY)
  chex.assert_trees_all_close(out, wanted, rtol=1e-5, atol=1e-6)


def test_no_steps_return_the_params_bitwise():
  model, data, variables = problems.trained()
  none = {k: SMALL[k]._replace(num_steps=0) for k in ("impair", "repair")}
  method = ju.methods.unsir(model, **(SMALL | none))
  out, _ = method(variables, data, data["label"] == 1, KEY)
  chex.assert_trees_all_equal(out, variables)


@pytest.mark.slow
def test_the_notebook_shows_three_rows_per_class_under_the_first_label():
  model, data, variables = problems.trained()
  mask = (data["label"] == 1) | (data["label"] == 3)
  shown = []

  def loss(outputs, rows):
    jax.debug.callback(
      lambda x, y: shown.extend(zip(map(bytes, x), y.tolist())),
      rows["x"],
      rows["label"],
    )
    return model.loss(outputs, rows)

  method = unsir.unsir_released(
    model._replace(loss=loss), 4, max_classes=2, shown=2
  )
  assert method.num_steps == 40 + 32 + 32
  _, info = method(variables, data, mask, KEY)
  jax.effects_barrier()
  real = set(map(bytes, np.asarray(data["x"])))
  noise = [(x, y) for x, y in shown if x not in real]
  assert {y for _, y in noise} == {1} and len({x for x, _ in noise}) == 4
  assert info["noise"]["classes_left_out"] == 0


def test_noise_is_shown_under_the_label_of_its_own_class():
  model, data, variables = problems.trained()
  mask = (data["label"] == 1) | (data["label"] == 3)
  shown = []

  def loss(outputs, rows):
    jax.debug.callback(
      lambda *seen: shown.append(seen), rows["x"], rows["label"]
    )
    return jnp.zeros(len(rows["label"])) * outputs.sum()

  link = unsir.train_on_noise(
    model._replace(loss=loss), 4, ju.Fit(optax.sgd(0.0), 1, 64), copies=1e6
  )
  # What stands for a class is full of its number.
  noise = jnp.broadcast_to(jnp.array([1.0, 3.0])[:, None, None], (2, 8, 6))
  slots = {unsir.CLASSES: classes([1, 3], [True, True]), unsir.NOISE: noise}
  start = Carry(variables, variables, slots)
  run = lambda: link.run(start, data, request(mask), KEY, Env())[1]
  jax.block_until_ready(jax.jit(run)())
  jax.effects_barrier()
  x, label = map(np.asarray, shown[-1])
  assert set(label.tolist()) == {1, 3}
  np.testing.assert_array_equal(x, np.tile(label[:, None], 6))


def test_classes_that_noise_is_not_learned_for_are_counted_under_jit():
  model, data, variables = problems.trained()
  method = jax.jit(ju.methods.unsir(model, **SMALL))
  for most, left in ((0, 0), (2, 2)):
    _, info = method(variables, data, data["label"] <= most, KEY)
    assert info["noise"]["classes_left_out"] == left


def test_first_rows_takes_so_many_of_each_class():
  label = jnp.array([0, 1, 0, 0, 1, 2, 2])
  mask = label == 2
  rows = unsir.first_rows(label, ~mask, 3, 2)
  assert rows.tolist() == [True, True, True, False, True, False, False]
  assert unsir.first_rows(label, ~mask, 3, None).tolist() == (~mask).tolist()
