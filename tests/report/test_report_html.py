"""The HTML report and the one call that writes everything."""

import base64
import hashlib
import html
import json
import math
import os
import re
from html.parser import HTMLParser

import pytest

from jaxunlearn import report
from jaxunlearn.report import brief, definitions, files, page

VOID = {"meta", "img", "wbr", "br", "link"}
SCRIPT = "<script>alert(1)</script>"
QUOTES = "\"class\" 'three' & <img src=x onerror=alert(2)>"


class Document(HTMLParser):
  """Collects tags, attributes and text, and checks that tags are balanced."""

  def __init__(self, text):
    super().__init__()
    self.open, self.tags, self.attributes, self.text = [], [], [], []
    self.feed(text)
    self.close()
    assert not self.open

  def handle_starttag(self, tag, attrs):
    self.tags.append(tag)
    self.attributes += [(tag, name, value) for name, value in attrs]
    if tag not in VOID:
      self.open.append(tag)

  def handle_endtag(self, tag):
    assert self.open.pop() == tag

  def handle_data(self, data):
    self.text.append(data)


def make_results(method="unsir", request="class 3", config=None, requests=1):
  rows = [
    {
      "method": name,
      "request": request if i == 0 else f"{request} {i}",
      "seed": seed,
      "seconds_compile": 1.0,
      "seconds_run": 2.0,
      "forget_accuracy": value + 0.01 * seed,
      "retrained_gap": math.nan if name == method else value,
    }
    for name, value in [("original", 0.9), ("retrained", 0.1), (method, 0.3)]
    for i in range(requests)
    for seed in range(2)
  ]
  return report.Results(
    "classes", "smoke", "0.10", "cpu", config or {"steps": 3}, rows
  )


def make_text(results, images=None, **more):
  contents = report.Contents(**{"title": "Title", "lead": "Lead.", **more})
  return page.html_text(results, images or {}, contents)


class Painted:
  """A figure as Matplotlib has them."""

  def savefig(self, file, **_):
    file.write(b"\x89PNG")


def trial_of(results, *, margin=0.05, seeds=2):
  """A trial by one rule, of results with a second retrained model."""
  rows = list(results.rows)
  rows += [
    {**row, "method": "retrained_again"}
    for row in rows
    if row["method"] == "retrained"
  ]
  rule = report.Rule("forget_accuracy", margin)
  return report.Trial(rows, [rule], definitions.METRICS)


def judged_text(results, **more):
  trial = trial_of(results)
  return make_text(results._replace(rows=trial.rows), trial=trial, **more)


def own_scripts(text):
  """Scripts that run, by their text."""
  return re.findall(r"<script>(.*?)</script>", text, re.DOTALL)


def test_the_report_is_balanced_html_with_every_section():
  document = Document(make_text(make_results(requests=2), notes=["A note."]))
  ids = {value for _, name, value in document.attributes if name == "id"}
  assert ids == {
    *("verdict", "results", "glossary", "limits", "notes", "provenance")
  }
  text = "".join(document.text)
  assert "Nearest to retraining is unsir" in text
  assert "Low accuracy on the forgotten rows is no proof" in text
  assert "Request: class 3 1" in text
  assert "A note." in text
  assert document.tags.count("details") == 5


def test_rules_about_damage_alone_give_no_answer_about_deletion():
  trial = trial_of(make_results())
  assert brief.brief(trial, trial.rows) is not None
  rule = trial.rules[0]._replace(above="", below="damage")
  trial = trial._replace(rules=[rule])
  assert brief.brief(trial, trial.rows) is None


def test_a_page_that_cannot_answer_says_why_in_its_first_line():
  results = make_results()
  assert "May I say it is deleted?" not in make_text(results)
  text = make_text(results, unanswered="Nothing was to be <deleted>.")
  first = text.index("May I say it is deleted?")
  assert first < text.index("Nothing was to be &lt;deleted&gt;.")
  assert "Nearest to retraining is unsir" in text


def test_hostile_names_are_escaped_everywhere():
  results = make_results(SCRIPT, QUOTES, {SCRIPT: QUOTES, "list": [SCRIPT]}, 2)
  results = results._replace(
    experiment=SCRIPT, device=QUOTES, preset=SCRIPT, jax=QUOTES
  )
  for row in results.rows:
    row[f'"{SCRIPT}'] = 1.0
  text = make_text(
    results,
    {QUOTES: (Painted(), SCRIPT)},
    title=SCRIPT,
    lead=QUOTES,
    notes=[SCRIPT, QUOTES],
  )
  document = Document(text)
  assert own_scripts(text) == page.scripts(False)
  assert document.tags.count("script") == 1
  assert document.tags.count("img") == 1
  names = {name for _, name, _ in document.attributes}
  assert not any(name.startswith("on") for name in names)
  assert "style" not in names
  visible = "".join(document.text)
  assert SCRIPT in visible  # It is shown, not dropped.
  assert QUOTES in visible
  labels = [v for _, name, v in document.attributes if name == "aria-label"]
  assert any(QUOTES in label for label in labels)


