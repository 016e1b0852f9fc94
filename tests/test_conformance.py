"""What every method must do, method by method."""

import pathlib
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import problems
import pytest

import jaxunlearn as ju

KEY = jax.random.key(0)
ADAM = optax.adam(0.01)
STEPS = {"optimizer": ADAM, "num_steps": 5, "batch_size": 8}
FIT = ju.Fit(ADAM, 5, 8)
FEW = ju.Fit(ADAM, 4, 16)
SALUN = {
  "num_classes": 4,
  "num_epochs": 2,
  "forget_steps": 1,
  "fit": ju.Fit(ADAM, 2, 8),
}
SCRUB = {
  "fit": ju.Fit(ADAM, 3, 16),
  "num_epochs": 3,
  "max_epochs": 2,
  "max_steps": 2,
  "forget_batch_size": 8,
}
NOISE = {"noise": ju.Fit(optax.adam(0.1), 4, 8), "impair": FEW, "repair": FEW}


def regression(model):
  return model._replace(loss=ju.losses.on_targets("l2"))


METHODS = {
  "retrain": lambda m: ju.retrain(m, **STEPS),
  "finetune": lambda m: ju.finetune(m, **STEPS),
  "gradient_ascent": lambda m: ju.gradient_ascent(m, loss_ceiling=5.0, **STEPS),
  "neggrad_plus": lambda m: ju.neggrad_plus(m, FIT, retain_batch_size=16),
  "random_label": lambda m: ju.random_label(m, num_classes=4, **STEPS),
  "random_label_batch": lambda m: ju.random_label(
    m, num_classes=4, redraw="batch", exclude_true=False, **STEPS
  ),
  "random_label_sequential": lambda m: ju.random_label(
    m,
    num_classes=4,
    order="sequential",
    num_epochs=2,
    forget_steps=2,
    redraw="epoch",
    **STEPS,
  ),
  "l1_sparse": lambda m: ju.l1_sparse(m, penalty=1e-3, plain_steps=1, **STEPS),
  "salun": lambda m: ju.salun(m, **SALUN),
  "salun_mixed": lambda m: ju.salun(m, schedule="mixed", **SALUN),
  "ssd": lambda m: ju.ssd(m, alpha=1.0, batch_size=8),
  "ssd_adaptive": lambda m: ju.ssd_adaptive(
    m, selection=10.0, estimator="example", batch_size=8
  ),
  "boundary_shrink": lambda m: ju.boundary_shrink(
    m, radius=0.5, exclude_true=True, **STEPS
  ),
  "boundary_expand": lambda m: ju.boundary_expand(m, **STEPS),
  "influence_unlearning": lambda m: ju.influence_unlearning(
    m, damping=0.1, max_iterations=8, chunk_size=16
  ),
  "amnesiac": lambda m: ju.amnesiac(
    m, jax.tree.map(lambda p: 0.1 * p, problems.trained()[2].params), **STEPS
  ),
  "cf_k": lambda m: ju.cf_k(m, num_layers=1, **STEPS),
  "eu_k": lambda m: ju.eu_k(m, num_layers=1, **STEPS),
  "fisher_forgetting": lambda m: ju.fisher_forgetting(
    m, num_classes=4, noise_scale=1e-4, chunk_size=16
  ),
  "scrub": lambda m: ju.scrub(m, **SCRUB),
  "scrub_rewind": lambda m: ju.scrub(
    m, rewind_data=problems.blobs(20, seed=1), **SCRUB
  ),
  "unsir": lambda m: ju.unsir(
    m, 4, max_classes=2, copies=3.0, retain_per_class=10, **NOISE
  ),
  "zero_shot_noise": lambda m: ju.zero_shot_noise(m, 4, **NOISE),
  "gkt": lambda m: ju.gkt(
    m, 4, cycles=3, learn=ju.Fit(ADAM, 2, 16), z_dim=4, gate=0.3
  ),
  "bad_teacher": lambda m: ju.bad_teacher(m, num_steps=5, batch_size=16),
  "blindspot": lambda m: ju.blindspot(
    regression(m), FIT, blind_fit=ju.Fit(ADAM, 3, 8), attention=0.0
  ),
  "gaussian_amnesiac": lambda m: ju.gaussian_amnesiac(
    regression(m), num_steps=5, batch_size=8
  ),
}
# Their targets are real numbers.
REGRESSION = ("blindspot", "gaussian_amnesiac")
# What each reads of the forget set beside its labels: nothing.
ZERO_GLANCE = (
  "retrain",
  "finetune",
  "l1_sparse",
  "cf_k",
  "eu_k",
  "unsir",
  "amnesiac",
  "zero_shot_noise",
  "gkt",
)
# One-shot edits without a draw: the key is not looked at.
KEYLESS = ("ssd", "ssd_adaptive", "influence_unlearning")
NO_RANDOMNESS_BUT_ROWS = tuple(
  name for name in METHODS if name != "fisher_forgetting"
)
# Rows of METHODS that differ from another one in an option.
VARIANTS = (
  "random_label_batch",
  "random_label_sequential",
  "salun_mixed",
  "ssd_adaptive",
  "scrub_rewind",
)
# Those of several phases or networks, which take long to compile.
HEAVY = ("unsir", "scrub", "salun", "zero_shot_noise", "gkt")


