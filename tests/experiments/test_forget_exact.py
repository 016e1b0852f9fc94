"""Exact deletions from end to end: digits, and a user's own data and module."""

import json

import numpy as np
import pytest

from experiments import forget, forget_exact
from jaxunlearn import exact
from jaxunlearn.adapters import orbax

FAST = ["--preset", "smoke", "--train-steps", "24", "--seeds", "2"]


@pytest.mark.slow
def test_a_users_rows_are_deleted_one_by_one(tmp_path, blobs):
  np.savez(tmp_path / "own.npz", **blobs)
  (tmp_path / "rows.txt").write_text("\n".join(map(str, range(7, 19))))
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
  assert text.count("alike to the bit") >= 2 and "ALIKE" not in text
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
