"""Exact deletions from end to end: digits, and a user's own data and module."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from refusals import refused

from experiments import bench, data, forget, forget_exact
from experiments.bench import certify
from experiments.datasets import classes
from experiments.studies import forget_exact as study
from jaxunlearn import exact
from jaxunlearn.adapters import orbax

FAST = ["--preset", "smoke", "--train-steps", "24", "--seeds", "2"]


@pytest.mark.slow
def test_a_users_rows_are_deleted_one_by_one(tmp_path, blobs):
  np.savez(tmp_path / "own.npz", **blobs)
  loaded = data.from_npz(str(tmp_path / "own.npz"))
  public = classes.public_rows(loaded, study.PUBLIC)
  asked = [*np.flatnonzero(~public)[7:19], *np.flatnonzero(public)[:3]]
  (tmp_path / "rows.txt").write_text("\n".join(map(str, asked)))
  out = tmp_path / "out"
  forget.main([
    "--exact", *FAST, "--data", f"npz:{tmp_path / 'own.npz'}",
    "--model", "own_models:linen_factory", "--methods", "sisa,s3t_1",
    "--request", f"index:{tmp_path / 'rows.txt'}", "--shards", "2",
    "--slices", "2", "--out", str(out),
  ])  # fmt: skip
  results = json.loads((out / "results.json").read_text())
  assert results["experiment"] == "forget_exact"
  rows = [r for r in results["rows"] if r["request"] == "12 deletions"]
  assert {r["forget_rows"] for r in rows} == {2}  # Since the moment before.
  of = {(r["method"], r["seed"]): r for r in rows}
  for seed in (0, 1):
    assert 0.3 < of["sisa", seed]["deletion_cost"] <= 1
    assert of["sisa", seed]["seconds_deletion"] > 0
    assert of["s3t_1", seed]["deletions_left"] > 0
    assert of["sisa", seed].get("deletions_left") is None
  text = (out / "report.html").read_text()
  assert text.count("alike to the bit") == 2 and "NOT EXACT" not in text
  assert "3 of the rows asked for are public" in text
  # No test looks for traces, so that nothing is to be answered by tests.
  assert "Not yet" not in text and "every method left traces" not in text
  state = orbax.load(out / "params" / "s3t_1").variables
  assert state.model_state["length"].shape == (2, 1)
  present = state.model_state["present"]
  assert int(present.sum()) == len(present) - 12


@pytest.mark.parametrize(
  ("change", "line"),
  [
    ({"shards": 0}, "--shards > 0, got 0"),
    ({"deletions": 0}, "--deletions > 0, got 0"),
    ({"shards": 900, "slices": 90}, "--shards, --slices: Expected a row"),
    ({"methods": "s3t", "slices": 2}, "count <= 2, got count=4"),
    ({"request": "class:3;class:4"}, "one --request, got 2"),
    ({"request": "class:12"}, "--request class:12: Expected a class"),
    ({"methods": "best"}, "Expected --methods usual"),
  ],
)
def test_bad_input_is_one_line(change, line):
  options = forget_exact.Options(preset="smoke", **change)
  with pytest.raises(ValueError, match=line) as found:
    forget_exact.prepare(options)
  assert "\n" not in str(found.value)


def test_copies_of_deleted_rows_are_counted_once_and_told_from_public_ones(
  tmp_path, blobs
):
  """Every row twice: of 24 deleted rows 24 copies stay, some of them public."""
  x, y = (np.concatenate([blobs[k], blobs[k]]) for k in ("x", "y"))
  tests = {f"{k}_test": blobs[k][:9] for k in ("x", "y")}
  np.savez(tmp_path / "own.npz", x=x, y=y, **tests)
  (tmp_path / "rows.txt").write_text("\n".join(map(str, range(24))))
  options = forget_exact.Options(
    preset="smoke",
    data=f"npz:{tmp_path / 'own.npz'}",
    request=f"index:{tmp_path / 'rows.txt'}",
  )
  plan = forget_exact.prepare(options)
  gone = plan.requests.forget[-1, 0]
  twin = np.roll(gone, len(gone) // 2)
  public = plan.requests.marks["public"][0, 0]
  said = [note for note in plan.notes if "copies" in note]
  test = plan.beds.sources[0].test["x"]
  tested = (test[:, None] == x[gone][None]).all(axis=-1).any(axis=1).sum()
  assert said[0].startswith(
    f"{gone.sum()} kept training rows and {tested} test rows are copies"
  )
  shared = int((twin & public).sum())
  assert shared and said[1].startswith(f"{shared} copies of deleted rows are")
  assert len(said) == 2


def test_rows_of_the_backbone_are_never_deleted():
  plan = forget_exact.prepare(forget_exact.Options(preset="smoke"))
  public, order = (plan.requests.marks[k][0] for k in ("public", "order"))
  assert order.shape == (2, 50)
  for own, rows in zip(public, order):
    assert not own[rows].any() and 0.1 < own.mean() < 0.13
    assert len(set(rows.tolist())) == 50
  assert plan.requests.forget.sum(-1).tolist() == [
    [n, n] for n in (10, 20, 30, 40, 50)
  ]
  assert exact.expected_deletions(3, 4, 4) > 1.5 * exact.expected_deletions(
    3, 4, 1
  )


def test_public_rows_are_the_same_whoever_asks(tmp_path):
  plain = forget_exact.prepare(forget_exact.Options(preset="smoke"))
  first = plain.beds.sources[0]
  public = set(first.row_id[first.public].tolist())
  asked = [*sorted(public)[:5], *range(200, 260)]
  (tmp_path / "rows.txt").write_text("\n".join(map(str, asked)))
  for request in ("class:3", f"index:{tmp_path / 'rows.txt'}"):
    options = forget_exact.Options(preset="smoke", request=request)
    plan = forget_exact.prepare(options)
    for split in plan.beds.sources:
      assert set(split.row_id[split.public].tolist()) == public
    order = plan.requests.marks["order"][0]
    assert not split.public[order[-1]].any()
    wanted = len(public & set(asked))
    if request == "class:3":
      wanted = sum(first.train["label"][first.public] == 3)
    (note,) = plan.notes
    assert note.startswith(f"{wanted} of the rows asked for are public")
  (tmp_path / "rows.txt").write_text("\n".join(map(str, asked[:5])))
  refused("none beside 5 public ones", forget_exact.prepare, options)


def test_scales_depend_on_no_row_that_may_be_deleted():
  loaded = data.breast_cancer()
  public = classes.public_rows(loaded, study.PUBLIC)
  assert public.sum() == round(study.PUBLIC * 0.7 * len(public))

  def divided(row):
    x = loaded.pool.rows["x"].copy()
    x[row] += 1000
    pool = loaded.pool._replace(rows={**loaded.pool.rows, "x": x})
    own = loaded._replace(pool=pool)
    return classes.split(own, 1, "report", public=public)

  split = divided([])
  assert split.public.sum() == public.sum()
  np.testing.assert_allclose(
    split.train["x"][split.public].mean(0), 0, atol=1e-5
  )
  gone = split.row_id[~split.public][4]
  other, at = divided(gone), split.row_id != gone
  np.testing.assert_array_equal(other.train["x"][at], split.train["x"][at])
  np.testing.assert_array_equal(other.test["x"], split.test["x"])
  assert not np.allclose(other.train["x"][~at], split.train["x"][~at])
  moved = divided(split.row_id[split.public][0])
  assert not np.allclose(moved.test["x"], split.test["x"])


def test_the_check_changes_inputs_and_labels_of_deleted_rows_alone():
  plan = forget_exact.prepare(forget_exact.Options(preset="smoke"))
  (bed, _), order = study._beds(plan), plan.requests.marks["order"][0, 0]
  other, gone = study._disturbed(bed, order)
  assert np.flatnonzero(gone).tolist() == sorted(order.tolist())
  np.testing.assert_array_equal(other["label"] != bed.data["label"], gone)
  assert int(other["label"].max()) < 10
  np.testing.assert_array_equal(np.isnan(other["x"]).all(axis=(1, 2, 3)), gone)


def test_a_rebuild_is_charged_with_every_stage_that_it_trains():
  plan = forget_exact.prepare(
    forget_exact.Options(preset="smoke", methods="all", train_steps=121)
  )
  assert study._unit(plan) == 41 and study._steps(plan, "sisa") == (123, 0)
  assert study._steps(plan, "s3t_1") == (3 * 1 * 4 * 30, 121)
  assert study._steps(plan, "s3t") == (3 * 4 * 4 * 30, 121)
  # As many stages as the system has, of as many steps.
  shapes = {}
  for name in ("sisa", "s3t"):
    (bed, _), key = study._beds(plan), jax.random.key(0)
    make = study._maker(plan, name)
    state = jax.eval_shape(
      lambda: make(bed.model.init(key, bed.data["x"])).fit(bed.data, key)
    )
    shapes[name] = jax.tree.leaves(state.params)[0].shape
  assert shapes["sisa"][:2] == (3, 5) and shapes["s3t"][:3] == (3, 4, 4)


def test_what_looks_for_no_trace_is_not_certified():
  options = forget_exact.Options(preset="smoke", certificate="sisa")
  refused("forget_exact, which tests none", forget_exact.prepare, options)
  plan = forget_exact.prepare(dataclasses.replace(options, certificate=None))
  damage = bench.Rule("test_accuracy", 0.05, above="", below="damage")
  measures = (plan.measures[0]._replace(rules=(damage,)),)
  plan = plan._replace(options=options, measures=measures)
  refused("forget_exact, which tests none", certify.check, plan)


@pytest.mark.parametrize("same", [1.0, 0.0])
def test_exactness_is_claimed_only_where_the_check_found_it(same):
  plan = forget_exact.prepare(
    forget_exact.Options(preset="smoke", methods="sisa")
  )
  lanes = len(plan.lanes[0])
  traces = {name: np.zeros((lanes, 50)) for name in ("rebuilt", "cost")}
  traces["same"] = np.array([[1.0], [same]] * (lanes // 2))
  values = {"test_accuracy": np.full(lanes, 0.5)}
  found = bench.study.Found(values, np.ones(lanes), None, traces, 0.0, 0.0)
  rows = {"retrained": found, "sisa": found}
  text = " ".join(study.findings(bench.Evidence(plan, rows)))
  assert ("alike to the bit, with every seed" in text) == bool(same)
  assert ("NOT EXACT HERE" in text) != bool(same)
  assert ("with 1 of 2 seeds only" in text) != bool(same)
  assert "No attack" not in plan.study.lead(plan)