def every(slow):
  return pytest.mark.parametrize(
    "name",
    [
      pytest.param(name, marks=[pytest.mark.slow] if name in slow else [])
      for name in METHODS
    ],
  )


EVERY = every(slow=VARIANTS)
EVERY_LIGHT = every(slow=(*VARIANTS, *HEAVY))


def at(tree, i):
  return jax.tree.map(lambda leaf: leaf[i], tree)


def rows_for(name):
  """The blobs, their labels one-hot where a method wants real targets."""
  data = problems.trained()[1]
  if name not in REGRESSION:
    return data
  return {**data, "label": jax.nn.one_hot(data["label"], 4)}


def setting(name):
  model, data, variables = problems.trained()
  mask = data["label"] == 1
  return METHODS[name](model), variables, rows_for(name), mask


@EVERY_LIGHT
def test_jit_equals_no_jit(name):
  method, variables, data, mask = setting(name)
  plain, info = method(variables, data, mask, KEY)
  jitted, jitted_info = jax.jit(method)(variables, data, mask, KEY)
  chex.assert_trees_all_close(jitted, plain, rtol=1e-4, atol=1e-5)
  chex.assert_trees_all_close(jitted_info, info, rtol=1e-4, atol=1e-5)


@EVERY_LIGHT
def test_vmap_over_requests_and_keys_equals_a_loop(name):
  method, variables, data, _ = setting(name)
  masks = ju.requests.each_class(problems.trained()[1]["label"], 4)
  keys = jax.random.split(KEY, 4)
  many, _ = jax.jit(jax.vmap(method, in_axes=(None, None, 0, 0)))(
    variables, data, masks, keys
  )
  single = jax.jit(method)
  for i in range(4):
    one, _ = single(variables, data, masks[i], keys[i])
    chex.assert_trees_all_close(at(many, i), one, rtol=1e-3, atol=1e-4)


@EVERY
def test_a_second_request_compiles_nothing(name):
  model, data, variables = problems.trained()
  counted, traces = problems.counting(model)
  method = METHODS[name](counted)
  for mask in (data["label"] == 1, data["label"] == 3):
    out, _ = ju.unlearn(method, variables, rows_for(name), mask, KEY)
    jax.block_until_ready(out)
    if mask[1]:
      traced = len(traces)
  assert len(traces) == traced > 0


@EVERY
def test_the_model_moves_and_stays_finite(name):
  method, variables, data, mask = setting(name)
  out, _ = jax.jit(method)(variables, data, mask, KEY)
  moved = jax.tree.map(lambda a, b: jnp.abs(a - b).max(), out, variables)
  assert max(jax.tree.leaves(moved)) > 1e-4
  assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(out))


@EVERY
def test_same_key_same_bits_and_another_key_matters_where_rows_are_drawn(name):
  method, variables, data, mask = setting(name)
  run = jax.jit(method)
  one, two = (run(variables, data, mask, KEY)[0] for _ in range(2))
  chex.assert_trees_all_equal(one, two)
  other, _ = run(variables, data, mask, jax.random.key(5))
  if name in KEYLESS:
    chex.assert_trees_all_equal(one, other)
    return
  gap = jax.tree.map(lambda a, b: jnp.abs(a - b).max(), one, other)
  assert max(jax.tree.leaves(gap)) > 1e-6


@EVERY
def test_shapes_alone_are_enough_and_dtypes_stay(name):
  method, variables, data, mask = setting(name)
  for dtype in (jnp.float32, jnp.bfloat16):
    cast = jax.tree.map(lambda x, d=dtype: x.astype(d), variables)
    if name == "amnesiac" and dtype == jnp.bfloat16:
      continue  # Its ledger is the float32 one of this model's training.
    out, _ = jax.eval_shape(method, cast, data, mask, KEY)
    chex.assert_trees_all_equal_shapes_and_dtypes(
      out, jax.eval_shape(lambda v: v, cast)
    )


@EVERY
def test_a_mask_that_does_not_fit_is_rejected(name):
  method, variables, data, mask = setting(name)
  with pytest.raises(ValueError, match=r"forget_mask of shape \(60,\)"):
    method(variables, data, mask[:-1], KEY)
  with pytest.raises(ValueError, match="dtype bool"):
    jax.jit(method)(variables, data, mask.astype(jnp.int32), KEY)


