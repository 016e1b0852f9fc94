"""MMRecUN and its baselines as transforms."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from closeness import change
from recsys.small_recsys import RECIPE, dataset, embedded, nothing, trained
from refusals import refused

import jaxunlearn as ju
from jaxunlearn import recsys
from jaxunlearn.core.recording import record
from jaxunlearn.core.types import Variables

FEW = {"num_steps": 4, "batch_size": 64}
ADAM = optax.adam(0.01)
KEY = jax.random.key(5)


@functools.cache
def request():
  return recsys.requests.users(dataset().train, [1, 4, 9])


def call(transform, mask, data=None, key=KEY):
  _, variables = trained()
  data = dataset().train if data is None else data
  return jax.jit(transform)(variables, data, mask, key)[0].params


def gap(params, mask):
  """Mean score of the request's items over that of the user's unseen ones."""
  data = dataset()
  model, _ = trained()
  made = embedded(model, params, data.train, mask)
  scores = np.asarray(made.users @ made.items.T)
  pairs = np.asarray(data.train["x"])
  seen = np.zeros(scores.shape, bool)
  seen[pairs[:, 0], pairs[:, 1]] = True
  below = np.array([scores[u][~seen[u]].mean() for u in pairs[:, 0]])
  return (scores[pairs[:, 0], pairs[:, 1]] - below)[np.asarray(mask)].mean()


def close(a, b, **kwargs):
  kwargs = {"rtol": 1e-4, "atol": 1e-5, **kwargs}
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, **kwargs), a, b)


@functools.cache
def joint():
  return recsys.mmrecun(trained()[0], optimizer=ADAM, **FEW)


@pytest.mark.slow
def test_alpha_of_one_is_finetuning():
  model, _ = trained()
  joint = recsys.mmrecun(model, optimizer=ADAM, retain_weight=1.0, **FEW)
  tuned = recsys.finetune(model, optimizer=ADAM, **FEW)
  jax.tree.map(
    np.testing.assert_array_equal,
    call(joint, request()),
    call(tuned, request()),
  )


@pytest.mark.parametrize("schedule", ["joint", "alternate"])
def test_an_empty_request_is_finetuning(schedule):
  model, _ = trained()
  method = recsys.mmrecun(model, optimizer=ADAM, schedule=schedule, **FEW)
  params = call(method, nothing())
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(params))
  if schedule == "joint":
    # The loss of the retained rows is scaled, which Adam takes out but for
    # its epsilon.
    tuned = recsys.finetune(model, optimizer=ADAM, **FEW)
    close(params, call(tuned, nothing()), atol=1e-4)


@pytest.mark.parametrize(
  "schedule",
  [
    "sequential",
    *(pytest.param(s, marks=pytest.mark.slow) for s in ("alternate", "joint")),
  ],
)
def test_every_schedule_forgets_users_and_keeps_the_rest(schedule):
  model, variables = trained()
  steps = {"optimizer": optax.adam(0.02), "num_steps": 60, "batch_size": 128}
  method = recsys.mmrecun(model, schedule=schedule, **steps)
  params = Variables(call(method, request()))
  rest = ~request()
  # The forward steps that end a sequential schedule bring some of it back.
  left = 0.5 if schedule == "sequential" else 0.2
  assert gap(params, request()) < left * gap(variables, request())
  assert gap(params, rest) > 0.5 * gap(variables, rest)


def test_retraining_on_nothing_forgotten_gives_the_original_back():
  model, variables = trained()
  method = recsys.retrain(model, **RECIPE)
  params = call(method, nothing(), key=jax.random.key(1))
  close(params, variables.params, atol=1e-4)


@pytest.mark.parametrize("name", ["mmrecun", "amnesiac", "finetune"])
def test_rows_in_neither_mask_are_never_read(name):
  data, mask = dataset().train, request()
  unseen = recsys.requests.items(data, [2, 5]) & ~mask
  asked = ju.Request(mask, ~mask & ~unseen)
  make = getattr(recsys, name)
  method = make(trained()[0], optimizer=ADAM, graph="full", **FEW)
  other = {"x": jnp.where(unseen[:, None], 10**6, data["x"])}
  jax.tree.map(
    np.testing.assert_array_equal,
    call(method, asked, data),
    call(method, asked, other),
  )


def test_amnesiac_relabels_only_forgotten_rows_with_unseen_items():
  model, variables = trained()
  see, relabel, _ = (
    link
    for link, _ in recsys.amnesiac(model, optimizer=ADAM, **FEW).expand(KEY)
  )
  shown = lambda c: next(v for k, v in c.slots.items() if k.label == "labels")
  method = ju.chain(see, relabel, record("seen", shown))
  data, mask = dataset().train, np.asarray(request())
  _, info = method.compiled(variables, data, request(), KEY)
  labels = np.asarray(info["seen"])
  pairs = np.asarray(data["x"])
  np.testing.assert_array_equal(labels[~mask], pairs[~mask, 1])
  known = {tuple(p) for p in pairs.tolist()}
  drawn = zip(pairs[mask, 0].tolist(), labels[mask].tolist())
  assert not known & set(drawn)


@pytest.mark.slow
def test_mgcn_unlearns_with_its_contrastive_term():
  data = dataset()
  model = recsys.mgcn(24, 20, data.features, dim=4, contrast_weight=0.1)
  plain = model._replace(contrast_weight=0.0)
  variables = jax.jit(model.init)(jax.random.key(0))
  made = []
  for one in (model, plain):
    method = recsys.mmrecun(one, optimizer=ADAM, **FEW)
    params, info = jax.jit(method)(variables, data.train, request(), KEY)
    assert bool(info["unlearn"].is_finite)
    made.append(params)
  assert change(*made) > 1e-4


def test_users_who_have_seen_everything_do_no_harm():
  pairs = np.array([[0, i] for i in range(4)] + [[1, 0], [2, 1]])
  data = {"x": jnp.asarray(pairs)}
  model = recsys.bpr_mf(3, 4, dim=2)
  variables = jax.jit(model.init)(jax.random.key(0))
  step = {"optimizer": optax.sgd(0.1), "num_steps": 1, "batch_size": 4}
  mask = jnp.asarray(pairs[:, 0] == 0)
  method = jax.jit(recsys.reverse_only(model, **step))
  params, info = method(variables, data, mask, KEY)
  jax.tree.map(np.testing.assert_array_equal, params, variables)
  assert float(info["reverse"].loss[0]) == 0


@pytest.mark.slow
def test_an_item_that_only_the_request_holds_is_isolated():
  data = dataset().train
  mask = recsys.requests.items(data, [3])
  model, _ = trained()
  params = call(joint(), mask)
  made = embedded(model, params, data, mask)
  width = params["users"].shape[1] // 2
  # No edge is left: only the first of three layers.
  np.testing.assert_allclose(
    made.items[3, :width], params["items"][3] / 3, rtol=1e-5
  )


def test_bad_options_are_refused():
  model, _ = trained()
  whole = "whole number >= "
  for bad, match in (
    ({"retain_weight": 1.5}, r"retain_weight in \[0, 1\]"),
    ({"schedule": "random"}, "schedule to be one of"),
    ({"graph": "half"}, "graph to be one of"),
    ({"num_steps": -1}, whole + "0"),
    ({"batch_size": 0}, whole + "1"),
    ({"reverse_steps": 500}, r"reverse_steps in 0 \.\. 100"),
  ):
    refused(match, recsys.mmrecun, model, **bad)
  for method in (recsys.amnesiac, recsys.reverse_only, recsys.finetune):
    with pytest.raises(ValueError, match=whole + "1"):
      method(model, optimizer=ADAM, num_steps=1, batch_size=0)
  refused("history to be one of", model.task_on, history="none")


def test_bad_requests_are_refused():
  model, variables = trained()
  data, mask = dataset().train, request()
  soft = mask.astype(jnp.float32)
  far = lambda column, value: {"x": data["x"].at[0, column].set(value)}
  relabel = recsys.amnesiac(model, optimizer=ADAM, **FEW)
  for method, rows, wrong, match in (
    (joint(), far(1, 20), mask, r"item ids in 0 \.\. 19"),
    (joint(), far(0, -1), mask, r"user ids in 0 \.\. 23"),
    (relabel, data, soft, "dtype bool for this method"),
  ):
    refused(match, method, variables, rows, wrong, KEY)
  for rows, weights, match in (
    (far(0, -1), ~mask, r"user ids in 0 \.\. 23"),
    (data, mask[1:], "weights of shape"),
    (data, nothing(), "weights to select rows"),
  ):
    refused(match, recsys.train, model, rows, weights, KEY, **RECIPE)
