import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import problems
import pytest
from problems import RECIPE, setting

import jaxunlearn as ju
from jaxunlearn.core import trees
from jaxunlearn.methods.fisher import diagonal_fisher, whole_classes

KEY = jax.random.key(0)


def test_retraining_for_an_empty_request_gives_the_original_bitwise():
  model, data, variables, _ = setting()
  out, _ = jax.jit(ju.methods.retrain(model, **RECIPE))(
    variables, data, jnp.zeros(60, bool), jax.random.key(0)
  )
  chex.assert_trees_all_equal(out, variables)


def test_retraining_is_training_on_the_rest_and_never_sees_the_class():
  model, data, variables, mask = setting()
  out, _ = jax.jit(ju.methods.retrain(model, **RECIPE))(
    variables, data, mask, KEY
  )
  trained, _ = jax.jit(lambda w: ju.train(model, data, w, KEY, **RECIPE))(~mask)
  chex.assert_trees_all_equal(out, trained)
  right = model.predict(out, data["x"]).argmax(-1) == data["label"]
  assert right[mask].mean() == 0 and right[~mask].mean() > 0.9


def test_one_step_of_ascent_adds_the_gradient():
  model, data, variables, mask = setting()
  method = ju.methods.gradient_ascent(
    model, optimizer=optax.sgd(0.1), num_steps=1, batch_size=15
  )
  out, _ = method.compiled(variables, data, mask, KEY)

  def mean_loss(params):
    logits = problems.mlp_apply(params, data["x"][mask])
    return ju.losses.cross_entropy(logits, data["label"][mask]).mean()

  grads = jax.jit(jax.grad(mean_loss))(variables.params)
  wanted = jax.tree.map(lambda p, g: p + 0.1 * g, variables.params, grads)
  chex.assert_trees_all_close(out.params, wanted, rtol=1e-5, atol=1e-6)


def test_any_task_is_fitted_and_prepared_alike():
  """A task of its own: losses with weights, and a link before each fit."""
  model, data, variables, mask = setting()
  shift = ju.Slot("shift")

  def loss(variables, step, key, *, train=False):
    outputs = model.predict(variables, step.rows["x"] + step[shift][None])
    two = jnp.full(step.weight.shape, 2.0)
    return ju.Losses(2 * model.loss(outputs, step.rows), two)

  def centre(carry, data, request, key):
    kept = request.retain[:, None]
    return -jnp.where(kept, data["x"], 0).sum(0) / kept.sum()

  task = ju.Task(
    lambda key, data: model.init(key, data["x"]),
    loss,
    prepare=ju.provide(shift, centre),
  )
  everything = jnp.ones(60, bool)
  original, _ = jax.jit(
    lambda k: ju.train(task, data, everything, k, **RECIPE)
  )(KEY)
  again, _ = jax.jit(ju.methods.retrain(task, **RECIPE))(
    variables, data, ~everything, KEY
  )
  chex.assert_trees_all_equal(again, original)
  fit = ju.Fit(optax.sgd(0.1), 2, 16)
  moved = data["x"] - data["x"][~mask].mean(0)[None]
  for factory in (
    ju.methods.finetune,
    ju.methods.l1_sparse,
    ju.methods.gradient_ascent,
    ju.methods.neggrad_plus,
  ):
    # Its keys are split once more, so that it draws all rows at each step.
    whole = fit._replace(
      batch_size=15 if factory is ju.methods.gradient_ascent else 45
    )
    options = {}
    if factory is ju.methods.neggrad_plus:
      options = {"forget_batch_size": 15}
    out, _ = factory(task, whole, **options).compiled(original, data, mask, KEY)
    wanted, _ = factory(model, whole, **options).compiled(
      original, {**data, "x": moved}, mask, KEY
    )
    chex.assert_trees_all_close(out, wanted, rtol=1e-4, atol=1e-5)


def test_a_ceiling_stops_the_ascent():
  model, data, variables, mask = setting()
  run = lambda ceiling: ju.methods.gradient_ascent(
    model,
    optimizer=optax.sgd(0.5),
    num_steps=60,
    batch_size=15,
    loss_ceiling=ceiling,
  )(variables, data, mask, KEY)[0]
  loss = lambda v: ju.metrics.mean_cross_entropy(
    model.predict(v, data["x"]), data["label"], mask
  )
  assert loss(run(2.0)) < 20 and not loss(run(None)) < 20  # Or nan.
  chex.assert_trees_all_equal(run(0.0), variables)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_neggrad_plus_at_its_ends_is_ascent_or_fine_tuning(share):
  model, data, variables, mask = setting()
  method = ju.methods.neggrad_plus(
    model,
    optimizer=optax.sgd(0.05),
    num_steps=3,
    forget_batch_size=15,
    retain_batch_size=45,
    retain_share=share,
  )
  out, _ = method.compiled(variables, data, mask, KEY)
  # Full batches of each kind, so the order of rows does not matter.
  if share:
    other = ju.methods.finetune(
      model, optimizer=optax.sgd(0.05), num_steps=3, batch_size=45
    )
  else:
    other = ju.methods.gradient_ascent(
      model, optimizer=optax.sgd(0.05), num_steps=3, batch_size=15
    )
  wanted, _ = other.compiled(variables, data, mask, KEY)
  chex.assert_trees_all_close(out, wanted, rtol=1e-4, atol=1e-5)


