import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxunlearn as ju
from experiments import bench
from experiments.beds import classifiers, concepts
from jaxunlearn.adapters.functions import from_functions


def test_ink_is_told_block_by_block():
  x = np.zeros((4, 8, 8, 1), np.float32)
  x[2, :2, 2:4] = 1.0  # The second block of the first row.
  x[3, 6:, 6:] = 1.0
  found = np.asarray(concepts.has_ink(jnp.asarray(x))).reshape(4, 4, 4)
  assert (found[2] == 1).sum() == 1 and found[2, 0, 1] == 1
  assert (found[3] == 1).sum() == 1 and found[3, 3, 3] == 1
  assert (found[:2] == -1).all()
  vectors = concepts.has_ink(jnp.asarray([[0.0, 5.0], [1.0, 4.0], [2.0, 3.0]]))
  assert vectors.tolist() == [[-1, 1], [-1, -1], [1, -1]]


def test_the_class_that_most_rows_have():
  label = jnp.array([0, 2, 2, 1])
  forget = jnp.array([True, True, True, False])
  assert concepts.main_class(label, forget, 3) == 2


def test_targeted_poisoning_aims_at_the_class_with_the_same_concepts():
  """Classes 0 and 1 differ from class 2 by the first number, not the second."""
  rng = np.random.default_rng(0)
  label = np.arange(90) % 3
  x = np.stack([label == 2, label == 1], 1) + 0.05 * rng.normal(size=(90, 2))
  data = {"x": jnp.asarray(x, jnp.float32), "label": jnp.asarray(label)}
  table = jnp.array([[-4.0, 0.0, 4.0], [-3.0, 6.0, -3.0]])
  model = from_functions(
    lambda key, x: {"w": table},
    lambda params, x: x @ params["w"],
    features=lambda v, x: {"features": x},
  )
  variables = ju.Variables({"w": table})
  extra = classifiers.Extra(3, None)
  bed = bench.Bed(model, data, None, None, extra)
  known = concepts.infer(bed, variables, 3)
  assert known.attributions.shape == (3, 2)
  # No second number speaks for class 1, and for class 2 the first one.
  assert known.attributions[1].argmax() == 1
  assert known.attributions[2].argmax() == 0

  fit = ju.Fit(optax.sgd(0.0), 1, 8)
  method = concepts.poison(bed, {"share": 1.0}, fit)
  out, info = method(variables, data, data["label"] == 1, jax.random.key(0))
  assert (out.params["w"] == table).all() and info["relabel"].is_finite
