"""Sentences that are computed from the numbers."""

import math

import numpy as np
import pytest

from jaxunlearn import report


def make_summary(values, seeds=2):
  """{method: {metric: value, or one a request, or [requests][seeds]}}."""
  rows = []
  for method, metrics in values.items():
    table = {
      name: np.broadcast_to(np.asarray(value, float).T, (seeds, 2)).T
      for name, value in metrics.items()
    }
    rows += [
      {
        "method": method,
        "request": f"r{i}",
        "seed": seed,
        "seconds_compile": 1.0,
        "seconds_run": 1.0,
        **{name: float(array[i, seed]) for name, array in table.items()},
      }
      for i in range(2)
      for seed in range(seeds)
    ]
  return report.summarise(rows)


BASE = {
  "original": {"forget_accuracy": 1.0, "retrained_gap": 0.3},
  "retrained": {"forget_accuracy": 0.2, "retrained_gap": 0.0},
}


def test_findings_name_the_nearest_and_who_forgets_too_much_or_too_little():
  summary = make_summary(
    {
      **BASE,
      "wild": {"forget_accuracy": 0.0, "retrained_gap": 0.2},
      "good": {
        "forget_accuracy": 0.205,
        "retrained_gap": 0.012,
        "seconds_run": 0.05,
      },
      "meek": {"forget_accuracy": 0.6, "retrained_gap": 0.35},
      "torn": {"forget_accuracy": [0.0, 0.4], "retrained_gap": 0.15},
    }
  )
  assert report.findings(summary) == [
    "Nearest to retraining is good, with a gap of 1.2 ± 0.0 points; the "
    "original model, before unlearning, has 30.0 ± 0.0 points.",
    "No nearer to retraining than the unchanged original model: meek.",
    "Over-forgetting, accuracy on the forgotten rows below the retrained "
    "model's: wild.",
    "Under-forgetting, accuracy on the forgotten rows above the retrained "
    "model's: meek.",
    "Over-forgetting on some requests and under-forgetting on others: torn.",
    "Accuracy on the forgotten rows about that of the retrained model: good.",
    "good took 0.05 s, 20 times faster than retraining (1.00 s); compilation "
    "is not counted.",
  ]


def test_a_difference_within_the_spread_over_seeds_is_no_finding():
  noisy = {
    "forget_accuracy": [[0.1, 0.5], [0.1, 0.5]],
    "retrained_gap": [[0.0, 0.3], [0.0, 0.3]],
  }
  summary = make_summary({**BASE, "noisy": noisy, "b": BASE["retrained"]})
  sentences = report.findings(summary)
  assert sentences[0].startswith("Nearest to retraining is b")
  assert "Within the spread over seeds, noisy is as near." in sentences
  assert not any("nder-forgetting" in sentence for sentence in sentences)


def test_one_seed_is_called_what_it_is():
  summary = make_summary({**BASE, "a": BASE["original"]}, seeds=1)
  assert any("Only one seed" in text for text in report.findings(summary))
  summary = make_summary({**BASE, "a": BASE["original"]}, seeds=2)
  assert not any("Only one seed" in text for text in report.findings(summary))


def test_a_method_slower_than_retraining_is_not_called_faster():
  summary = make_summary(
    {**BASE, "slow": {"retrained_gap": 0.1, "seconds_run": 3.0}}
  )
  assert any("longer than retraining" in t for t in report.findings(summary))
  for seconds in (0.97, 1.03):
    even = {"retrained_gap": 0.1, "seconds_run": seconds}
    found = report.findings(make_summary({**BASE, "even": even}))
    assert any("about as long as retraining" in text for text in found)


def test_runs_without_a_finite_number_are_named():
  values = {
    "forget_accuracy": [[0.2, math.nan], [0.2, 0.2]],
    "retrained_gap": 0.1,
  }
  summary = make_summary({**BASE, "broken": values})
  assert report.findings(summary)[-1] == (
    "Some runs gave no finite number, so that their means leave those out: "
    "broken."
  )


