import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxunlearn as ju
from experiments.benchmarks import (
  peers,
  peers_harness,
  peers_scoring,
  peers_tasks,
  peers_training,
)
from jaxunlearn import losses
from jaxunlearn.attacks.lira import lira_scores
from jaxunlearn.core import sampling
from jaxunlearn.core.phase import sample_key
from jaxunlearn.core.training import init_variables
from jaxunlearn.core.types import Draw

SIZES = peers_tasks.SMOKE


def peer(run, scores=lambda x: {"value": float(x)}):
  return peers_harness.Peer("other", run, scores)


def case(other, tolerance=0.1):
  return peers_harness.Case(
    "part",
    "adding one",
    lambda x: x + 1,
    lambda seed: (jnp.float32(seed),),
    lambda x: {"value": float(x)},
    (peer(other),),
    {"value": tolerance},
  )


def measured(other, repeats=2, **options):
  rows = peers_harness.measure(case(other, **options), repeats, (1,), str)
  assert len(rows) == 1
  return rows[0]


def test_both_sides_see_the_same_seeds_and_their_scores_are_averaged():
  row = measured(lambda seed: seed + 1.05)
  # Seeds 0 and 1: (1 + 2) / 2 here, 0.05 more there.
  assert row["scores"] == {"value": 1.5}
  assert row["peer_scores"]["value"] == pytest.approx(1.55)
  assert row["agrees"] and row["threads"] is None


@pytest.mark.parametrize("wrong", [lambda seed: 99.0, lambda seed: np.nan])
def test_sides_that_reach_something_else_are_found_out(wrong):
  assert not measured(wrong, repeats=1)["agrees"]


def test_cold_times_count_compiling_and_every_round_compiles_anew():
  traced = []

  def library(x):
    traced.append(1)
    return x + 1

  given = case(lambda seed: seed + 1.0)._replace(library=library)
  row = peers_harness.measure(given, 3, (1,), str)[0]
  assert len(traced) == 3
  assert row["seconds_cold"] >= row["seconds_compile"] > 0
  assert row["ratio"]["median"] < row["warm_ratio"]["median"]
  assert row["ratio"]["low"] <= row["ratio"]["median"] <= row["ratio"]["high"]


def test_a_spread_is_the_median_and_the_extremes():
  assert peers_harness.spread([3.0, 1.0, 10.0]) == (3.0, 1.0, 10.0)


def test_lira_by_row_all_at_once_and_in_the_library_are_the_same():
  rng = np.random.default_rng(0)
  masks = np.argsort(rng.random((8, 20)), axis=0) < 4
  statistics = rng.normal(size=(8, 20, 2)) + masks[..., None]
  target = rng.normal(size=(20, 2))
  by_row = peers_scoring.lira_by_row(target, statistics, masks)
  at_once = peers_scoring.lira_in_numpy(target, statistics, masks)
  np.testing.assert_allclose(by_row, at_once, rtol=1e-12)
  single = (jnp.float32(target), jnp.float32(statistics), jnp.asarray(masks))
  np.testing.assert_allclose(lira_scores(*single), by_row, rtol=2e-4, atol=2e-4)


def test_the_librarys_shadow_models_learn_their_task():
  sizes = SIZES._replace(mlp_steps=150, shadows=2)
  given = peers_tasks.task("MLP", sizes)
  rows = peers_tasks.on_device(given.train)
  assert len(rows["label"]) == sizes.rows
  masks = jnp.ones((2, sizes.rows), bool)
  train = jax.jit(peers_training.train_shadows(given))
  trained = train(rows, masks, jax.random.split(jax.random.key(0), 2))
  logits = jax.vmap(given.model.predict, in_axes=(0, None))(
    trained, given.test["x"]
  )
  assert logits.shape == (2, len(given.test["label"]), 10)
  assert peers_tasks.accuracy(logits, given.test["label"]) > 0.6


def test_tables_name_targets_spreads_and_disagreement():
  row = measured(lambda seed: 99.0, repeats=1)
  low = {"median": 1.5, "low": 1.25, "high": 2.0}
  row |= {"ratio": low, "target": 3.0, "threads": 2}
  text = peers.markdown([row])
  assert "| adding one | other, 2 threads |" in text
  assert "1.50 (1.25-2.00), 3 missed" in text
  assert "DISAGREE: value 1 and 99" in text
  assert "3 met" in peers.markdown([row | {"ratio": low | {"median": 3.0}}])


