"""Selective Synaptic Dampening, against its released code and its limits."""

import importlib

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import setting

from jaxunlearn.core.types import Variables

ssd = importlib.import_module("jaxunlearn.methods.ssd")

KEY = jax.random.key(0)
OPTIONS = ("estimator", "batch_size", "label_free")
importance = jax.jit(ssd.importance, static_argnums=0, static_argnames=OPTIONS)


def importances(mask, **options):
  model, data, variables, _ = setting()
  ones = jnp.ones(60, bool)
  return tuple(
    importance(model, variables, data, w, **options) for w in (mask, ones)
  )


@pytest.mark.slow
def test_the_ratio_of_importances_is_bounded_and_alpha_above_it_is_a_no_op():
  model, data, variables, mask = setting()
  # A feature that is active in the forget set only.
  data = {**data, "x": data["x"].at[:, 0].multiply(mask)}
  count = int(mask.sum())
  f, d = (
    importance(model, variables, data, w, estimator="example")
    for w in (mask, jnp.ones(60, bool))
  )
  ratio = np.asarray(f["hidden"]["kernel"] / d["hidden"]["kernel"])
  live = np.asarray(d["hidden"]["kernel"]) > 0
  assert ratio[live].max() == pytest.approx(60 / count, rel=1e-4)
  no_op = ssd.ssd(model, alpha=60 / count * 1.0001, estimator="example")
  out, info = no_op.compiled(variables, data, mask, KEY)
  chex.assert_trees_all_equal(out, variables)
  assert int(info.selected_count) == 0
  below = ssd.ssd(model, alpha=60 / count * 0.999, estimator="example")
  assert int(below.compiled(variables, data, mask, KEY)[1].selected_count) > 0


@pytest.mark.parametrize("estimator", ["example", "batch"])
@pytest.mark.parametrize(
  "options", [{"alpha": np.inf}, {"alpha": 0.0, "dampening": 1e6}]
)
def test_an_infinite_threshold_or_weak_dampening_changes_nothing(
  estimator, options
):
  model, data, variables, mask = setting()
  method = ssd.ssd(model, estimator=estimator, **options)
  out, _ = method.compiled(variables, data, mask, KEY)
  chex.assert_trees_all_equal(out, variables)


@pytest.mark.parametrize("estimator", ["example", "batch"])
def test_forgetting_everything_multiplies_by_lambda_below_alpha_one(estimator):
  model, data, variables, _ = setting()
  ones = jnp.ones(60, bool)
  run = lambda alpha, lam: ssd.ssd(
    model, alpha=alpha, dampening=lam, estimator=estimator, batch_size=16
  ).compiled(variables, data, ones, KEY)[0]
  chex.assert_trees_all_equal(run(1.0, 0.1), variables)
  f = importance(
    model, variables, data, ones, estimator=estimator, batch_size=16
  )
  wanted = jax.tree.map(
    lambda p, i: jnp.where(i > 0, 0.7 * p, p), variables.params, f
  )
  chex.assert_trees_all_close(run(0.7, 0.7).params, wanted, rtol=1e-6)


def test_lambda_zero_blanks_what_is_selected_and_nothing_else():
  _, _, variables, mask = setting()
  f, d = importances(mask)
  out = ssd.dampen(variables.params, f, d, alpha=2.0, dampening=0.0)
  for p, o, i, j in zip(*map(jax.tree.leaves, (variables.params, out, f, d))):
    selected = np.asarray(i) > 2.0 * np.asarray(j)
    assert (o[selected] == 0).all()
    np.testing.assert_array_equal(o[~selected], p[~selected])


@pytest.mark.parametrize("estimator", ["example", "batch"])
def test_the_scale_of_the_loss_does_not_matter(estimator):
  model, data, variables, mask = setting()
  scaled = model._replace(loss=lambda o, rows: 3.0 * model.loss(o, rows))
  one, two = (
    ssd.ssd_adaptive(m, estimator=estimator, batch_size=16).compiled(
      variables, data, mask, KEY
    )[0]
    for m in (model, scaled)
  )
  chex.assert_trees_all_close(one, two, rtol=1e-4, atol=1e-6)


def test_order_copies_and_chunks_do_not_matter_to_the_paper_estimator():
  model, data, variables, mask = setting()
  order = np.random.default_rng(0).permutation(60)
  twice = np.concatenate([order, order])
  run = lambda rows, size: importance(
    model,
    variables,
    jax.tree.map(lambda x: x[rows], data),
    mask[rows],
    estimator="example",
    batch_size=size,
  )
  wanted = run(np.arange(60), 60)
  for rows, size in ((order, 60), (twice, 7), (np.arange(60), 1)):
    chex.assert_trees_all_close(run(rows, size), wanted, rtol=1e-4, atol=1e-9)