def relabelled(redraw, exclude_true, steps=6, num_classes=4):
  """The labels that each step of `random_label` trains on, by row."""
  model, data, variables, mask = setting()
  seen = []

  def loss(outputs, rows):
    jax.debug.callback(
      lambda label, x: seen.append((label, x)), rows["label"], rows["x"]
    )
    return jnp.zeros(len(rows["label"])) * outputs.sum()

  method = ju.methods.random_label(
    model._replace(loss=loss),
    num_classes=num_classes,
    optimizer=optax.sgd(0.0),
    num_steps=steps,
    batch_size=60,
    redraw=redraw,
    exclude_true=exclude_true,
  )
  method.compiled(variables, data, mask, KEY)
  jax.effects_barrier()
  order = [np.argsort(x[:, 0]) for _, x in seen]
  labels = np.stack([label[o] for (label, _), o in zip(seen, order)])
  by_x = np.argsort(np.asarray(data["x"])[:, 0])
  return labels, np.asarray(data["label"])[by_x], np.asarray(mask)[by_x]


@pytest.mark.parametrize("redraw", ["once", "epoch", "batch"])
def test_random_labels_are_wrong_and_retain_labels_true(redraw):
  labels, truth, mask = relabelled(redraw, exclude_true=True)
  assert (labels[:, ~mask] == truth[~mask]).all()
  assert (labels[:, mask] != truth[mask]).all()
  assert labels.min() >= 0 and labels.max() < 4
  # Sixty rows a step are one epoch, so that "epoch" draws anew as well.
  same = (labels == labels[:1]).all(axis=0)[mask]
  assert same.all() == (redraw == "once")


def test_random_labels_may_hit_the_truth_if_asked_to():
  labels, truth, mask = relabelled("batch", exclude_true=False, steps=40)
  share = (labels == truth)[:, mask].mean()
  assert abs(share - 0.25) < 5 * (0.25 * 0.75 / (40 * 15)) ** 0.5


def test_layers_come_in_the_order_of_use():
  model, data, variables, _ = setting()
  order = trees.layers(model, variables, data["x"])
  assert [layer[0][0].key for layer in order] == ["hidden", "output"]
  assert [len(layer) for layer in order] == [2, 2]
  # Named against the order of the alphabet, and jitted within.
  swapped = {"z": variables.params["hidden"], "a": variables.params["output"]}

  @jax.jit
  def inner(params, x):
    return problems.mlp_apply({"hidden": params["z"], "output": params["a"]}, x)

  other = ju.Model(
    None, lambda v, x, train=False, key=None: (inner(v.params, x), {}), None
  )
  order = trees.layers(other, ju.Variables(swapped), data["x"])
  assert [layer[0][0].key for layer in order] == ["z", "a"]


def test_the_last_layers_are_counted_from_the_output():
  model, data, variables, _ = setting()
  one = ju.core.last_layers(model, variables, data["x"], 1)
  assert not one["hidden"]["kernel"].any() and one["output"]["bias"].all()
  two = ju.core.last_layers(model, variables, data["x"], 2)
  assert all(leaf.all() for leaf in jax.tree.leaves(two))
  for bad in (0, 3):
    with pytest.raises(ValueError, match=f"layers in 1 .. 2, got {bad}"):
      ju.core.last_layers(model, variables, data["x"], bad)


def test_cf_k_and_eu_k_of_all_layers_are_fine_tuning_and_retraining():
  model, data, variables, mask = setting()
  run = lambda method: jax.jit(method)(variables, data, mask, KEY)[0]
  chex.assert_trees_all_close(
    run(ju.methods.cf_k(model, num_layers=2, **RECIPE)),
    run(ju.methods.finetune(model, **RECIPE)),
    rtol=1e-5,
  )
  chex.assert_trees_all_close(
    run(ju.methods.eu_k(model, num_layers=2, **RECIPE)),
    run(ju.methods.retrain(model, **RECIPE)),
    rtol=1e-5,
  )


def test_cf_k_and_eu_k_leave_the_first_layers_bitwise():
  model, data, variables, mask = setting()
  decayed = RECIPE | {"optimizer": optax.adamw(0.01, weight_decay=0.5)}
  for build in (ju.methods.cf_k, ju.methods.eu_k):
    method = build(model, num_layers=1, **decayed)
    out, _ = jax.jit(method)(variables, data, mask, KEY)
    chex.assert_trees_all_equal(
      out.params["hidden"], variables.params["hidden"]
    )
    assert (
      out.params["output"]["kernel"] != variables.params["output"]["kernel"]
    ).all()