def test_without_pytorch_one_line_says_so(monkeypatch, capsys):
  monkeypatch.setattr(peers.importlib.util, "find_spec", lambda name: None)
  with pytest.raises(SystemExit) as stop:
    peers.main(peers.Options(preset="smoke"))
  assert stop.value.code == 2
  error = capsys.readouterr().err
  assert error.count("\n") == 1 and "benchmarks]" in error
  peers.check(peers.Options(only=("overhead",)))


@pytest.mark.parametrize(
  ("wrong", "words"),
  [({"repeats": 0}, "--repeats > 0, got 0"), ({"threads": (0,)}, "--threads")],
)
def test_bad_options_are_refused(wrong, words):
  with pytest.raises(ValueError, match=words):
    peers.check(peers.Options(only=("overhead",), **wrong))


@pytest.mark.optimized(reason="It times loops.")
@pytest.mark.slow
def test_the_overhead_is_written_to_files(tmp_path):
  options = peers.Options("smoke", ("overhead",), out=str(tmp_path / "out"))
  rows = peers.main(options)
  assert [row["peer"] for row in rows] == ["bare JAX"]
  result = json.loads((tmp_path / "out" / "results.json").read_text())
  assert result["rows"] == rows
  assert "bare JAX" in (tmp_path / "out" / "table.md").read_text()


# The other side, where PyTorch is installed.


@pytest.fixture
def torch_side():
  pytest.importorskip("torch")
  from experiments.benchmarks import peers_torch

  return peers_torch


@pytest.mark.parametrize("kind", ["MLP", "CNN"])
def test_the_same_batches_give_the_same_model_in_pytorch(torch_side, kind):
  import torch

  steps = 12
  given = peers_tasks.task(kind, SIZES._replace(mlp_steps=steps))
  given = given._replace(steps=steps)
  rows = peers_tasks.on_device(given.train)
  mask = jnp.arange(SIZES.rows) % 2 == 0
  key = jax.random.key(3)
  train = lambda key: ju.train(given.model, rows, mask, key, **given.recipe())
  trained, _ = jax.jit(train)(key)
  init_key, fit_key = jax.random.split(key)
  draw = Draw(retain=given.batch_size)
  plan = sampling.make_plan(rows, ~mask, draw, sample_key(fit_key))
  order = jax.vmap(lambda i: sampling.row_numbers(plan, draw, i).row_id)(
    jnp.arange(steps)
  )
  start = init_variables(given.model, rows, init_key)
  start = torch_side.parameters_of(jax.device_get(start.params))
  module, mine = given.module(), peers_tasks.tensors(given)
  torch_side.load(module, start)
  optimizer = torch.optim.Adam(
    module.parameters(), lr=peers_tasks.LEARNING_RATE
  )
  order = torch.tensor(np.asarray(order)).long()
  torch_side.fit(module, optimizer, mine.x, mine.label, order)
  found = torch_side.predict(module, torch_side.saved(module), mine.test_x)
  wanted = given.model.predict(trained, given.test["x"])
  np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-4)
  untrained = torch_side.predict(given.module(), start, mine.test_x)
  assert np.abs(found - untrained).max() > 0.01


def test_batches_of_pytorch_cover_an_epoch_before_the_next(torch_side):
  import torch

  rows = torch.tensor([3, 5, 8, 9, 11])
  order = torch_side.batches(rows, 5, 3, torch.Generator().manual_seed(0))
  assert order.shape == (5, 3)
  for epoch in order.reshape(3, 5).tolist():
    assert sorted(epoch) == rows.tolist()


def test_the_divergence_is_that_of_the_library(torch_side):
  import torch

  rng = np.random.default_rng(0)
  student, teacher = rng.normal(size=(2, 6, 5)).astype(np.float32)
  found = torch_side.divergence(*map(torch.tensor, (student, teacher)), 2.0)
  wanted = losses.kl_to_teacher(student, teacher, 2.0).mean()
  assert float(found) == pytest.approx(float(wanted), rel=1e-5)


@pytest.mark.optimized(reason="It times loops.")
@pytest.mark.slow
def test_the_whole_command_runs_at_its_smallest(torch_side, tmp_path):
  out = tmp_path / "out"
  rows = peers.main(peers.Options("smoke", threads=(1,), out=str(out)))
  assert {row["part"] for row in rows} == set(peers.get_args(peers.Part))
  assert all(row["agrees"] for row in rows)
  assert (out / "table.md").read_text().count("\n| ") == len(rows) + 2
