"""The page that answers a deletion request."""

import json
import re

import numpy as np
import pytest

from jaxunlearn.report import Certificate, Check, judge
from jaxunlearn.report.certificate import (
  certificate_html,
  digest,
  hash_arrays,
)
from jaxunlearn.report.limits import LIMITS, LIMITS_UNSEEN
from jaxunlearn.report.verdict import BLIND, DAMAGE, TELLTALE, TRACE, WEAK
from jaxunlearn.report.verdict import WORSE as WORSE_TOO

NEAR = Check("forget accuracy", 0.5, 0.5, -0.01, 0.01, 0.05, TRACE, TELLTALE)
OPEN = NEAR._replace(measure="attack", low=-0.5, high=0.5)
FAR = NEAR._replace(measure="relearning", low=0.1, high=0.2)
WORSE = NEAR._replace(low=-0.3, high=-0.2, above="", below=DAMAGE)


def certificate(*checks, **fields):
  made = Certificate(
    "index:<b>rows</b>.txt",
    12,
    "unsir",
    "retain rows",
    {"steps": 3},
    judge(checks),
    checks,
    5,
    {"numbers of the rows": "ab" * 32},
    {"command": "forget --out 'a & b'"},
  )
  return made._replace(**fields)


@pytest.mark.parametrize(
  ("checks", "words"),
  [
    ((NEAR, NEAR), "In 2 tests over 5 seeds the model could not be told"),
    ((NEAR, OPEN), "but 1 of 2 were too weak"),
    ((NEAR, FAR, OPEN), "NOT forgotten: 1 of 3 tests found traces"),
    ((NEAR, WORSE), "worse on what was to be kept"),
    ((NEAR._replace(low=-0.3, high=-0.2),), "shows that something was removed"),
  ],
)
def test_the_sentence_says_no_more_than_the_tests(checks, words):
  made = certificate(*checks)
  can, cannot = made.claims
  assert words in can
  page = certificate_html(made)
  assert can in page.replace("&#39;", "'")
  assert all(sentence in page for sentence in cannot)


@pytest.mark.parametrize("is_retrained", [True, False])
def test_the_sentence_keeps_what_the_verdict_reserves(is_retrained):
  claim = lambda made: made._replace(is_retrained=is_retrained).claims[0]
  weak = claim(certificate(OPEN, WORSE))
  assert "No test found" in weak and weak.endswith(WEAK)
  assert claim(certificate(FAR, WORSE)).endswith(WORSE_TOO)
  blind = judge((NEAR,), control=(NEAR,))
  seeing = judge((NEAR,), control=(FAR,))
  assert claim(certificate(NEAR, verdict=blind)).endswith(BLIND)
  assert "prove little" not in claim(certificate(NEAR, verdict=seeing))


def test_without_a_retrained_model_the_page_speaks_of_none():
  verdict = judge((NEAR, OPEN), standard="what is known")
  made = certificate(NEAR, OPEN, verdict=verdict, is_retrained=False)
  page = certificate_html(made)
  assert LIMITS_UNSEEN[0][1] in page and LIMITS[0][0] in page
  for text in (page, json.dumps(made.to_json()["verdict"])):
    assert "retrained" not in text and "retraining" not in text


def test_what_cannot_be_judged_is_not_claimed():
  made = certificate(NEAR, verdict=judge((NEAR,), doubts=["No standard."]))
  assert made.claims[0] == "Cannot be judged. No standard."


def test_the_digest_covers_all_the_rest():
  made = certificate(NEAR).to_json()
  own = made.pop("digest")
  assert own == digest(json.loads(json.dumps(made)))
  for change in (
    {"rows": 13},
    {"request": "other"},
    {"checks": (NEAR._replace(high=0.02),)},
    {"hashes": {}},
  ):
    assert certificate(NEAR, **change).to_json()["digest"] != own


def test_the_page_is_one_file_and_everything_is_escaped():
  page = certificate_html(certificate(NEAR))
  assert "<b>rows" not in page and "&lt;b&gt;rows" in page
  assert "'a & b'" not in page and "a &amp; b" in page
  assert "<script" not in page
  assert not re.search(r"(src|href)=", page)
  assert certificate(NEAR).to_json()["digest"] in page


def test_hashes_tell_values_shapes_dtypes_and_names_apart():
  tree = {"a": np.arange(6.0)}
  others = [
    {"b": np.arange(6.0)},
    {"a": np.arange(6.0).reshape(2, 3)},
    {"a": np.arange(6)},
    {"a": np.arange(6.0) + 1},
  ]
  found = {hash_arrays(t) for t in (tree, *others)}
  assert len(found) == 5
  assert hash_arrays({"a": np.arange(6.0)}) == hash_arrays(tree)
