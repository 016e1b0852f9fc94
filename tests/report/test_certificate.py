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
from jaxunlearn.report.verdict import DAMAGE, TELLTALE, TRACE

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
