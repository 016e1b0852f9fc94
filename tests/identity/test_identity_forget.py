"""An identity is taken out, and the others stay."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import problems
import pytest
from refusals import refused

import jaxunlearn as ju
from jaxunlearn import identity
from jaxunlearn.core.tasks import Fit, Task
from jaxunlearn.core.types import Losses

KEY = jax.random.key(0)


def embedder():
  """The usual network as a task that compares rows: its weights must count."""
  model, data, variables = problems.trained()

  def loss(v, step, key, *, train=False):
    logits = model.predict(v, step.rows["x"])
    pulled = ju.losses.supervised_contrastive(
      logits, step.rows["label"], 0.5, step.weight
    )
    each = ju.losses.cross_entropy(logits, step.rows["label"])
    return Losses(each + 0.1 * pulled)

  return model, Task(model.init, loss, model.predict), data, variables


FIT_FORGET = Fit(optax.adam(0.02), 60, 16)
RESPOND = lambda model: lambda v, step, key: model.predict(v, step.rows["x"])
WAYS = {
  "uniform": lambda m, t: identity.uniform_teacher(
    t, FIT_FORGET, logits=lambda v, rows: m.predict(v, rows["x"])
  ),
  "anchor": lambda m, t: identity.anchor_to_class(
    t,
    FIT_FORGET,
    respond=RESPOND(m),
    anchor=identity.retain_mean(RESPOND(m)),
  ),
  "reversal": lambda m, t: identity.clipped_reversal(
    t, FIT_FORGET, ceiling=2.0
  ),
}


@pytest.mark.parametrize("way", WAYS)
def test_an_identity_is_forgotten_and_others_are_kept(way):
  model, task, data, variables = embedder()
  mask = data["label"] == 1
  made, info = jax.jit(WAYS[way](model, task))(variables, data, mask, KEY)
  before = problems.class_accuracy(model, variables, data, 1)
  after = problems.class_accuracy(model, made, data, 1)
  assert float(before[0]) > 0.9 and float(after[0]) < 0.5
  assert float(after[1]) > 0.9 and bool(info.is_finite)
  if way == "uniform":
    said = jax.nn.softmax(model.predict(made, data["x"]))[mask]
    assert float(jnp.abs(said - 0.25).max()) < 0.25


def test_a_row_above_the_ceiling_is_left_alone():
  _, task, data, variables = embedder()
  mask, fit = data["label"] == 1, Fit(optax.sgd(0.1), 3, 16)
  run = lambda **options: jax.jit(
    identity.clipped_reversal(task, fit, **options)
  )(variables, data, mask, KEY)[0]
  found = run(ceiling=0.0), run(ceiling=9.0, forget_weight=0.0)
  near = lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5)
  jax.tree.map(near, *found)


def test_forget_rows_have_no_part_in_the_loss_of_the_others():
  model, task, data, variables = embedder()
  mask = data["label"] == 1
  still = identity.anchor_to_class(
    task, FIT_FORGET._replace(num_steps=3), respond=RESPOND(model),
    anchor=RESPOND(model), forget_weight=0.0,
  )  # fmt: skip
  poisoned = {**data, "x": jnp.where(mask[:, None], 50.0, data["x"])}
  run = jax.jit(still)
  found = [run(variables, d, mask, KEY)[0] for d in (data, poisoned)]
  jax.tree.map(np.testing.assert_array_equal, *found)


def test_a_negative_weight_is_refused():
  _, task, _, _ = embedder()
  refused(
    "forget_weight",
    lambda: identity.clipped_reversal(
      task, FIT_FORGET, ceiling=1.0, forget_weight=-1.0
    ),
  )
