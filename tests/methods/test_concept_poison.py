import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import problems
import pytest
from refusals import refused

import jaxunlearn as ju
from jaxunlearn.core.types import Losses

KEY = jax.random.key(0)
FIT = ju.Fit(optax.adam(0.02), 60, 16)


def run(mask=None, **options):
  model, data, variables = problems.trained()
  mask = data["label"] == 1 if mask is None else mask
  method = ju.methods.concept_poison(
    model, options.pop("fit", FIT), num_classes=4, **options
  )
  return jax.jit(method)(variables, data, mask, KEY)


def labels_shown(**options):
  """The forget rows' labels as the loss sees them, step by step."""
  model, data, variables = problems.trained()
  seen = []

  def loss(variables, step, key, *, train=False):
    jax.debug.callback(
      lambda *a: seen.append(jax.tree.map(np.asarray, a)),
      *(step.rows["label"], step.forget, step.row_id),
    )
    return Losses(0.0 * model.predict(variables, step.rows["x"]).sum(-1))

  spy = ju.Task(model.task.init, loss)
  method = ju.methods.concept_poison(
    spy, FIT._replace(num_steps=40), num_classes=4, **options
  )
  jax.block_until_ready(
    method.compiled(variables, data, data["label"] == 1, KEY)
  )
  jax.effects_barrier()
  label, forget, row = map(np.concatenate, zip(*seen))
  return label[forget], row[forget], label[~forget], row[~forget]


def test_random_labels_are_wrong_and_uniform_and_others_are_true():
  wrong, rows, true, kept = labels_shown()
  counts = np.bincount(wrong, minlength=4)
  assert counts[1] == 0
  # Chi-square with two degrees of freedom.
  rest, mean = counts[[0, 2, 3]], counts.sum() / 3
  assert ((rest - mean) ** 2 / mean).sum() < 10
  np.testing.assert_array_equal(true, np.arange(60)[kept] % 4)
  # Drawn again in another epoch.
  assert max(len(set(wrong[rows == r])) for r in set(rows)) > 1


def test_targeted_labels_are_one_and_scores_choose_rows():
  score = jnp.arange(60.0)
  wrong, rows, _, _ = labels_shown(target=2, share=0.4, score=score)
  assert set(wrong) == {2}
  # Six of fifteen, those with the highest scores.
  gone = np.flatnonzero(np.arange(60) % 4 == 1)
  assert set(rows) == set(gone[-6:])


@pytest.mark.parametrize("target", [None, 2])
def test_the_class_goes_and_the_others_stay(target):
  model, data, _ = problems.trained()
  out, _ = run(target=target)
  said = model.predict(out, data["x"]).argmax(-1)
  gone = data["label"] == 1
  assert (said == 1)[gone].mean() <= 0.05
  assert (said == data["label"])[~gone].mean() > 0.95
  if target is not None:
    assert (said == target)[gone].mean() > 0.9


def test_no_share_is_fine_tuning_and_no_step_is_nothing():
  model, data, variables = problems.trained()
  fit = FIT._replace(num_steps=3)
  out, info = run(share=0.0, fit=fit)
  assert info["relabel"].forget_count == 0
  poisoned = jnp.where(data["label"] == 1, jnp.nan, 1.0)[:, None]
  method = ju.methods.concept_poison(model, fit, num_classes=4, share=0.0)
  same, _ = method(
    variables, {**data, "x": data["x"] * poisoned}, data["label"] == 1, KEY
  )
  chex.assert_trees_all_close(out, same, atol=1e-6)
  nothing, _ = run(fit=FIT._replace(num_steps=0))
  chex.assert_trees_all_equal(nothing, variables)


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"target": 4}, "Expected target in 0 .. 3, got 4"),
    ({"share": 1.5}, "share"),
    ({"score": jnp.zeros(3)}, "Expected score "),
  ],
)
def test_bad_input(options, message):
  refused(message, run, **options)
