"""The table of methods: all of them are there, and their settings work."""

import inspect

import jax
import jax.numpy as jnp
import optax
import pytest
from refusals import refused

import jaxunlearn as ju
from jaxunlearn.adapters.flax import from_linen
from jaxunlearn.models import MLP

# They want more than a classifier, or are made for regression.
WANT_MORE = {
  "amnesiac",
  "blindspot",
  "dmm",
  "gaussian_amnesiac",
  "gkt",
  "oracle_matching",
}
RECIPE = ju.Fit(optax.adam(1e-3), 300, 128)


def test_every_method_is_there_or_said_to_be_left_out():
  model = from_linen(MLP(num_classes=10))
  made = ju.methods.defaults(model, 10, RECIPE)
  returns = lambda f: inspect.signature(f).return_annotation == "Transform"
  known = {n for n in ju.methods.__all__ if returns(getattr(ju.methods, n))}
  assert set(made) == known - WANT_MORE
  for name in sorted({"amnesiac", "dmm", "gkt"}):
    assert f"`{name}`" in (ju.methods.defaults.__doc__ or "")
  refused("num_classes", ju.methods.defaults, model, 1, RECIPE)
  bare = ju.methods.defaults(model._replace(features=None), 10, RECIPE)
  assert set(made) - set(bare) == {"laf"}


@pytest.mark.slow
def test_they_forget_a_class_of_digits_and_keep_the_rest():
  from sklearn.datasets import load_digits

  digits = load_digits()
  data = {
    "x": jnp.float32(digits.data / 16),
    "label": jnp.int32(digits.target),
  }
  model = from_linen(MLP(num_classes=10))
  everything = jnp.ones(len(data["label"]), bool)
  variables, _ = ju.train(model, data, everything, jax.random.key(0), RECIPE)
  mask = ju.requests.classes(data["label"], [3])
  for name, method in ju.methods.defaults(model, 10, RECIPE).items():
    after, _ = ju.unlearn(method, variables, data, mask, jax.random.key(1))
    right = model.predict(after, data["x"]).argmax(-1) == data["label"]
    kept = float(right[~mask].mean())
    assert kept > 0.5, (name, kept)
    # Plain SSD as published selects nothing on so small a network.
    if name not in ("ssd", "gradient_ascent", "neggrad_plus"):
      assert float(right[mask].mean()) < 0.5, name
