"""Small records of models for tests of the comparison and of its page."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

import jaxunlearn as ju
from jaxunlearn import attacks, report

CLASSES = ("cat", "dog", "owl")
ROWS, WIDTH = 45, 4


def linear_model():
  def init(key, x):
    del key
    return ju.Variables({"w": jnp.zeros((x.shape[-1], 3))}, {})

  def apply(variables, x, *, train=False, key=None):
    del train, key
    return x @ variables.params["w"], {}

  def features(variables, x):
    return {"features": jnp.tanh(x @ variables.params["w"]) * 2}

  loss = lambda outputs, rows: outputs[:, 0]
  return ju.Model(init, apply, loss, features)


def data(seed, count=ROWS):
  rng = np.random.default_rng(seed)
  label = np.arange(count) % 3
  x = rng.normal(size=(count, WIDTH)) + 2 * np.eye(3, WIDTH)[label]
  x[:, -1] = 1
  return {"x": jnp.float32(x), "label": jnp.int32(label)}


def weights(forgets, seed=0):
  """A model that tells three classes apart, or never says the last."""
  w = 3 * np.eye(WIDTH, 3) + 0.1 * np.random.default_rng(seed).normal(
    size=(WIDTH, 3)
  )
  if forgets:
    w[:, 2] = [0, 0, 0, -30]
  return ju.Variables({"w": jnp.float32(w)}, {})


@functools.cache
def records():
  """Original, retrained, a copy of it, and one that forgot nothing."""
  model, train = linear_model(), data(0)
  made = {
    "original": weights(False),
    "retrained": weights(True, 1),
    "copy": weights(True, 1),
    "lazy": weights(False, 2),
  }
  forget = train["label"] == 2
  one = jax.jit(
    lambda v: attacks.model_record(
      model,
      v,
      (made["retrained"], made["original"]),
      train,
      data(1),
      forget,
      jnp.arange(ROWS),
      num_classes=3,
    )
  )
  found = {n: jax.tree.map(np.asarray, one(v)) for n, v in made.items()}
  return found, np.asarray(forget), np.asarray(train["label"])


def models(names=None, **fields):
  """`Compared` of all records, perhaps under other names."""
  found = records()[0]
  curve = np.linspace(0, 1, 9), np.linspace(0, 1, 9) ** 0.5
  return [
    report.Compared(
      (names or {}).get(name, name),
      record,
      {"seconds_run": 0.25},
      {"Verdict": "traces"},
      {"command": f"python -m make {name}", "seed": "0"},
      {"LiRA": curve},
    )._replace(**fields)
    for name, record in found.items()
  ]


def rows(**fields):
  _, forget, label = records()
  images = np.linspace(0, 1, ROWS * 64).reshape(ROWS, 8, 8)
  made = report.ComparedRows(label, forget, np.arange(ROWS) + 100, images)
  return made._replace(**fields)


def page(made=None, **fields):
  options = {
    "classes": CLASSES,
    "forgotten": [2],
    "layers": ("features", "outputs"),
    "title": "Side by side",
    **fields,
  }
  return report.compare(
    made or models(), options.pop("rows", rows()), **options
  )
