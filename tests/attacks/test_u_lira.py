"""U-LiRA: the ratio score, the shadows that unlearn, and the games."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems import blobs, mlp
from refusals import refused
from scipy import stats

from jaxunlearn.attacks import shadow, u_lira
from jaxunlearn.attacks.lira import lira_leave_one_out
from jaxunlearn.metrics import separation_auc

RECIPE = {"optimizer": optax.adam(0.02), "num_steps": 12, "batch_size": 8}
MODEL, DATA = mlp(), blobs(20)
TARGETS = jnp.arange(20) % 4 == 0


def keys(count, seed=0):
  return jax.random.split(jax.random.key(seed), count)


def identity(variables, data, forget_mask, key):
  del data, forget_mask, key
  return variables, None


def draws(models=9, rows=8, queries=1, seed=0):
  rng = np.random.default_rng(seed)
  rank = rng.permuted(
    np.repeat(np.arange(models)[:, None], rows, axis=1), axis=0
  )
  return (
    np.float32(rng.normal(size=(models, rows, queries))),
    rank < 2 * models // 3,
    rank < models // 3,
  )


@functools.cache
def shadows(count=6, retrained=True, unlearn=identity):
  members, forget = shadow.u_lira_masks(jax.random.key(1), count, TARGETS)
  run = jax.jit(
    lambda m, f, k: u_lira.u_lira_shadows(
      MODEL, DATA, m, f, k, unlearn, retrained=retrained, **RECIPE
    )
  )
  return run(members, forget, keys(count))


def test_the_score_is_the_ratio_of_two_normal_densities():
  x, members, forget = draws(12)
  target = np.float32(np.random.default_rng(1).normal(size=(2, 8, 1)))
  found = u_lira.u_lira_scores(target, x, forget, x, ~members)
  assert found.shape == (2, 8)
  wanted = np.zeros((2, 8))
  for row in range(8):
    density = [
      stats.norm.pdf(target[:, row, 0], side.mean(), side.std())
      for side in (
        np.float64(x[forget[:, row], row, 0]),
        np.float64(x[~members[:, row], row, 0]),
      )
    ]
    wanted[:, row] = density[0] / (density[0] + density[1])
  np.testing.assert_allclose(found, wanted, rtol=2e-4, atol=1e-6)
  log_ratio = u_lira.u_lira_scores(
    target, x, forget, x, ~members, log_ratio=True
  )
  np.testing.assert_allclose(
    log_ratio, np.log(wanted / (1 - wanted)), rtol=2e-3, atol=1e-4
  )
  score = jax.jit(lambda t: u_lira.u_lira_scores(t, x, forget, x, ~members))
  np.testing.assert_allclose(score(target[0]), found[0], atol=1e-6)


def spying(variables, data, request, key):
  """Writes into the model what it was given."""
  del key
  total = jnp.where(request.forget[:, None], data["x"], 0).sum()
  # Rows that the shadow never saw are marked by a large number, see below.
  seen = (request.forget | request.retain)[:, None]
  stray = (seen & (jnp.abs(data["x"]) > 1e3)).sum().astype(jnp.float32)
  hidden = variables.params["hidden"]
  params = {
    **variables.params,
    "hidden": {**hidden, "bias": hidden["bias"] + stray + 0 * total},
  }
  return variables._replace(params=params), None


@pytest.mark.slow
def test_a_method_never_sees_rows_that_its_shadow_did_not_train_on():
  members = jnp.arange(20)[None] % 2 == jnp.array([[0], [1]])
  forget = members & TARGETS[None]
  data = {**DATA, "x": jnp.where(members[0][:, None], DATA["x"], 1e4)}
  found = jax.jit(
    lambda: u_lira.u_lira_shadows(
      MODEL, data, members, forget, keys(2), spying, **RECIPE
    )
  )()
  assert (found.unlearned[0] == found.trained[0]).all()
  assert (found.unlearned[1] != found.trained[1]).any()


@pytest.mark.slow
def test_the_identity_changes_no_statistic_and_training_is_that_of_shadows():
  found = shadows()
  assert (found.trained == found.unlearned).all()
  assert found.trained.shape == (6, 20, 1)
  plain = shadow.train_shadows(
    MODEL, DATA, found.train_masks, keys(6), strategy=2, **RECIPE
  )
  np.testing.assert_allclose(found.trained, plain, atol=1e-4)
  again = u_lira.u_lira_shadows(
    MODEL,
    DATA,
    found.train_masks,
    found.forget_masks,
    keys(6),
    identity,
    retrained=True,
    strategy=4,
    **RECIPE,
  )
  np.testing.assert_allclose(found.retrained, again.retrained, atol=1e-4)
  assert (found.retrained != found.trained).any()


@pytest.mark.slow
def test_games_compare_the_rows_that_they_name():
  x, members, forget = draws(12, 10)
  y, z = x + 1, x - 2 * forget[..., None]
  forget[:, 8:], members[:, 8] = False, True  # Rows 8 and 9: no targets.
  statistics = u_lira.ULiraStatistics(y, z, x, members, forget)
  report = jax.jit(u_lira.u_lira_report)(statistics)
  audited = np.arange(10) < 8
  kept, unseen = members & ~forget & audited, ~members & audited
  for game, values, positive, negative in (
    (report.unlearned_vs_out, z, forget, unseen),
    (report.in_vs_unlearned, z, kept, forget),
    (report.retained_before, y, kept, unseen),
    (report.retained_after, z, kept, unseen),
  ):
    assert (game.positive == positive).all()
    assert (game.negative == negative).all()
    scores = np.asarray(game.scores)
    assert (np.isnan(scores) == ~(positive | negative)).all()
    for model, row in ((0, 0), (5, 3), (11, 7)):
      if np.isnan(scores[model, row]):
        continue
      rest = np.arange(12) != model
      wanted = [
        stats.norm.logpdf(values[model, row, 0], s.mean(), s.std())
        for s in (
          np.float64(values[rest & side[:, row], row, 0])
          for side in (positive, negative)
        )
      ]
      wanted = wanted[0] - wanted[1]
      assert abs(scores[model, row] - wanted) < 1e-3 * max(abs(wanted), 1)
    auc = separation_auc(scores[positive], scores[negative])
    assert abs(game.auc - auc) < 1e-5
  # Forgotten rows were pushed 2 down: told from both others.
  assert report.unlearned_vs_out.auc > 0.7
  assert report.unlearned_vs_retrained.scores.shape == (24, 10)
  assert report.unlearned_vs_retrained.auc > 0.7
  same = u_lira.u_lira_report(statistics._replace(retrained=None))
  assert same.unlearned_vs_retrained is None


@pytest.mark.slow
def test_an_identity_leaks_what_lira_finds_and_never_seen_rows_nothing():
  rng = np.random.default_rng(0)
  _, members, forget = draws(30, 60)
  noise = np.float32(rng.normal(size=(30, 60, 1)))
  trained = noise + 2 * members[..., None]
  identical = u_lira.ULiraStatistics(trained, trained, None, members, forget)
  report = u_lira.u_lira_report(identical)
  # N(2, 1) against N(0, 1): AUC Phi(sqrt 2) = 0.921 with known distributions;
  # fits from ten models cost some of it.
  assert 0.85 < report.unlearned_vs_out.auc < 0.94
  scores = lira_leave_one_out(trained, members, center="mean").ravel()
  plain = separation_auc(scores, scores, members.ravel(), ~members.ravel())
  assert abs(report.unlearned_vs_out.auc - plain) < 0.03
  # 600 against 600 scores: four standard errors of an AUC of 1/2 are 0.067.
  assert abs(report.in_vs_unlearned.auc - 0.5) < 0.067
  gone = noise + 2 * (members & ~forget)[..., None]
  report = u_lira.u_lira_report(identical._replace(unlearned=gone))
  assert abs(report.unlearned_vs_out.auc - 0.5) < 0.067
  assert report.in_vs_unlearned.auc > 0.85
  assert report.retained_before.auc == report.retained_after.auc


@pytest.mark.slow
def test_bad_input_is_refused():
  x, members, forget = draws()
  for arguments, options, message in (
    ((x[0, :3], x, forget, x, ~members), {}, "that of unlearned_statistics"),
    (
      (x[0], x[0], forget, x, ~members),
      {},
      "unlearned_statistics \\[S, N, A\\]",
    ),
    ((x[0], x, forget[:2], x, ~members), {}, "unlearned_masks bool"),
    ((x[0], x, forget, x[:2], ~members), {}, "out_masks bool"),
    ((x[0], x, forget & False, x, ~members), {}, "at least 2 unlearned models"),
    ((x[0], x, forget, x, forget & False), {}, "at least 2 out models"),
    ((x[0], x, forget, x, ~members), {"variance": "no"}, "variance to be one"),
    ((x[0], x, forget, x, ~members), {"center": "no"}, "center to be one of"),
  ):
    refused(message, u_lira.u_lira_scores, *arguments, **options)

  def run(m, f):
    u_lira.u_lira_shadows(MODEL, DATA, m, f, keys(3), identity, **RECIPE)

  on = jnp.ones((3, 20), bool)
  refused("part of train_masks, got 60 forget", run, ~on, on)
  refused(r"train_masks bool \[S, 20\]", run, on[:, :3], on)
  refused(r"forget_masks bool \[S, 20\], got int", run, on, on.astype(int))

  def report(**changes):
    whole = u_lira.ULiraStatistics(x, x, None, members, forget)
    return u_lira.u_lira_report(whole._replace(**changes))

  report()
  refused("to select rows, got no row", report, forget_masks=forget & False)
  refused(r"train_masks bool \[9, 8\]", report, train_masks=members[:3])
  refused("unlearned to be finite", report, unlearned=x * np.nan)
  for name, changes in (
    ("IN", {"train_masks": forget}),
    ("OUT", {"train_masks": members | True}),
    ("UNLEARN", {"forget_masks": forget & (np.arange(9)[:, None] < 3)}),
  ):
    refused(f"at least 3 {name} models", report, **changes)