def test_the_report_refers_to_nothing_outside_itself():
  text = make_text(make_results(), {"figure": (Painted(), "Caption.")})
  assert "http://" not in text
  assert "https://" not in text
  assert "url(" not in text
  document = Document(text)
  assert not {"link", "iframe", "object", "base"} & set(document.tags)
  sources = [v for _, name, v in document.attributes if name in ("src", "href")]
  expected = base64.b64encode(b"\x89PNG").decode()
  assert sources == [f"data:image/png;base64,{expected}"]


def test_the_content_security_policy_names_style_and_scripts_by_hash():
  chart = report.accuracy_bars(report.summarise(make_results().rows))
  text = make_text(make_results(), {"a": (chart, "Caption.")})
  contents = [v for _, n, v in Document(text).attributes if n == "content"]
  policy = contents[0]
  style = re.search(r"<style>(.*?)</style>", text, re.DOTALL).group(1)
  digest = lambda t: base64.b64encode(hashlib.sha256(t.encode()).digest()).decode()  # fmt: skip
  assert f"style-src 'sha256-{digest(style)}';" in policy
  scripts = own_scripts(text)
  assert len(scripts) == 2  # Vega, and what sorts and highlights.
  names = " ".join(f"'sha256-{digest(script)}'" for script in scripts)
  assert f"script-src {names};" in policy
  assert " style=" not in text.replace(scripts[0], "")
  assert "default-src 'none'" in policy
  assert "unsafe" not in policy
  assert text.index("Content-Security-Policy") < text.index("<style>")


def test_missing_numbers_and_empty_results_still_make_a_report():
  empty = make_results()._replace(rows=[])
  text = "".join(Document(make_text(empty)).text)
  assert "There is no unlearning method in these results." in text
  assert "nan" not in "".join(Document(make_text(make_results())).text)


def test_write_report_writes_every_file(tmp_path):
  results = make_results()
  summary = report.summarise(results.rows)
  figures = {
    "accuracy": (report.accuracy_bars(summary), "How to read it."),
    "distance": (report.distance_plot(summary), "Lower left is best."),
  }
  path = report.write_report(
    tmp_path / "out",
    results,
    report.Contents("Title", "Lead.", notes=["Note."]),
    figures=figures,
  )
  out = tmp_path / "out"
  assert path == out / "report.html"
  found = sorted(
    os.path.relpath(os.path.join(folder, name), out)
    for folder, _, names in os.walk(out)
    for name in names
  )
  assert found == [
    "plots/accuracy.png",
    "plots/distance.png",
    "report.html",
    "results.json",
    "table.md",
  ]
  raw = json.loads((out / "results.json").read_text())
  assert raw["rows"][-1]["retrained_gap"] is None
  assert report.read_results(out / "results.json").experiment == "classes"
  assert "| unsir" in (out / "table.md").read_text()
  text = path.read_text()
  assert text.count("<svg") >= 2  # Pictures that need no script.
  specs = re.findall(r'<script type="application/json">(.*?)</script>', text)
  values = json.loads(specs[0])["layer"][0]["data"]["values"]
  assert values[0]["value"] == pytest.approx(90.5)


def test_the_general_findings_can_be_left_out(tmp_path):
  results = make_results()
  sentence = report.findings(report.summarise(results.rows))[0]
  for wanted in (True, False):
    path = report.write_report(
      tmp_path,
      results,
      report.Contents(
        "T", "L", general_findings=wanted, more_findings=["Mine."]
      ),
    )
    text = path.read_text()
    assert (html.escape(sentence) in text) == wanted
    assert "<li>Mine.</li>" in text
    assert "To be forgotten" in text and "It is what unlearning" in text


def test_a_report_without_a_retrained_model_does_not_speak_of_one(tmp_path):
  results = make_results()
  rows = [
    r for r in results.rows if r["method"] not in ("original", "retrained")
  ]
  path = report.write_report(
    tmp_path,
    results._replace(rows=rows),
    report.Contents("T", "L", general_findings=False),
  )
  text = path.read_text()
  assert "To be forgotten" not in text and "It is what unlearning" not in text


