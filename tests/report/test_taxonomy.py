"""Cards, verdicts over probes, and their table."""

import itertools
import json
import math

import pytest
from conformance.cases import CASES, PARTS
from conformance.programs import method
from conformance.test_battery import factories

from jaxunlearn import report
from jaxunlearn.report import cards, taxonomy, taxonomy_table
from jaxunlearn.report.taxonomy import (
  BLACK_BOX,
  FINE_TUNING,
  LEVELS,
  OUTPUT,
  THREATS,
  WHITE_BOX,
  Card,
  Probe,
  judge,
)
from jaxunlearn.report.verdict import DAMAGE, TRACE

REMOVAL = Card("likelihood")
# An attack, and searches for a network.
FORGET_NOTHING = {
  "relearning",
  "darts",
  "emonas",
  "train_network",
  "tune_network",
}
GUARD = Card("output", "outputs", ("inference",), "suppression")


def probes(shares, **more):
  return [
    Probe(t, t, 0.2 + 0.6 * s, 0.2, 0.8, **more) for t, s in shares.items()
  ]


def verdict(*shares, card=REMOVAL, **more):
  return judge(probes(dict(zip(THREATS, shares))), card, **more).verdict


def test_a_share_is_of_what_the_original_has_more_than_gold():
  assert Probe("", OUTPUT, 0.5, 0.2, 0.8).share == pytest.approx(0.5)
  assert Probe("", OUTPUT, 0.8, 0.2, 0.8).share == 1
  assert Probe("", OUTPUT, 0.2, 0.2, 0.8).share == 0
  assert Probe("", OUTPUT, -3.0, 0.2, 0.8).share == 0  # Less than gold.
  assert Probe("", OUTPUT, 9.0, 0.2, 0.8).share == 1
  assert Probe("", OUTPUT, 0.7, 0.8, 0.6).share == pytest.approx(0.5)
  assert math.isnan(Probe("", OUTPUT, 0.5, 0.2, 0.22).share)
  assert math.isnan(Probe("", OUTPUT, math.nan, 0.2, 0.8).share)


def test_the_rules_in_their_order():
  assert verdict(0, 0, 0, 0) == "removed_empirically"  # As retrained.
  assert verdict(1, 1, 1, 1) == "not_forgotten"  # As the original.
  assert verdict(0.05, 0.5, 1, 1) == "surface"
  assert verdict(0.05, 0.05, 0.5, 0) == "suppressed"
  assert verdict(0.05, 0.05, 0, 0.5) == "suppressed"
  assert verdict(0, 0) == "suppressed"  # Nobody looked inside.
  assert verdict() == "not_forgotten"  # Nobody looked at all.
  assert verdict(0, 0, 0, 0, card=GUARD) == "suppressed"
  assert verdict(1, 1, 1, 1, card=GUARD) == "not_forgotten"
  sure = Card("data", guarantee="exact")
  assert verdict(0, 0, 0, 0, card=sure) == "removed_empirically"
  assert verdict(0, 0, 0, 0, card=sure, certified=True) == "exact"
  assert verdict(0, 0, 0, 0, certified=True) == "removed_empirically"
  assert verdict(0, 0.4, 0, 0, threshold=0.5) == "removed_empirically"


def test_a_lower_score_never_weakens_the_verdict():
  """Over all steps of a grid, for every card that has another ceiling."""
  grid = list(itertools.product((0, 0.08, 0.12, 1), repeat=4))
  kinds = (REMOVAL, GUARD, Card("data", guarantee="exact"))
  for card in kinds:
    level = {
      s: LEVELS.index(verdict(*s, card=card, certified=True)) for s in grid
    }
    for s in grid:
      for place, lower in itertools.product(range(4), (0, 0.08, 0.12)):
        if lower < s[place]:
          less = (*s[:place], lower, *s[place + 1 :])
          assert level[less] >= level[s], (less, s)
  assert len(set(level.values())) == 4


def test_what_was_not_tried_is_said():
  full = judge(probes(dict.fromkeys(THREATS, 0.0)), REMOVAL)
  assert full.complete and full.intention_met and full.worst == full.mean == 0
  part = judge(probes({OUTPUT: 0.0, WHITE_BOX: 0.3}), REMOVAL)
  assert not part.complete and not part.intention_met
  assert part.by_threat[BLACK_BOX] is None
  assert part.worst == pytest.approx(0.3) and part.mean == pytest.approx(0.15)
  assert taxonomy.untried(part, "privacy") == (BLACK_BOX, FINE_TUNING)
  assert taxonomy.untried(part, "jailbreak") == (BLACK_BOX,)
  silent = judge(probes({OUTPUT: 0.0}, smallest=0.9), REMOVAL)
  assert silent.shares == {OUTPUT: None} and silent.worst is None
  # A guard has to stand the questions alone.
  asked = judge(probes({OUTPUT: 0.0, BLACK_BOX: 0.0}), GUARD)
  assert asked.complete and asked.intention_met


