import pathlib

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import problems
import pytest

import jaxunlearn as ju
from jaxunlearn.core.types import Carry, Env
from jaxunlearn.methods import unsir

GOLDEN = pathlib.Path(__file__).parents[1] / "data"
KEY = jax.random.key(0)
SMALL = {
  "num_classes": 4,
  "max_classes": 1,
  "noise_batch": 8,
  "noise_steps": 10,
  "impair_steps": 6,
  "repair_steps": 5,
  "batch_size": 16,
}


def close(a, b, tolerance=1e-5):
  a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
  assert np.abs(a - b).max() <= tolerance * np.abs(b).max()


def test_noise_in_train_mode_follows_the_released_loop():
  g = np.load(GOLDEN / "unsir__noise_conv_bn_train_mode.npz")
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
    ju.provide(
      "noise_classes",
      lambda *_: (jnp.asarray([g["target_class"]]), jnp.array([True])),
    ),
    ju.provide("noise", lambda *_: jnp.asarray(g["noise"])[None]),
    ju.phase(
      unsir.noise_objective(model, float(g["reg_weight"]), train_mode=True),
      optax.adam(float(g["lr"])),
      3,
      target="noise",
    ),
  )
  variables = ju.Variables(p)
  data = {"x": jnp.zeros((1, 3, 6, 6)), "label": jnp.zeros(1, jnp.int32)}
  carry, info = learn.run(
    Carry(variables, variables, {}), data, jnp.zeros(1, bool), KEY, Env()
  )
  close(info["phase"].loss[0], g["out_code"])
  close(carry.extra["noise"][0], g["noise_after_3_steps"], 1e-4)


def learned_noise(**options):
  model, data, variables = problems.trained()
  settings = {
    "num_classes": 4,
    "max_classes": 2,
    "optimizer": optax.adam(0.1),
    "num_steps": 40,
    "batch_size": 8,
    "penalty": 0.1,
  } | options
  link = unsir.learn_noise(model, **settings)
  mask = data["label"] == 2
  carry, info = link.run(
    Carry(variables, variables, {}), data, mask, KEY, Env()
  )
  return model, variables, carry.extra, info["learn_noise"].loss


def test_noise_makes_the_model_wrong_about_its_class():
  model, variables, extra, loss = learned_noise()
  classes, present = extra["noise_classes"]
  assert classes.tolist()[0] == 2 and present.tolist() == [True, False]
  predicted = model.predict(variables, extra["noise"][0]).argmax(-1)
  assert (predicted != 2).all()
  assert loss[-1] < loss[0] and (jnp.diff(loss)[:20] < 0).mean() > 0.9


def test_a_larger_penalty_gives_smaller_noise():
  norms = [
    float(
      jnp.linalg.norm(learned_noise(penalty=p, num_steps=200)[2]["noise"][0])
    )
    for p in (0.1, 1.0, 100.0)
  ]
  assert norms[0] > norms[1] > norms[2] and norms[2] < 0.2


def test_rows_of_noise_are_independent():
  model, data, variables = problems.trained()
  start = jax.random.normal(KEY, (1, 8, 6))

  def learned(noise):
    learn = ju.chain(
      ju.provide(
        "noise_classes", lambda *_: (jnp.array([2]), jnp.array([True]))
      ),
      ju.provide("noise", lambda *_: noise),
      ju.phase(
        unsir.noise_objective(model, 0.1), optax.adam(0.1), 20, target="noise"
      ),
    )
    carry = Carry(variables, variables, {})
    carry, _ = learn.run(carry, data, data["label"] == 2, KEY, Env())
    return carry.extra["noise"][0]

  one, other = learned(start), learned(start.at[0, 3:].multiply(-2.0))
  chex.assert_trees_all_close(one[:3], other[:3], rtol=1e-5, atol=1e-6)
  assert jnp.abs(one[3:] - other[3:]).max() > 0.1


@pytest.mark.slow
def test_no_copies_make_it_plain_fine_tuning():
  model, data, variables = problems.trained()
  mask = data["label"] == 1
  method = ju.unsir(model, copies=0.0, retain_per_class=5, **SMALL)
  out, _ = jax.jit(method)(variables, data, mask, KEY)

  select = lambda d, m, k: unsir.first_rows(d["label"], m, 4, 5)
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
  none = SMALL | {"impair_steps": 0, "repair_steps": 0}
  method = ju.unsir(model, **none)
  out, _ = method(variables, data, data["label"] == 1, KEY)
  chex.assert_trees_all_equal(out, variables)


@pytest.mark.slow
def test_the_released_label_is_that_of_the_first_class():
  model, data, variables = problems.trained()
  mask = (data["label"] == 1) | (data["label"] == 3)
  shown = {}
  for kind in ("own", "released"):
    seen = []

    def loss(outputs, rows, seen=seen):
      seen.append(rows["label"])
      return jnp.zeros(len(rows["label"])) * outputs.sum()

    link = unsir.impair(
      model._replace(loss=loss),
      num_classes=4,
      optimizer=optax.sgd(0.0),
      num_steps=1,
      batch_size=64,
      copies=1e6,
      noise_label=kind,
    )
    extra = {
      "noise_classes": (jnp.array([1, 3]), jnp.array([True, True])),
      "noise": jnp.zeros((2, 8, 6)),
    }
    with jax.disable_jit():
      link.run(Carry(variables, variables, extra), data, mask, KEY, Env())
    shown[kind] = set(np.asarray(seen[-1]).tolist())
  assert shown == {"own": {1, 3}, "released": {1}}


def test_first_rows_takes_so_many_of_each_class():
  label = jnp.array([0, 1, 0, 0, 1, 2, 2])
  mask = label == 2
  rows = unsir.first_rows(label, mask, 3, 2)
  assert rows.tolist() == [True, True, True, False, True, False, False]
  assert unsir.first_rows(label, mask, 3, None).tolist() == (~mask).tolist()


@pytest.mark.slow
def test_forgetting_and_repair_on_the_blobs():
  model, data, variables = problems.trained()
  mask = data["label"] == 1
  both = SMALL | {"noise_steps": 40, "impair_steps": 20, "repair_steps": 40}

  def accuracy(options):
    method = ju.unsir(model, copies=4.0, retain_per_class=None, **options)
    out, _ = jax.jit(method)(variables, data, mask, KEY)
    right = model.predict(out, data["x"]).argmax(-1) == data["label"]
    return right[mask].mean(), right[~mask].mean()

  forget, retain = accuracy(both)
  _, impaired = accuracy(both | {"repair_steps": 0})
  assert forget <= 0.1 and retain >= 0.9 and retain >= impaired


@pytest.mark.parametrize(
  ("option", "message"),
  [
    ({"max_classes": 5}, "max_classes in 1 .. 4, got 5"),
    ({"noise_penalty": -1.0}, "penalty >= 0"),
    ({"copies": -1.0}, "copies >= 0"),
    ({"noise_label": "mine"}, "noise_label to be one of 'own', 'released'"),
    ({"noise_norm": "l1"}, "norm"),
  ],
)
def test_options_out_of_range_are_rejected(option, message):
  model, data, variables = problems.trained()
  with pytest.raises(ValueError, match=message):
    method = ju.unsir(model, **(SMALL | option))
    method(variables, data, data["label"] == 1, KEY)


def test_integer_inputs_are_refused_since_noise_is_learned():
  model, data, variables = problems.trained()
  whole = {**data, "x": data["x"].astype(jnp.int32)}
  with pytest.raises(ValueError, match="float dtype for noise to be learned"):
    ju.unsir(model, **SMALL)(variables, whole, data["label"] == 1, KEY)
