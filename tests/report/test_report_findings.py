"""Sentences that are computed from the numbers."""

import math

import numpy as np

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
    "retrained model's: ruined." in found
  )
  assert not any("Damaged" in s for s in report.findings(make_summary(BASE)))
