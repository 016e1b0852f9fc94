"""Words of release 0.1 that are still understood."""

import chex
import jax
import numpy as np
import optax
import problems
import pytest

import jaxunlearn as ju
from jaxunlearn.core.legacy import old_fits

DEFAULT = ju.Fit(optax.sgd(0.1), 5, 8)


@old_fits(fit=("rule", "steps", ""), other=("", "other_steps", "batch"))
def factory(fit=DEFAULT, *, other=DEFAULT, keep=1):
  return fit, other, keep


def test_old_keywords_change_the_fit_that_they_belong_to_and_warn():
  with pytest.warns(DeprecationWarning, match="takes batch, steps as fields"):
    fit, other, keep = factory(steps=3, batch=4, keep=2)
  assert fit == DEFAULT._replace(num_steps=3)
  assert other == DEFAULT._replace(batch_size=4) and keep == 2
  given = DEFAULT._replace(num_steps=9)
  with pytest.warns(DeprecationWarning, match="takes batch"):
    _, other, _ = factory(other=given, batch=4)
  assert other == given._replace(batch_size=4)
  # Warnings are errors here.
  assert factory() == (DEFAULT, DEFAULT, 1)


def test_a_stream_takes_a_forget_mask_for_its_request():
  model, data, variables = problems.trained()
  mask = data["label"] == 1
  rows = jax.tree.map(np.asarray, data)
  run = lambda **asked: ju.stream(
    ju.methods.finetune(
      model, optimizer=optax.sgd(0.1), num_steps=2, batch_size=8
    ),
    variables,
    ju.core.host_batches(rows, np.asarray(mask)),
    jax.random.key(0),
    data=data,
    progress=False,
    **asked,
  )
  old, new = run(forget_mask=mask), run(request=mask)
  chex.assert_trees_all_equal(old, new)
  assert old[1][0][1].forget_count == 15
