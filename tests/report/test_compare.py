"""The page that sets two models side by side, by its text."""

import json
import re
import sys
import types

import compared
import numpy as np
import pytest
from refusals import refused

from jaxunlearn import report
from jaxunlearn.report import comparator, compare_data, page

SCRIPT = "<script>alert(1)</script>"
QUOTES = "\"a\" 'b' & <img src=x onerror=alert(2)>"
RIGHT_TO_LEFT = "\u202egnp.exe"


@pytest.fixture(scope="module")
def text():
  return compared.page()


def shared(text):
  found = re.search(
    r'<script type="application/json" id="shared">(.*?)</script>', text
  )
  return json.loads(found.group(1))


def test_it_is_one_small_file_that_names_nothing_outside(text):
  assert len(text.encode()) < 2.5e6
  own = text.replace(page.scripts(True)[0], "")
  assert not re.search(r"(?:src|href)=\"(?!data:|#)", own)
  assert "https://" not in own and "unsafe" not in own
  scripts = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
  assert len(scripts) == 3 and " style=" not in own


def test_its_data_are_the_records(text):
  values, found = shared(text)["datasets"], compared.records()[0]
  names = list(found)
  assert len(values["rows"]) == compared.ROWS
  for row in values["accuracy"]:
    part = (lambda r: r.train, lambda r: r.test)[row["split"]]
    told = [np.diagonal(part(found[n]).shares)[row["i"]] for n in names]
    np.testing.assert_allclose(row["acc"], told, atol=1e-4)
  assert len(values["curves"]) == 4 * 51
  row = values["curves"][60]
  at = found["lazy"].privacy.curves
  place = row["feature"], row["direction"], row["at"]
  assert row["score"][3] == pytest.approx(float(at.score[place]), abs=1e-4)
  assert row["t"] == pytest.approx(float(at.thresholds[place]), abs=1e-4)
  assert [r["gone"] for r in values["accuracy"][:3]] == [False, False, True]
  first = shared(text)["params"]
  assert (names[first["a"]], names[first["b"]]) == ("retrained", "lazy")


def test_two_models_of_the_same_params_have_no_bars(text):
  values = shared(text)["datasets"]
  a, b = (list(compared.records()[0]).index(n) for n in ("retrained", "copy"))
  for row in values["accuracy"]:
    assert row["acc"][a] == row["acc"][b]
  for row in values["classes"]:
    assert (
      row["share"][a] == row["share"][b] and row["conf"][a] == row["conf"][b]
    )
  for row in values["rows"]:
    assert row["x"][0][a] == row["x"][0][b] and row["pred"][a] == row["pred"][b]
  for row in values["curves"]:
    assert row["score"][a] == row["score"][b] == 0


def test_without_scripts_tables_and_pictures_remain(text):
  bare = re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL)
  assert bare.count("<svg") == 2 + 8 + 2 + 2 + 6
  assert "Privacy score" in bare and "python -m make lazy" in bare
  assert "lazy, training rows" in bare and "copy to retrained" in bare
  assert "traces" in bare and 'id="controls" hidden' in bare


def test_hostile_names_are_text():
  names = {"lazy": SCRIPT, "copy": QUOTES, "original": RIGHT_TO_LEFT}
  text = compared.page(
    compared.models(
      names, provenance={SCRIPT: QUOTES}, verdict={QUOTES: SCRIPT}
    ),
    classes=(SCRIPT, QUOTES, "owl"),
    rows=compared.rows(columns={SCRIPT: [QUOTES] * compared.ROWS}),
    title=SCRIPT,
    lead=QUOTES,
  )
  assert SCRIPT not in text
  assert "<img src=x" not in text
  assert len(re.findall(r"<script>", text)) == 3
  values = shared(text)
  assert SCRIPT in values["params"]["names"]
  assert values["params"]["classes"][0] == SCRIPT
  # Marks that turn the line around have no picture and are shown as a box.
  assert "\u202e" not in text


def test_umap_joins_where_it_is_installed(monkeypatch):
  seen = []

  class UMAP:
    def __init__(self, **settings):
      seen.append(settings)

    def fit_transform(self, x):
      seen.append(x.shape)
      return x[:, 1:3]

  monkeypatch.setitem(sys.modules, "umap", types.SimpleNamespace(UMAP=UMAP))
  found = compare_data.embeddings(list(compared.records()[0].values()))
  assert [f.shape for f in found] == [(4, compared.ROWS, 2)] * 2
  assert seen[0]["n_neighbors"] == 9 and seen[0]["random_state"] == 42
  assert seen[1] == (4 * compared.ROWS, 3)
  for at in found:
    assert at.min() == 0 and at.max() == 1


def test_without_a_retrained_model_the_attack_is_left_out():
  made = [m for m in compared.models() if m.name != "retrained"]
  text = compared.page(made)
  assert 'id="attack"' not in text and 'id="classes"' in text


@pytest.mark.parametrize(
  "fields, message",
  [
    ({"made": slice(0, 1)}, "models to be two or more, got 1"),
    ({"classes": ("a",)}, "classes to be two or more, got 1"),
    ({"classes": ("a", "b")}, "original to have 2 classes, got 3"),
    ({"layers": ("a",)}, "original to have 1 layers, got 2"),
    ({"pair": ("retrained", "x")}, "pair to name two models, got 'x'"),
    ({"made": "twice"}, "different names, got two 'original'"),
  ],
)  # fmt: skip
def test_what_cannot_be_compared_is_refused(fields, message):
  fields, made = dict(fields), compared.models()
  match fields.pop("made", None):
    case "twice":
      made = made[:2] * 2
    case slice() as some:
      made = made[some]
  refused(message, compared.page, made, **fields)


def test_budgets_are_kept(monkeypatch):
  many = compared.rows(label=np.zeros(2001, int), forget=np.zeros(2001, bool))
  refused("at most 2000 rows, got 2001", compared.page, rows=many)
  monkeypatch.setattr(comparator, "MAX_BYTES", 1_000_000)
  refused(r"a page of at most 1 MB, got 1\.\d MB", compared.page)


def test_it_is_written(tmp_path):
  path = tmp_path / "deep" / "compare.html"
  assert compared.page(path=path) == path.read_text()
  assert report.compare is comparator.compare