@pytest.mark.parametrize("name", ["../evil", "a/b", "", ".hidden", "a\n"])
def test_figure_names_that_leave_the_folder_are_rejected_first(tmp_path, name):
  figures = {name: (None, "Caption.")}
  with pytest.raises(ValueError, match="figures to be named by letters"):
    report.write_report(
      tmp_path / "out", make_results(), report.Contents("", ""), figures=figures
    )
  assert os.listdir(tmp_path) == []


def test_results_are_safe_even_if_a_figure_fails(tmp_path, monkeypatch):
  def fail(figure):
    raise RuntimeError("no figure")

  monkeypatch.setattr(files, "figure_png", fail)
  with pytest.raises(RuntimeError):
    report.write_report(
      tmp_path,
      make_results(),
      report.Contents("T", ""),
      figures={"a": (None, "")},
    )
  assert sorted(os.listdir(tmp_path)) == ["results.json", "table.md"]
  assert report.read_results(tmp_path / "results.json").preset == "smoke"


def test_broken_results_are_rejected_before_anything_is_written(tmp_path):
  results = make_results()
  results.rows[0]["seed"] = "one"
  with pytest.raises(ValueError, match=r"rows\[0\]\.seed to be an integer"):
    report.write_report(tmp_path, results, report.Contents("T", ""))
  assert os.listdir(tmp_path) == []


def test_the_answer_comes_first_and_the_table_is_ordered_by_the_gap():
  text = judged_text(make_results(), provenance={"command": "python -m x <y>"})
  document = "".join(Document(text).text)
  order = ("May I say it is deleted?", "Main results", "How it was made")
  places = [document.index(words) for words in order]
  assert places == sorted(places)
  assert '<p class="answer no">No: every method left traces' in text
  assert "<pre>python -m x &lt;y&gt;</pre>" in text
  rows = re.findall(r'<tr data-method="(\w+)"', text)[:4]
  assert rows == [
    "retrained",
    "retrained_again",
    "original",
    "unsir",
  ]  # No gap.
  assert "the floor, retraining once more" in document
  # Every mark has its reason: of the verdict, and in the notes below.
  assert re.search(r'class="verdict traces" [^>]*title="class 3: Not', text)
  assert "unsir, traces: class 3: Not forgotten" in document


@pytest.mark.parametrize(
  "values, kind",
  [((0.9, 0.1, 0.1), "yes"), ((0.1, 0.1, 0.1), "open"), ((0.9, 0.1, 0.5), "no")],
)  # fmt: skip
def test_the_answer_is_yes_only_where_tests_see_the_original(values, kind):
  results = make_results()
  for row in results.rows:
    at = ("original", "retrained", "unsir").index(row["method"])
    row["forget_accuracy"] = values[at]
  assert f'<p class="answer {kind}">' in judged_text(results)


def test_rows_that_are_the_same_say_so_and_a_column_has_equal_decimals():
  results = make_results()
  rows = [{**row, "js_to_retrained": 0.5} for row in results.rows]
  rows += [
    {**row, "method": "twin", "seconds_run": 9.0}
    for row in rows
    if row["method"] == "unsir"
  ]
  for row in rows:
    if row["method"] == "original":
      row["js_to_retrained"] = 0.00001
  text = "".join(Document(make_text(results._replace(rows=rows))).text)
  assert "twin: the same as unsir in every number that was measured" in text
  assert "0.5000 ± 0.0000" in text and "<0.0001 ± 0.0000" in text


def test_without_scripts_every_number_and_picture_is_there():
  results = make_results()
  chart = report.accuracy_bars(report.summarise(results.rows))
  text = make_text(results, {"a": (chart, "Caption.")})
  bare = re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL)
  assert "30.5 ± 0.7" in bare and "<title>unsir: Forget accuracy 30.5" in bare
  assert re.search(r'<td data-value="30.5"', bare)


def test_no_script_ends_or_hides_the_element_that_holds_it():
  written = 'a = "</script><!--</SCRIPT >";\r\nb = 1 < c;\r'
  held = page._inline(written)
  assert held == ('a = "\\x3c/script>\\x3c!--\\x3c/SCRIPT >";\nb = 1 < c;\n')
  assert "<" not in page._json({"a</Script>": "<!--<SCRIPT>"})
  for script in page.scripts(True):
    assert "\r" not in script
    assert not re.search(r"<(/script|!--)", script, re.IGNORECASE)


def test_loose_words_are_taken_for_one_release(tmp_path):
  with pytest.warns(DeprecationWarning, match="takes title, lead as fields"):
    path = report.write_report(tmp_path, make_results(), title="Old", lead="")
  assert "Old" in path.read_text()
  with pytest.raises(TypeError, match=r"unexpected keyword arguments \['lead'"):
    report.write_report(
      tmp_path, make_results(), report.Contents("", ""), lead="L"
    )