def test_gap_is_computed_per_request_where_rows_have_none():
  summary = make_summary(
    {
      "retrained": {"forget_accuracy": [0.2, 0.4], "test_accuracy": 0.9},
      "a": {"forget_accuracy": [0.3, 0.3], "test_accuracy": 0.8},
      "b": {"forget_accuracy": [0.2, 0.4]},
    }
  )
  gaps = report.retrained_gaps(summary)
  # Too high on one request and too low on the other must not cancel.
  np.testing.assert_allclose(gaps["a"].mean, 0.1, rtol=1e-12)
  assert gaps["retrained"].mean == 0.0
  assert "b" not in gaps  # It lacks a number that the retrained model has.


def test_nothing_is_claimed_without_methods_or_without_a_retrained_model():
  only = make_summary(BASE)
  assert report.findings(only) == [
    "There is no unlearning method in these results."
  ]
  blind = make_summary({"a": {"forget_accuracy": 0.0}})
  assert len(report.findings(blind)) == 1
  assert "no retrained model" in report.findings(blind)[0]
  bare = make_summary({"a": {}, "retrained": {}})
  assert "No method has numbers" in report.findings(bare)[0]


def test_long_lists_of_names_are_cut_short():
  methods = {f"m{i}": {"forget_accuracy": 0.9} for i in range(10)}
  sentences = report.findings(make_summary({**BASE, **methods}))
  assert any("m5 and 4 more." in sentence for sentence in sentences)


def test_a_method_that_pays_with_the_rows_to_keep_is_called_damaged():
  base = {
    name: {**metrics, "retain_accuracy": 1.0} for name, metrics in BASE.items()
  }
  ruined = {
    "forget_accuracy": 0.2,
    "retain_accuracy": 0.5,
    "retrained_gap": 0.2,
  }
  dented = {**ruined, "retain_accuracy": 0.975}
  found = report.findings(
    make_summary({**base, "ruined": ruined, "dented": dented})
  )
  assert (
    "Damaged, accuracy on the rows to be kept more than 3 points below the "
    "original model's or the retrained model's: ruined." in found
  )
  assert not any("Damaged" in s for s in report.findings(make_summary(BASE)))


def accuracies(forget, retain, test, gap, **more):
  names = [
    "forget_accuracy",
    "retain_accuracy",
    "test_accuracy",
    "retrained_gap",
  ]
  return {**dict(zip(names, (forget, retain, test, gap))), **more}


def test_a_standard_of_another_kind_is_said_first_and_recommends_nothing():
  found = report.findings(
    make_summary(
      {
        "original": accuracies(1.0, 1.0, 0.998, 0.5),
        "retrained": accuracies(0.33, 0.43, 0.414, 0.0),
        "gentle": accuracies(0.75, 0.80, 0.775, 0.4),
        "wrecked": accuracies(0.18, 0.36, 0.364, 0.1),
      }
    )
  )
  assert found == [
    "The retrained model is no standard here: it is right on 43.0 % of the rows "
    "to be kept, the original model on 100.0 %. Their difference is not that of "
    "forgetting, so no method is recommended by its gap to the retrained model.",
    "Damaged, accuracy on the rows to be kept more than 3 points below the "
    "original model's or the retrained model's: gentle and wrecked.",
  ]


@pytest.mark.parametrize(
  ("name", "original", "retrained", "words"),
  [
    ("test_auc", 0.92, 0.9, None),
    (
      "test_auc",
      0.92,
      0.7,
      "AUC on test edges is 0.7, the original model's 0.92",
    ),
    ("test_recall", 0.36, 0.1, "recall of test interactions is 0.1"),
    ("retain_mae", 40.0, 47.0, None),
    ("retain_mae", 40.0, 52.0, "error on rows to be kept is 52"),
    ("retain_mae", 40.0, 28.0, "error on rows to be kept is 28"),
  ],
)
def test_links_recommendations_and_errors_have_a_standard_too(
  name, original, retrained, words
):
  row = lambda value, gap: {name: value, "retrained_gap": gap}
  found = report.findings(
    make_summary(
      {
        "original": row(original, 1.0),
        "retrained": row(retrained, 0.0),
        "a": row(original, 0.5),
      }
    )
  )
  if words is None:
    assert not any("no standard" in sentence for sentence in found)
  else:
    assert "no standard here" in found[0] and words in found[0]
    assert not any("Nearest" in sentence for sentence in found)