def logged(requests, batch_size=16):
  model, data, _, _ = setting()
  recipe = RECIPE | {"batch_size": batch_size}
  train = lambda requests, key: ju.methods.train_logged(
    model, data, requests, key, **recipe
  )
  return jax.jit(train)(requests, jax.random.key(0))


def test_logging_does_not_change_the_training():
  _, data, variables, _ = setting()
  out, _ = logged(ju.requests.each_class(data["label"], 4))
  chex.assert_trees_all_close(out, variables, rtol=1e-3, atol=1e-6)


def test_taking_back_every_batch_gives_the_initial_params():
  model, data, _, mask = setting()
  # Batches of all rows: each holds every class.
  out, ledger = logged(mask[None], batch_size=60)
  entry = jax.tree.map(lambda leaf: leaf[0], ledger)
  method = ju.methods.amnesiac(
    model, entry, optimizer=optax.adam(0.01), num_steps=0, batch_size=16
  )
  back, _ = method.compiled(out, data, mask, KEY)
  init = jax.jit(model.init)(jax.random.split(jax.random.key(0))[0], data["x"])
  chex.assert_trees_all_close(back, init, atol=1e-5)


def test_the_ledger_is_the_sum_of_the_touched_updates():
  model, data, _, _ = setting()
  one_row = jnp.arange(60)[None] == 7
  out, ledger = logged(one_row, batch_size=60)
  # With one epoch a step every update is touched: the ledger is the whole way.
  init = jax.jit(model.init)(jax.random.split(jax.random.key(0))[0], data["x"])
  whole = jax.tree.map(jnp.subtract, out.params, init.params)
  chex.assert_trees_all_close(
    jax.tree.map(lambda leaf: leaf[0], ledger), whole, atol=1e-5
  )
  _, part = logged(one_row, batch_size=6)
  size = lambda t: sum(jnp.abs(leaf).sum() for leaf in jax.tree.leaves(t))
  assert 0 < size(part) < size(ledger)


def test_amnesiac_subtraction_forgets_the_class_and_repair_heals():
  model, data, variables, mask = setting()
  _, ledger = logged(mask[None])
  entry = jax.tree.map(lambda leaf: leaf[0], ledger)
  method = ju.methods.amnesiac(
    model, entry, optimizer=optax.adam(0.01), num_steps=60, batch_size=16
  )
  out, _ = jax.jit(method)(variables, data, mask, KEY)
  right = model.predict(out, data["x"]).argmax(-1) == data["label"]
  assert right[mask].mean() < 0.2 and right[~mask].mean() > 0.85


def test_fisher_of_logistic_regression_has_its_closed_form():
  x = np.random.default_rng(0).normal(size=(30, 3))
  w = np.array([[0.5, -0.2], [0.1, 0.3], [-0.4, 0.2]])
  model = ju.Model(
    None, lambda v, inputs, train=False, key=None: (inputs @ v.params, {}), None
  )
  weights = np.arange(30) < 20
  data = {"x": jnp.asarray(x, jnp.float32)}
  fisher = diagonal_fisher(
    model,
    ju.Variables(jnp.asarray(w, jnp.float32)),
    data,
    jnp.asarray(weights),
    chunk_size=7,
  )
  p = 1 / (1 + np.exp(-(x @ (w[:, 1] - w[:, 0]))))
  wanted = ((p * (1 - p))[:, None] * x**2)[weights].mean(axis=0)
  np.testing.assert_allclose(fisher[:, 0], wanted, rtol=1e-5)
  np.testing.assert_allclose(fisher[:, 1], wanted, rtol=1e-5)


def test_fisher_noise_has_the_stated_variance():
  model, data, variables, _ = setting()
  mask = jnp.arange(60) < 5  # No whole class.
  method = ju.methods.fisher_forgetting(model, num_classes=4, noise_scale=1e-6)
  keys = jax.random.split(KEY, 4000)
  out, _ = jax.jit(jax.vmap(method, in_axes=(None, None, None, 0)))(
    variables, data, mask, keys
  )
  fisher = diagonal_fisher(model, variables, data, ~mask)
  kernel = np.asarray(fisher["hidden"]["kernel"], np.float64)
  variance = 1e-6 * np.minimum(1 / (kernel + 1e-8), 1e3).mean(0, keepdims=True)
  old = variables.params["hidden"]["kernel"]
  moved = out.params["hidden"]["kernel"] - old[None]
  found = np.asarray(moved, np.float64).var(axis=0)
  np.testing.assert_allclose(
    found, np.broadcast_to(variance, found.shape), rtol=0.15, atol=1e-12
  )
  bias = np.asarray(fisher["output"]["bias"], np.float64)
  moved = (
    out.params["output"]["bias"] - variables.params["output"]["bias"][None]
  )
  np.testing.assert_allclose(
    np.asarray(moved).var(axis=0),
    10 * 1e-6 * np.minimum(1 / (bias + 1e-8), 1e2),
    rtol=0.15,
  )