@EVERY
def test_impossible_requests_are_rejected_by_the_driver(name):
  method, variables, data, mask = setting(name)
  with pytest.raises(ValueError, match="empty request"):
    ju.unlearn(method, variables, data, jnp.zeros_like(mask), KEY)
  with pytest.raises(ValueError, match="covers all 60 rows"):
    ju.unlearn(method, variables, data, jnp.ones_like(mask), KEY)
  broken = {**data, "x": data["x"].at[3, 2].set(jnp.nan)}
  with pytest.raises(ValueError, match=r"data\['x'\] to be finite, got 1"):
    ju.unlearn(method, variables, broken, mask, KEY)


@pytest.mark.parametrize("name", ZERO_GLANCE)
def test_zero_glance_methods_read_no_input_of_the_forget_set(name):
  method, variables, data, mask = setting(name)
  poisoned = {**data, "x": jnp.where(mask[:, None], jnp.nan, data["x"])}
  run = jax.jit(method)
  clean, _ = run(variables, data, mask, KEY)
  other, _ = run(variables, poisoned, mask, KEY)
  chex.assert_trees_all_equal(clean, other)


@EVERY_LIGHT
def test_a_weight_outside_a_mask_keeps_its_bits(name):
  method, variables, data, mask = setting(name)
  only_output = {"hidden": False, "output": True}
  out, _ = jax.jit(ju.masked(method, only_output))(variables, data, mask, KEY)
  chex.assert_trees_all_equal(out.params["hidden"], variables.params["hidden"])
  change = jnp.abs(
    out.params["output"]["kernel"] - variables.params["output"]["kernel"]
  )
  assert change.max() > 1e-4


@EVERY
def test_rows_in_neither_mask_change_no_bit(name):
  method, variables, data, mask = setting(name)
  gone = jnp.arange(60) % 4 == 3
  request = ju.Request(mask & ~gone, ~mask & ~gone)
  spoilt = jax.tree.map(
    lambda leaf: jnp.where(
      gone.reshape(60, *[1] * (leaf.ndim - 1)),
      jnp.nan if jnp.issubdtype(leaf.dtype, jnp.floating) else 0,
      leaf,
    ),
    data,
  )
  run = jax.jit(method)
  clean, _ = run(variables, data, request, KEY)
  other, _ = run(variables, spoilt, request, KEY)
  chex.assert_trees_all_equal(clean, other)
  assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(other))


@pytest.mark.slow
@pytest.mark.parametrize("name", NO_RANDOMNESS_BUT_ROWS)
def test_eight_devices_equal_one(name):
  method, variables, data, mask = setting(name)
  one, _ = jax.jit(method)(variables, data, mask, KEY)
  many, _ = jax.pmap(
    lambda v, _: method(v, data, mask, KEY, axis_name="batch"),
    axis_name="batch",
    in_axes=(None, 0),
  )(variables, jnp.arange(8))
  chex.assert_trees_all_close(at(many, 0), one, rtol=1e-3, atol=1e-4)
  chex.assert_trees_all_equal(at(many, 0), at(many, 7))


def test_needs_say_what_is_read():
  model = problems.mlp()
  kinds = {
    name: [s != 0 for s in METHODS[name](model).needs.sizes] for name in METHODS
  }
  assert kinds["finetune"] == [False, True, False]
  assert kinds["gradient_ascent"] == [True, False, False]
  assert kinds["bad_teacher"] == [False, False, True]
  assert kinds["unsir"] == [False, True, False]
  assert kinds["scrub"] == [True, True, False]
  assert kinds["fisher_forgetting"] == [False, True, False]
  assert kinds["boundary_shrink"] == [True, False, False]
  assert kinds["zero_shot_noise"] == kinds["gkt"] == [False, False, False]
  assert kinds["ssd"] == [True, True, False]


def test_the_public_names_are_sorted_and_exist():
  assert sorted(ju.__all__) == ju.__all__
  assert all(hasattr(ju, name) for name in ju.__all__)
  np.testing.assert_equal(len(set(ju.__all__)), len(ju.__all__))


def test_the_readme_lists_the_methods_that_there_are():
  readme = pathlib.Path(__file__).parents[1] / "README.md"
  cells = [
    line.split("|")[1]
    for line in readme.read_text().splitlines()
    if line.startswith("| `")
  ]
  listed = {name for cell in cells for name in re.findall(r"`(\w+)`", cell)}
  listed -= {"rewind_data"}
  assert listed <= set(ju.__all__)
  variant = r"_(rewind|batch|sequential|mixed|adaptive)$"
  built = {re.sub(variant, "", name) for name in METHODS}
  assert listed == built