def test_a_verdict_goes_through_json():
  found = judge(probes({OUTPUT: 0.3}), REMOVAL)
  text = json.dumps(taxonomy.to_json(found), allow_nan=False)
  assert taxonomy.from_json(json.loads(text)) == found
  again = json.dumps(taxonomy.to_json(taxonomy.from_json(json.loads(text))))
  assert again == text
  for change, words in (({"more": 1}, "'more'"), ({"schema": 9}, "schema 1")):
    with pytest.raises(ValueError, match=words):
      taxonomy.from_json({**json.loads(text), **change})


@pytest.mark.parametrize(
  ("call", "words"),
  [
    (lambda: taxonomy.check_card(Card("magic")), "goal of card"),
    (
      lambda: taxonomy.check_card(Card("data", access=("all",)), name="x"),
      "access of the card of x",
    ),
    (lambda: judge([], REMOVAL, threshold=0), r"threshold in \(0, 1\)"),
    (lambda: judge([Probe("a", "me", 0, 0, 1)], REMOVAL), "threat of a"),
    (lambda: judge(probes({OUTPUT: 0}, smallest=0), REMOVAL), "smallest"),
    (
      lambda: taxonomy.untried(judge([], REMOVAL), "war"),
      "area to be one of privacy",
    ),
  ],
)
def test_bad_input_is_one_line(call, words):
  with pytest.raises(ValueError, match=words) as error:
    call()
  assert "\n" not in str(error.value)


def test_every_method_has_a_card_that_agrees_with_its_needs():
  for case in CASES:
    name = case.factory.__name__
    if name in FORGET_NOTHING:
      continue
    card = cards.find(name + case.variant.replace("-", "_"))
    assert card is not None, f"Give {name} a line in jaxunlearn/report/cards.py"
    taxonomy.check_card(card, method(case).needs, name)
  built = {path.rpartition(".")[2] for path in set(factories()) - set(PARTS)}
  assert {"ssd", "npo", "unsir"} <= built


def test_a_card_that_hides_rows_is_refused():
  needs = next(method(c).needs for c in CASES if c.factory.__name__ == "scrub")
  with pytest.raises(ValueError, match="'retain', which a step draws"):
    taxonomy.check_card(Card("data", access=("forget",)), needs, "scrub")
  with pytest.raises(ValueError, match="'forget', which a step draws"):
    taxonomy.check_card(Card("data", access=("retain",)), needs, "scrub")


def a_trial():
  values = {
    "original": (1.0, 0.9, 0.9),
    "retrained": (0.1, 0.5, 0.9),
    "retrained_again": (0.12, 0.5, 0.9),
    "npo_lora": (0.1, 0.7, 0.9),
    "mine": (0.9, 0.5, 0.9),
  }
  rows = [
    {
      **{"method": name, "request": request, "seed": seed},
      **{"seconds_compile": 0.0, "seconds_run": 0.0},
      **{"em": em + 0.3 * (request == "b" and name == "npo_lora")},
      **{"auc": auc, "keep": keep},
    }
    for name, (em, auc, keep) in values.items()
    for request in ("a", "b")
    for seed in (0, 1)
  ]
  rules = (
    report.Rule("em", 0.05, above=TRACE),
    report.Rule("auc", 0.05, above=TRACE, threat=WHITE_BOX),
    report.Rule("keep", 0.05, above="", below=DAMAGE),
  )
  return report.Trial(rows, rules, report.METRICS)


def test_the_table_has_claim_and_finding():
  trial = a_trial()
  own = {name: cards.find(name) for name in ("npo_lora", "mine")}
  assert own["mine"] is None and own["npo_lora"].goal == "likelihood"
  judged = taxonomy_table.depths(trial, own)
  assert judged["a"]["npo_lora"].shares == pytest.approx({"em": 0, "auc": 0.5})
  assert judged["a"]["npo_lora"].verdict == "suppressed"
  assert judged["b"]["npo_lora"].verdict == "not_forgotten"
  made = report.depth_table(trial, own)
  shown = {name: [c.text for c in cells] for name, cells in made.grid.rows}
  # The worst of the requests.
  assert shown["npo_lora"][5:] == ["33", "–", "–", "50", "not_forgotten", "no"]
  assert shown["mine"][:5] == ["–"] * 5 and shown["mine"][-1] == "–"
  assert shown["original"][-2] == "not_forgotten"
  assert shown["retrained_again"][-2] == "removed_empirically"
  account = report.depth_account(trial, own)
  assert json.loads(json.dumps(account, allow_nan=False)) == account
  # With nothing tested there are the cards alone, and without these nothing.
  bare = trial._replace(rules=())
  assert len(report.depth_table(bare, own).grid.metrics) == 5
  assert report.depth_table(bare, {"mine": None}) is None


def test_a_column_that_the_original_has_on_the_wrong_side_says_nothing():
  trial = a_trial()
  rules = (report.Rule("em", 0.05, above="", below=TRACE),)
  judged = taxonomy_table.depths(trial._replace(rules=rules), {})
  assert judged["a"]["mine"].shares == {"em": None}