def test_no_noise_leaves_a_partial_request_alone():
  model, data, variables, mask = setting()
  method = ju.methods.fisher_forgetting(model, num_classes=4, noise_scale=0.0)
  out, _ = method.compiled(variables, data, jnp.arange(60) < 5, KEY)
  chex.assert_trees_all_equal(out, variables)
  out, _ = method.compiled(variables, data, mask, KEY)
  kernel = out.params["output"]["kernel"]
  old = variables.params["output"]["kernel"]
  assert (kernel[:, 1] != old[:, 1]).all()
  np.testing.assert_array_equal(kernel[:, [0, 2, 3]], old[:, [0, 2, 3]])


def test_whole_classes_are_recognised():
  label = jnp.array([0, 0, 1, 1, 2, 0])
  mask = jnp.array([True, True, True, False, False, False])
  retain = ~mask & (jnp.arange(6) < 5)  # The last row is gone already.
  found = whole_classes(label, ju.Request(mask, retain), 4)
  assert found.tolist() == [True, False, False, False]


def scrubbing(model, batch_size=32, **options):
  settings = {"max_epochs": 2, "max_steps": 4, "forget_batch_size": 15}
  fit = ju.Fit(optax.adam(0.01), 6, batch_size)
  return ju.methods.scrub(
    model, fit, **({"num_epochs": 4} | settings | options)
  )


def test_scrub_without_disobeying_is_fine_tuning():
  model, data, variables, mask = setting()
  plain = scrubbing(
    model,
    num_epochs=1,
    max_epochs=0,
    distillation_weight=0.0,
    jitter=0.0,
    batch_size=45,
  )
  out, _ = jax.jit(plain)(variables, data, mask, KEY)
  fit = ju.methods.finetune(
    model, optimizer=optax.adam(0.01), num_steps=6, batch_size=45
  )
  wanted, _ = jax.jit(fit)(variables, data, mask, KEY)
  chex.assert_trees_all_close(out, wanted, rtol=1e-4, atol=1e-5)


def test_scrub_of_no_epochs_and_no_jitter_is_the_identity():
  model, data, variables, mask = setting()
  none = scrubbing(model, num_epochs=0, max_epochs=0, jitter=0.0)
  out, _ = none.compiled(variables, data, mask, KEY)
  chex.assert_trees_all_equal(out, variables)


@pytest.mark.optimized(reason="A tie of two networks, to the last bit.")
@pytest.mark.slow
def test_scrub_has_no_signal_without_its_jitter():
  model, data, variables, mask = setting()
  keys = jax.random.split(KEY, 5)

  def accuracies(jitter):
    method = scrubbing(model, num_epochs=8, max_epochs=4, jitter=jitter)
    many, _ = jax.jit(jax.vmap(method, (None, None, None, 0)))(
      variables, data, mask, keys
    )
    logits = jax.vmap(lambda v: model.predict(v, data["x"]))(many)
    right = logits.argmax(-1) == data["label"][None]
    return right[:, mask].mean(axis=1), right[:, ~mask].mean()

  stuck, _ = accuracies(0.0)
  forget, retain = accuracies(0.01)
  # The noise decides whether a run leaves the tie towards less confidence or,
  # in vain, towards more; without it none leaves at all.
  assert stuck.min() == 1.0 and forget.min() == 0.0 and retain > 0.9


@pytest.mark.slow
def test_rewinding_picks_the_epoch_nearest_to_unseen_rows():
  model, data, variables, _ = setting()
  mask = jnp.arange(60) % 10 == 0
  unseen = problems.blobs(40, seed=3)
  settings = {"num_epochs": 7, "max_epochs": 1, "max_steps": 6}
  last, _ = jax.jit(scrubbing(model, **settings))(variables, data, mask, KEY)
  back, _ = jax.jit(scrubbing(model, rewind_data=unseen, **settings))(
    variables, data, mask, KEY
  )
  wrong = lambda v, d, w: float(
    1 - ju.metrics.accuracy(model.predict(v, d["x"]), d["label"], w)
  )
  share = np.bincount(data["label"][mask], minlength=4) / mask.sum()
  per_class = [wrong(last, unseen, unseen["label"] == c) for c in range(4)]
  reference = float(np.dot(share, per_class))
  gap = lambda v: abs(wrong(v, data, mask) - reference)
  assert gap(back) <= gap(last) + 1e-6