def test_batch_importance_is_a_mean_over_batches_of_forget_rows_alone():
  model, data, variables, mask = setting()
  rows = np.flatnonzero(mask)
  squares = []
  slope = jax.jit(
    jax.grad(
      lambda p, part: model.loss(
        model.predict(Variables(p), data["x"][part]),
        {"label": data["label"][part]},
      ).mean()
    )
  )
  for start in range(0, len(rows), 4):
    grads = slope(variables.params, rows[start : start + 4])
    squares.append(jax.tree.map(lambda g: np.float64(g) ** 2, grads))
  wanted = jax.tree.map(lambda *s: np.mean(s, axis=0), *squares)
  found = importance(
    model, variables, data, mask, estimator="batch", batch_size=4
  )
  chex.assert_trees_all_close(
    found, jax.tree.map(np.float32, wanted), rtol=1e-4, atol=1e-9
  )


def test_label_free_importance_is_the_mean_absolute_slope_of_the_output_norm():
  model, data, variables, mask = setting()
  found = importance(
    model, variables, data, mask, estimator="example", label_free=True
  )
  rows = np.flatnonzero(mask)

  def norm(params, i):
    return (model.predict(Variables(params), data["x"][i][None]) ** 2).sum()

  slope = jax.jit(jax.grad(norm))
  slopes = [slope(variables.params, i) for i in rows]
  wanted = jax.tree.map(lambda *g: np.abs(np.stack(g)).mean(0), *slopes)
  chex.assert_trees_all_close(found, wanted, rtol=1e-4, atol=1e-6)
  blank = {**data, "label": jnp.zeros_like(data["label"])}
  other = importance(
    model, variables, blank, mask, estimator="example", label_free=True
  )
  chex.assert_trees_all_equal(found, other)


def test_weights_only_shrink_and_dead_units_stay():
  model, data, variables, mask = setting()
  params = jax.tree.map(lambda p: p, variables.params)
  params["hidden"]["bias"] = params["hidden"]["bias"].at[2].set(-1e3)
  dead = Variables(params)
  method = ssd.ssd(model, alpha=0.0, dampening=0.5)
  out, _ = method.compiled(dead, data, mask, KEY)
  for p, o in zip(jax.tree.leaves(params), jax.tree.leaves(out.params)):
    assert np.isfinite(o).all()
    assert (np.abs(o) <= np.abs(p)).all() and (o * p >= 0).all()
  np.testing.assert_array_equal(
    out.params["hidden"]["kernel"][:, 2], params["hidden"]["kernel"][:, 2]
  )


def test_a_stored_importance_needs_forget_rows_alone():
  model, data, variables, mask = setting()
  options = {"estimator": "example", "batch_size": 16}
  full = importance(model, variables, data, jnp.ones(60, bool), **options)
  stored = ssd.ssd_adaptive(model, importance_full=full, **options)
  whole = ssd.ssd_adaptive(model, **options)
  assert stored.needs.retain == 0 and whole.needs.retain != 0
  poisoned = {**data, "x": jnp.where(mask[:, None], data["x"], jnp.nan)}
  found, _ = stored.compiled(variables, poisoned, mask, KEY)
  wanted, _ = whole.compiled(variables, data, mask, KEY)
  chex.assert_trees_all_close(found, wanted, rtol=1e-4, atol=1e-6)


def test_the_adaptive_threshold_selects_what_the_percentile_does():
  rng = np.random.default_rng(3)
  f = {"a": rng.lognormal(size=(40, 9)), "b": rng.lognormal(size=31)}
  d = {"a": rng.lognormal(size=(40, 9)), "b": rng.lognormal(size=31)}
  f["a"][0, 0] = d["a"][0, 0] = 0.0
  d["a"][0, 1] = 0.0
  f, d = jax.tree.map(lambda x: x.astype(np.float32), (f, d))
  ratio = np.concatenate(
    [(f[k].ravel() / np.where(d[k] > 0, d[k], np.nan).ravel()) for k in "ab"]
  )
  for q, s in ((0.01, 1.0), (0.1, 1.0), (0.5, 4.0), (1.0, 10.0)):
    percentile = 100 - s * np.log(1 + 100 * q)
    edge = np.nanpercentile(ratio.astype(np.float64), percentile)
    alpha = ssd.adaptive_alpha(f, d, q, selection=s)
    np.testing.assert_array_equal(ratio > float(alpha), ratio > edge)
    # No ratio is the threshold itself, where rounding would decide.
    assert np.nanmin(np.abs(ratio / float(alpha) - 1)) > 1e-5
  assert ssd.adaptive_alpha(f, d, 0.1, selection=0.0) == np.inf
  nothing = jax.tree.map(np.zeros_like, f)
  assert ssd.adaptive_alpha(nothing, nothing, 0.1) == np.inf