@pytest.mark.parametrize(
  ("original", "retrained", "comparable"),
  [
    (1.0, 0.96, True),  # Fewer rows, a little worse.
    (1.0, 0.93, False),
    (0.93, 1.0, False),  # Nor is the better of two the standard of the other.
    ([[0.8, 1.0]] * 2, [[0.7, 0.96]] * 2, True),  # Within the spread.
  ],
)
def test_original_and_retrained_must_be_as_good_on_what_is_kept(
  original, retrained, comparable
):
  summary = make_summary(
    {
      "original": accuracies(1.0, original, 0.9, 0.3),
      "retrained": accuracies(0.3, retrained, 0.9, 0.0),
      "a": accuracies(0.3, original, 0.9, 0.1),
    }
  )
  found = report.findings(summary)
  assert found[0].startswith("Nearest") == comparable
  assert any("Nearest" in s for s in found) == comparable
  assert (report.doubts(summary) == []) == comparable


@pytest.mark.parametrize(
  ("level", "more", "learned"),
  [
    (0.1, {}, False),
    (0.34, {}, False),
    (0.5, {}, False),
    (0.5, {"chance_accuracy": 0.1}, True),
    (0.12, {"chance_accuracy": 0.01}, True),
    (0.72, {"chance_accuracy": 0.7}, False),
    (0.72, {}, True),
    (0.42, {}, True),
    (0.99, {}, True),
  ],
)
def test_models_that_learned_nothing_are_no_standard(level, more, learned):
  all_of = accuracies(level, level, level - 0.01, 0.0, **more)
  values = dict.fromkeys(("original", "retrained", "a"), all_of)
  found = report.findings(make_summary(values))
  assert any("neither has learned anything" in s for s in found) != learned
  assert any(s.startswith("Nearest") for s in found) == learned


@pytest.mark.parametrize(
  ("rows", "said"),
  [
    (1, "Only 2 rows are to be forgotten, so that each counts for 50 points"),
    (0.5, "Only 1 row is to be forgotten, so that each counts for 100 points"),
    ([1, 2], "Only 3 rows are"),
    (2, None),  # Of two requests.
    (50, None),
  ],
)
def test_so_few_rows_rank_nothing(rows, said):
  base = {name: {**v, "forget_rows": rows} for name, v in BASE.items()}
  found = report.findings(make_summary({**base, "a": base["retrained"]}))
  if said:
    assert found[0].startswith(said) and "decide nothing" in found[0]
    assert not any("Nearest" in s or "faster" in s for s in found)
  else:
    assert found[0].startswith("Nearest")


def test_relearning_that_contradicts_the_gap_is_said_beside_it():
  index = lambda method, value: {**BASE[method], "anamnesis_index": value}
  values = {
    "original": index("original", 0.1),
    "retrained": index("retrained", 1.0),
    "hides": index("retrained", 0.2),
    "meek": index("original", 0.3),
    "clean": {**index("retrained", 1.1), "retrained_gap": 0.1},
  }
  found = report.findings(make_summary(values))
  assert found[0] == (
    "Nearest to retraining is hides, with a gap of 0.0 ± 0.0 points; the "
    "original model, before unlearning, has 30.0 ± 0.0 points. Yet it relearns "
    "what it forgot in 20 % of the retrained model's steps: by that measure "
    "traces are left, and the two measures contradict each other."
  )
  assert (
    "Relearning finds traces, fewer steps than the retrained model's, in meek."
    in found
  )
  values["hides"] = index("retrained", [[0.2, 1.6], [0.2, 1.6]])  # By chance.
  assert "relearn" not in report.findings(make_summary(values))[0]


def test_a_sequence_without_a_standard_has_no_drift():
  gaps = {"retrained_gap": [0.1, 0.2], "forget_accuracy": 0.2}
  summary = make_summary(
    {
      "original": {**gaps, "retain_accuracy": 1.0},
      "retrained": {**gaps, "retain_accuracy": 0.5},
      "a": gaps,
    }
  )
  assert report.drift_findings(summary) == []
